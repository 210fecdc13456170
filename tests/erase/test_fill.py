"""erase_boxes fills the boxes and nothing else, in every dtype, layout and way of calling it."""

import numpy as np
import pytest
import torch
from helpers import layouts, photograph, smooth_image
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from torchops import boxes_to_mask, erase_boxes, sample_disjoint_boxes

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WHOLE = [torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64]
BOXES = torch.tensor([[1, 2, 5, 6], [7, 0, 9, 9], [0, 0, 0, 0]])
# Large images are filled slice by slice, small ones under a mask.
SIZES = [(3, 12, 14), (3, 60, 70)]


def draw(batch, height, width, count=(1, 4)):
    return sample_disjoint_boxes(
        batch, height, width, fraction=(0.1, 0.5), count=count, ratio=(0.3, 3.3)
    )


def by_loop(image, boxes, value):
    out = image.clone()
    for x0, y0, x1, y1 in boxes.tolist():
        out[..., y0:y1, x0:x1] = value
    return out


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE, torch.bool])
def test_constant_in_every_dtype(device, shape, dtype):
    image = torch.ones(shape, device=device).to(dtype)
    out = erase_boxes(image, BOXES.to(device), value=0)
    assert out.dtype == dtype
    assert torch.equal(out.cpu().int(), by_loop(torch.ones(shape).int(), BOXES, 0))
    assert image.cpu().int().sum() == image.numel()


def test_against_torchvision():
    image = photograph("coffee.png")
    x0, y0, x1, y1 = 40, 30, 200, 150
    expected = tv.erase(image, y0, x0, y1 - y0, x1 - x0, torch.tensor([[[0.3]]]).double())
    value = torch.tensor(0.3).item()  # torchvision rounds the value to float32
    assert torch.equal(erase_boxes(image, torch.tensor([[x0, y0, x1, y1]]), value=value), expected)


@pytest.mark.parametrize("shape", SIZES)
def test_one_value_per_channel(device, shape):
    image = smooth_image(*shape).to(device)
    out = erase_boxes(image, BOXES.to(device), value=[1, 2.5, np.float64(3)])
    inside = boxes_to_mask(BOXES, *shape[1:])[0].to(device)
    for channel, value in enumerate([1, 2.5, 3]):
        assert (out[channel][inside] == value).all()
        assert torch.equal(out[channel][~inside], image[channel][~inside])


@pytest.mark.parametrize("shape", SIZES)
def test_layouts(shape):
    image = smooth_image(2, *shape)
    expected = torch.stack([by_loop(part, BOXES, 7) for part in image])
    for name, variant in layouts(image):
        out = erase_boxes(variant, BOXES, value=7)
        assert torch.equal(out, expected.expand_as(out)), name
        if name != "expanded batch":
            target = variant.clone(memory_format=torch.preserve_format)
            assert erase_boxes(target, BOXES, value=7, inplace=True) is target
            assert torch.equal(target, expected), name


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("value", [0, [1, 2, 3]])
def test_batch_equals_loop(device, shape, value):
    image = smooth_image(2, 3, *shape).to(device)
    boxes = draw(6, *shape[1:]).view(2, 3, -1, 4).to(device)
    out = erase_boxes(image, boxes, value=value)
    for i in range(2):
        for j in range(3):
            assert torch.equal(out[i, j], erase_boxes(image[i, j], boxes[i, j], value=value))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("value", [0, "color"])
def test_batch_dimensions_broadcast(shape, value):
    image, boxes = smooth_image(*shape), draw(4, *shape[1:])
    for images, sets, batch in [
        (image, boxes, (4,)),
        (image.expand(4, *shape), boxes[0], (4,)),
        (image.expand(5, 1, *shape), boxes, (5, 4)),
        (image.expand(5, 4, *shape), boxes[None], (5, 4)),
        (image.expand(4, 5, *shape), boxes[:, None], (4, 5)),
    ]:
        out = erase_boxes(images, sets, value=value)
        assert out.shape == (*batch, *shape)
        mask = boxes_to_mask(sets, *shape[1:]).expand(*batch, 1, *shape[1:])
        kept = ~mask.expand_as(out)
        assert torch.equal(out[kept], image.expand_as(out)[kept])
        if value == 0:
            assert (out[~kept] == 0).all()


@pytest.mark.parametrize("shape", SIZES)
def test_images_that_share_boxes_share_their_colors(shape):
    video = smooth_image(5, *shape)
    out = erase_boxes(video, BOXES, value="color")
    inside = boxes_to_mask(BOXES, *shape[1:]).expand(shape)
    assert (out[:, inside] == out[0, inside]).all()
    first = out[0, :, 2:6, 1:5]
    assert (first == first[:, :1, :1]).all(), "one colour per box"
    assert not torch.equal(out[0, :, 2, 1], out[0, :, 0, 7]), "two boxes, two colours"


@pytest.mark.parametrize("shape", SIZES)
def test_outside_and_degenerate_boxes(device, shape):
    boxes = torch.tensor([[-3, -2, 4, 3], [10, 8, 99, 99], [5, 5, 5, 9], [6, 6, 4, 4]])
    image = smooth_image(*shape).to(device)
    out = erase_boxes(image, boxes.to(device), value=9)
    expected = image.clone()
    expected[:, :3, :4] = 9
    expected[:, 8:, 10:] = 9
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SIZES)
def test_noise_is_standard_normal_for_floats(device, dtype, shape):
    boxes = torch.tensor([[0, 0, shape[2], shape[1]]], device=device)
    noise = torch.cat(
        [
            erase_boxes(torch.zeros(shape, dtype=dtype, device=device), boxes, value="random")
            .double()
            .flatten()
            for _ in range(40)
        ]
    )
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    assert abs(noise.std() - 1) < 5 / len(noise) ** 0.5


