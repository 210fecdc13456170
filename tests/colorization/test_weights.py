"""Levin's weights: closed forms, a loop written from the formulas, and the composition table."""

import math

import pytest
import torch
from helpers import assert_close, layouts, smooth_image
from hypothesis import given
from hypothesis import strategies as st

from torchops import levin_weights

KINDS = ["levin", "gaussian", "correlation"]
FLOOR = 2e-6


def loop_weights(luma, radius, weighting):
    """The formulas of the docstring, pixel by pixel, for a float64 luma (H, W)."""
    height, width = luma.shape
    reach = range(-radius, radius + 1)
    offsets = [(dy, dx) for dy in reach for dx in reach if (dy, dx) != (0, 0)]
    result = torch.zeros(len(offsets), height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            near = {
                k: luma[y + dy, x + dx].item()
                for k, (dy, dx) in enumerate(offsets)
                if 0 <= y + dy < height and 0 <= x + dx < width
            }
            own = luma[y, x].item()
            window = [own, *near.values()]
            mean = sum(window) / len(window)
            variance = sum((v - mean) ** 2 for v in window) / len(window)
            if weighting == "levin":
                least = min((v - own) ** 2 for v in near.values())
                c = max(0.6 * variance, -least / math.log(0.01), FLOOR)
            else:
                c = max(2 * variance, FLOOR)
            for k, v in near.items():
                if weighting == "correlation":
                    raw = 1 + (own - mean) * (v - mean) / (variance + FLOOR)
                else:
                    raw = math.exp(-((v - own) ** 2) / c)
                result[k, y, x] = raw
    return result / result.sum(0)


@pytest.mark.parametrize("weighting", KINDS)
@pytest.mark.parametrize(("shape", "radius"), [((7, 9), 1), ((7, 9), 2), ((2, 3), 1), ((2, 5), 3)])
def test_equals_a_loop_over_the_formulas(weighting, shape, radius, device):
    luma = torch.rand(3, 1, *shape, dtype=torch.float64)
    expected = torch.stack([loop_weights(image[0], radius, weighting) for image in luma])
    weights = levin_weights(luma.to(device), radius=radius, weighting=weighting)
    assert_close(weights.cpu(), expected, 1e-12 if weighting != "correlation" else 1e-9)
    assert_close(weights.sum(-3), torch.ones_like(weights[:, 0]), 1e-12)
    single = levin_weights(luma.float().to(device), radius=radius, weighting=weighting)
    tolerance = 1e-5 * max(1.0, expected.abs().max().item())
    assert_close(single.cpu(), expected, tolerance if weighting != "correlation" else 1e-3)


@pytest.mark.parametrize("weighting", KINDS)
def test_constant_luma_gives_uniform_weights(weighting, device):
    weights = levin_weights(torch.full((1, 4, 5), 0.3, device=device), weighting=weighting)
    positive = (weights > 0).sum(0)
    assert positive[1:-1, 1:-1].unique().tolist() == [8]
    assert positive[0, 1:-1].unique().tolist() == [5]
    assert positive[0, 0] == positive[-1, -1] == 3
    assert_close(weights, torch.where(weights > 0, 1 / positive, 0), 1e-7)


def test_neighbours_are_in_raster_order_without_the_centre(device):
    # Only one neighbour is alike: its plane holds the weight.
    order = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    for k, (dy, dx) in enumerate(order):
        luma = torch.linspace(0.6, 0.9, 9, device=device).reshape(1, 3, 3).clone()
        luma[0, 1, 1] = luma[0, 1 + dy, 1 + dx] = 0.1
        assert levin_weights(luma)[:, 1, 1].argmax() == k


@pytest.mark.parametrize("height", [0.05, 0.9])
@pytest.mark.parametrize(
    ("weighting", "cross"),
    [("gaussian", math.exp(-2.25)), ("levin", math.exp(-7.5)), ("correlation", 0.0)],
)
def test_weight_across_a_step_edge_of_any_height(weighting, cross, height, device):
    luma = torch.zeros(1, 5, 6, dtype=torch.float64, device=device)
    luma[..., 3:] = height
    weights = levin_weights(luma, weighting=weighting)[:, 2, 2]  # left of the edge
    if weighting == "correlation":
        # The neighbours on the own side have raw weight 1.5, up to the documented 2e-6.
        assert_close(weights[2], torch.zeros_like(weights[2]), 1e-3)
    else:
        assert_close(weights[2] / weights[0], torch.tensor(cross).double(), cross * 1e-6)


def test_one_level_in_a_flat_window_meets_the_floor(device):
    luma = torch.full((1, 5, 5), 0.5, dtype=torch.float64, device=device)
    luma[0, 1, 1] += 1 / 255
    weights = levin_weights(luma)[:, 2, 2]
    raw = weights[0] / weights[7]
    assert_close(raw, torch.tensor(math.exp(-((1 / 255) ** 2) / FLOOR)).double(), 1e-9)


def test_nearest_neighbour_keeps_a_hundredth(device):
    # A spike amid a textured window: without the second floor all raw weights would be below 1e-5.
    luma = torch.tensor([0.0, 0.1, 0.05, 0.02, 1.0, 0.1, 0.07, 0.03, 0.09], device=device)
    luma = luma.double().reshape(1, 3, 3)
    nearest, farthest = 0.9, 1.0
    c = max(0.6 * luma.var(correction=0).item(), nearest**2 / -math.log(0.01))
    weights = levin_weights(luma)[:, 1, 1]
    ratio = math.exp((nearest**2 - farthest**2) / c)
    assert_close(weights[0] / weights[1], torch.tensor(ratio).double(), 1e-9)


@pytest.mark.parametrize("weighting", KINDS)
def test_spike_and_flat_windows_are_finite_with_finite_gradients(weighting, device):
    for dtype in (torch.float32, torch.float64):
        luma = torch.zeros(1, 7, 7, dtype=dtype, device=device)
        luma[0, 3, 3] = 1
        luma.requires_grad_()
        weights = levin_weights(luma, weighting=weighting, radius=1)
        assert_close(weights[:, 3, 3], torch.full((8,), 1 / 8, dtype=dtype, device=device), 1e-6)
        (grad,) = torch.autograd.grad((weights * torch.rand_like(weights)).sum(), luma)
        assert torch.isfinite(grad).all()


def test_wide_window_around_a_spike_does_not_underflow(device):
    # exp(-d^2 / 2 variance) is exp(-113) here: 0 in float32 unless the largest is taken out.
    luma = torch.zeros(1, 15, 15, device=device)
    luma[0, 7, 7] = 1
    weights = levin_weights(luma, radius=7, weighting="gaussian")[:, 7, 7]
    assert_close(weights, torch.full_like(weights, 1 / 224), 1e-6)


@pytest.mark.parametrize("weighting", ["levin", "gaussian"])
def test_gain_and_offset_of_luma_change_nothing_above_the_floor(weighting, device):
    luma = torch.rand(1, 12, 12, dtype=torch.float64, device=device)
    weights = levin_weights(luma, weighting=weighting)
    assert_close(levin_weights(0.5 * luma + 0.2, weighting=weighting), weights, 1e-9)


@given(seed=st.integers(0, 10_000), height=st.integers(1, 6), width=st.integers(1, 6))
def test_weights_are_positive_inside_and_sum_to_one(seed, height, width):
    luma = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed))
    weights = levin_weights((luma * 4).round() / 4)
    assert (weights >= 0).all()
    total = 0.0 if height * width == 1 else 1.0
    assert_close(weights.sum(0), torch.full((height, width), total), 1e-6)


