"""Reading scribbles from a marked picture."""

import torch
from helpers import assert_close

from torchops import rgb_to_yiq, scribbles_from_marked


def test_marked_pixels_and_their_chroma(device):
    gray = torch.rand(1, 6, 7, device=device).expand(3, 6, 7) * 0.5
    marked = gray.clone()
    marked[0, 2, 3] += 0.25
    marked[2, 5, 6] += 0.125
    hints, mask = scribbles_from_marked(gray, marked)
    assert mask.nonzero().tolist() == [[0, 2, 3], [0, 5, 6]]
    assert_close(hints[:, 2, 3], rgb_to_yiq(marked)[1:, 2, 3], 0)
    assert hints[(~mask).expand_as(hints)].abs().max() == 0


def test_threshold_counts_the_sum_over_channels(device):
    gray = torch.zeros(3, 1, 4, device=device)
    level = 1 / 255
    for levels, expected in [((1, 1, 0), False), ((1, 1, 1), True), ((-1, 2, 0), True)]:
        marked = gray + torch.tensor(levels, device=device)[:, None, None] * level
        assert bool(scribbles_from_marked(gray, marked)[1].all()) is expected
    assert not scribbles_from_marked(gray, gray + 0.25, threshold=0.75)[1].any()
    assert scribbles_from_marked(gray, gray + 0.25, threshold=0.7)[1].all()


def test_one_grey_picture_and_several_markings(device):
    gray = torch.rand(3, 5, 4, device=device)
    hints, mask = scribbles_from_marked(gray, torch.rand(2, 6, 3, 5, 4, device=device))
    assert hints.shape == (2, 6, 2, 5, 4)
    assert mask.shape == (2, 6, 1, 5, 4)
    assert hints.dtype == torch.float32


def test_half_precision_pictures_give_float32_hints(device):
    hints, mask = scribbles_from_marked(
        torch.zeros(3, 2, 2, dtype=torch.float16, device=device),
        torch.ones(3, 2, 2, dtype=torch.float16, device=device),
    )
    assert hints.dtype == torch.float32
    assert mask.all()


def test_gradient_reaches_the_colours():
    gray = torch.rand(3, 3, 3, dtype=torch.float64)
    marked = torch.rand(3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: scribbles_from_marked(gray, m)[0], (marked,))