@pytest.mark.parametrize("kind", ["random", "color"])
@pytest.mark.parametrize("dtype", [*WHOLE, torch.bool])
def test_random_values_span_the_range_of_whole_numbers(device, dtype, kind):
    """Not only the ends, as a cast of normal noise to uint8 gives."""
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    n = 30_000
    image = torch.zeros(n, 1, 1, 1, device=device).to(dtype)
    boxes = torch.tensor([[[0, 0, 1, 1]]], device=device).expand(n, 1, 4)
    values = erase_boxes(image, boxes, value=kind).flatten().double()
    if high - low < 256:
        assert len(values.unique()) == high - low + 1
    # Kolmogorov-Smirnov with the values spread over their steps, p = 0.001.
    spread = ((values - float(low) + torch.rand_like(values)) / float(high - low + 1)).sort().values
    steps = torch.arange(n, device=values.device) / n
    assert (spread - steps).abs().max() < 1.95 / n**0.5


def test_random_values_come_from_the_generator(device):
    state = torch.get_rng_state()
    for shape in SIZES:
        image, boxes = smooth_image(*shape).to(device), BOXES.to(device)
        for value in ("random", "color"):
            first, second, third = (
                erase_boxes(
                    image, boxes, value=value, generator=torch.Generator(device).manual_seed(seed)
                )
                for seed in (4, 4, 5)
            )
            assert torch.equal(first, second)
            assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [0, 0.5, [1, 2, 3], "random", "color"])
@pytest.mark.parametrize("shape", SIZES)
def test_gradient_is_zero_inside_and_one_outside(device, shape, value):
    image = smooth_image(2, *shape).to(device).requires_grad_()
    boxes = draw(2, *shape[1:]).to(device)
    out = erase_boxes(image, boxes, value=value)
    upstream = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, image, upstream)
    kept = ~boxes_to_mask(boxes, *shape[1:])
    assert torch.equal(gradient, upstream * kept)


def test_gradients_numerically():
    image = smooth_image(1, 4, 5).requires_grad_()
    boxes = torch.tensor([[1, 1, 3, 4]])
    for value in (0.5, [2.0]):
        assert torch.autograd.gradcheck(lambda x, v=value: erase_boxes(x, boxes, value=v), image)
        assert torch.autograd.gradgradcheck(
            lambda x, v=value: erase_boxes(x, boxes, value=v), image
        )


@pytest.mark.parametrize("shape", SIZES)
def test_autograd_does_not_change_the_noise(shape):
    image = smooth_image(*shape)
    for value in ("random", "color"):
        torch.manual_seed(0)
        plain = erase_boxes(image, BOXES, value=value)
        torch.manual_seed(0)
        assert torch.equal(erase_boxes(image.clone().requires_grad_(), BOXES, value=value), plain)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("value", [0, [1, 2, 3], "random", "color"])
def test_inplace(device, shape, value):
    image, boxes = smooth_image(2, *shape).to(device), BOXES.to(device)
    torch.manual_seed(3)
    expected = erase_boxes(image, boxes, value=value)
    for leaf in (image.clone(), image.clone().requires_grad_()):
        target = leaf * 1
        torch.manual_seed(3)
        assert erase_boxes(target, boxes, value=value, inplace=True) is target
        assert torch.equal(target, expected)
    (gradient,) = torch.autograd.grad(target.sum(), leaf)
    assert torch.equal(gradient, (~boxes_to_mask(boxes, *shape[1:])).expand_as(leaf).double())


def test_no_boxes_and_empty_batches():
    image = smooth_image(2, 3, 60, 70)
    assert torch.equal(erase_boxes(image, torch.zeros(0, 4, dtype=torch.int64)), image)
    for value in (0, [1, 2, 3], "random", "color"):
        out = erase_boxes(image[:0], torch.zeros(0, 2, 4, dtype=torch.int64), value=value)
        assert out.shape == (0, 3, 60, 70)


def test_not_a_number_as_fill():
    out = erase_boxes(torch.zeros(1, 9, 9), BOXES[:1], value=float("nan"))
    assert out.isnan().sum() == 16


def test_unaffected_by_autocast(device):
    image, boxes = smooth_image(3, 60, 70, dtype=torch.float32).to(device), BOXES.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for value in (0.3, [1, 2, 3.3], "random", "color"):
            assert erase_boxes(image, boxes, value=value).dtype == torch.float32
        out = erase_boxes(image, boxes, value=0.3)
    assert torch.equal(out, erase_boxes(image, boxes, value=0.3))


@given(
    boxes=st.lists(st.tuples(*[st.integers(-2, 8)] * 4), max_size=3),
    channels=st.integers(1, 2),
    repeat=st.sampled_from([1, 40]),
)
def test_slices_and_masks_agree(boxes, channels, repeat):
    """The two ways of filling, told apart by the size of the image."""
    boxes = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)
    image = torch.arange(channels * 6 * 7).reshape(channels, 6, 7)
    small = erase_boxes(image, boxes, value=-1)
    large = erase_boxes(image.repeat(repeat, 1, 1), boxes, value=-1)
    assert torch.equal(large[:channels], small)
    mask = boxes_to_mask(boxes, 6, 7)
    assert torch.equal(small, torch.where(mask, -1, image))