@pytest.mark.parametrize("weighting", KINDS)
def test_rotation_and_transposition(weighting, device):
    luma = smooth_image(1, 6, 8).to(device)
    weights = levin_weights(luma, weighting=weighting)
    turned = levin_weights(luma.rot90(2, (-2, -1)), weighting=weighting)
    assert_close(turned.rot90(2, (-2, -1)).flip(0), weights, 1e-12)
    transposed = levin_weights(luma.mT, weighting=weighting).mT
    order = [0, 3, 5, 1, 6, 2, 4, 7]  # planes of (dx, dy)
    assert_close(transposed[order], weights, 1e-12)


@pytest.mark.parametrize("weighting", KINDS)
def test_one_pixel_has_no_weights(weighting, device):
    weights = levin_weights(torch.rand(1, 1, 1, device=device), weighting=weighting)
    assert_close(weights, torch.zeros(8, 1, 1, device=device), 0)


@pytest.mark.parametrize("weighting", KINDS)
def test_batch_layouts_dtypes_and_autocast(weighting, device):
    luma = smooth_image(2, 3, 1, 6, 5, dtype=torch.float32).to(device)
    weights = levin_weights(luma, weighting=weighting)
    assert weights.shape == (2, 3, 8, 6, 5)
    for i in range(2):
        for j in range(3):
            single = levin_weights(luma[i, j], weighting=weighting)
            assert torch.equal(single, weights[i, j])
    for _, view in layouts(luma[0]):
        assert torch.equal(levin_weights(view, weighting=weighting), weights[0])
    for dtype in (torch.float16, torch.bfloat16):
        half = levin_weights(luma.to(dtype), weighting=weighting)
        assert half.dtype == torch.float32
        assert torch.equal(half, levin_weights(luma.to(dtype).float(), weighting=weighting))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(levin_weights(luma, weighting=weighting), weights)
    assert levin_weights(luma[:0], weighting=weighting).shape == (0, 3, 8, 6, 5)


@pytest.mark.parametrize("weighting", KINDS)
def test_gradient_to_luma(weighting):
    luma = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def weights(luma):
        return levin_weights(luma, weighting=weighting)

    assert torch.autograd.gradcheck(weights, (luma,))
    assert torch.autograd.gradgradcheck(weights, (luma,))


@pytest.mark.parametrize("weighting", KINDS)
def test_torch_func(weighting):
    luma = torch.rand(2, 1, 4, 4, dtype=torch.float64)

    def weights(luma):
        return levin_weights(luma, weighting=weighting)

    assert_close(torch.func.vmap(weights)(luma), weights(luma), 1e-15)
    jacobian = torch.func.jacrev(weights)(luma[0])
    expected = torch.autograd.functional.jacobian(weights, luma[0])
    assert_close(jacobian, expected, 1e-12)
