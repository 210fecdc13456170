import pytest
import torch
from helpers import smooth_image
from torch.autograd import gradcheck, gradgradcheck

from torchops import lucas_kanade

OPTIONS = {"sigma": 1.5, "levels": 2, "warps": 2}


def inputs(height=9, width=8, channels=1):
    reference = smooth_image(channels, height, width)
    moving = smooth_image(channels, height, width, seed=3)
    moving = 0.8 * reference.roll(1, -1) + 0.2 * moving
    initial = 0.3 * smooth_image(2, height, width, seed=5)
    mask = 0.2 + 0.6 * smooth_image(1, height, width, seed=7)
    return reference, moving, initial, mask


def outputs(reference, moving, initial, mask):
    return tuple(lucas_kanade(reference, moving, initial=initial, mask=mask, **OPTIONS))


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("argument", ["reference", "moving", "initial", "mask"])
def test_gradcheck(argument, fast):
    tensors = list(inputs())
    k = ["reference", "moving", "initial", "mask"].index(argument)

    def function(value):
        return outputs(*tensors[:k], value, *tensors[k + 1 :])

    assert gradcheck(function, tensors[k].clone().requires_grad_(), fast_mode=fast)


def test_gradgradcheck():
    tensors = [t.requires_grad_() for t in inputs(5, 4)]

    def flow(*args):
        reference, moving, initial, mask = args
        return lucas_kanade(
            reference, moving, initial=initial, mask=mask, sigma=1.0, levels=1, warps=1
        ).flow

    assert gradgradcheck(flow, tensors, fast_mode=True)


def test_last_is_the_gradient_of_the_last_iteration():
    reference, moving, initial, _ = inputs()
    start = lucas_kanade(reference, moving, initial=initial, sigma=1.5, levels=1, warps=2).flow
    frames = [f.clone().requires_grad_() for f in (reference, moving)]
    last = lucas_kanade(
        *frames, initial=initial.requires_grad_(), sigma=1.5, levels=1, warps=3, gradient="last"
    )
    one_more = lucas_kanade(*frames, initial=start, sigma=1.5, levels=1, warps=1)
    gradients = torch.autograd.grad(last.flow.square().sum(), [*frames, initial], allow_unused=True)
    expected = torch.autograd.grad(one_more.flow.square().sum(), frames)
    torch.testing.assert_close(gradients[:2], expected)
    assert gradients[2] is None or not gradients[2].any()


def test_gradients_are_exactly_where_the_pixels_are():
    # Far from a sample's own frames nothing leaks: the batch's other sample gets gradient 0.
    frames = torch.rand(2, 2, 1, 12, 14, requires_grad=True)
    flow = lucas_kanade(*frames, **OPTIONS).flow
    (gradient,) = torch.autograd.grad(flow[0].sum(), frames)
    assert gradient[:, 0].abs().sum() > 0
    assert not gradient[:, 1].any()
