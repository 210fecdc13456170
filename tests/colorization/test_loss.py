"""The colorization loss: what it measures, its gradients, and how it composes."""

import pytest
import torch
from helpers import assert_close, layouts, smooth_image
from torch.nn.functional import mse_loss, unfold

from torchops import ColorizationLoss, colorization_loss, levin_weights

KINDS = ["levin", "gaussian", "correlation"]


def gathered_residual(chroma, luma, radius, weighting):
    """U(r) - sum_s w_rs U(s) with the weights gathered in memory; chroma is (B, C, H, W)."""
    batch, channels, height, width = chroma.shape
    side = 2 * radius + 1
    patches = unfold(chroma, side, padding=radius).reshape(batch, channels, -1, height, width)
    near = torch.cat([patches[:, :, : side**2 // 2], patches[:, :, side**2 // 2 + 1 :]], 2)
    weights = levin_weights(luma, radius=radius, weighting=weighting)
    return chroma - (weights[:, None] * near).sum(2)


def sample(*, batch=2, channels=2, height=7, width=9, requires_grad=False, device="cpu"):
    chroma = torch.rand(batch, channels, height, width, dtype=torch.float64, device=device)
    luma = torch.rand(batch, 1, height, width, dtype=torch.float64, device=device)
    mask = torch.rand(batch, 1, height, width, dtype=torch.float64, device=device)
    return [t.requires_grad_(requires_grad) for t in (chroma, luma, mask)]


@pytest.mark.parametrize("weighting", KINDS)
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_value_and_gradients_equal_the_gathered_form(weighting, radius, device):
    chroma, luma, mask = sample(requires_grad=True, device=device)
    loss = colorization_loss(chroma, luma, mask=mask, radius=radius, weighting=weighting)
    squares = gathered_residual(chroma, luma, radius, weighting) ** 2
    expected = (mask * squares).sum() / (2 * mask.sum())
    assert_close(loss, expected, 1e-14 * max(1, expected.item()))
    gradients = torch.autograd.grad(loss, (chroma, luma, mask))
    for actual, wanted in zip(
        gradients, torch.autograd.grad(expected, (chroma, luma, mask)), strict=True
    ):
        assert_close(actual, wanted, 1e-12 * max(1, wanted.abs().max().item()))


@pytest.mark.parametrize("weighting", KINDS)
@pytest.mark.parametrize("radius", [1, 3])
def test_a_weight_that_makes_a_constant_image_cost_49_c_squared(weighting, radius, device):
    # Unnormalised correlation weights are 8 in all on a flat window: (c - 8 c)^2 = 49 c^2.
    for luma in (torch.full((1, 8, 8), 0.5), torch.rand(1, 8, 8)):
        chroma = torch.full((2, 8, 8), 3.0, device=device)
        cost = colorization_loss(
            chroma, luma.to(device), radius=radius, weighting=weighting, reduction="none"
        )
        assert cost.max() <= 1e-12


def test_weights_over_non_overlapping_tiles(device):
    # Every pixel is compared with its own neighbours: a blip of colour costs the same wherever it
    # lies on a flat image, and every one of its neighbours feels it. Tiles see neither.
    luma = torch.full((1, 9, 9), 0.5, dtype=torch.float64, device=device)
    for y in range(2, 7):
        for x in range(2, 7):
            chroma = torch.zeros(1, 9, 9, dtype=torch.float64, device=device)
            chroma[0, y, x] = 1
            cost = colorization_loss(chroma, luma, reduction="none")
            expected = torch.zeros_like(cost)
            expected[0, y - 1 : y + 2, x - 1 : x + 2] = 1 / 64
            expected[0, y, x] = 1
            assert_close(cost, expected, 1e-15)


def test_loss_is_smoothness_only_and_needs_data_beside_it(device):
    luma = smooth_image(1, 10, 12).to(device)
    hinted = torch.rand(1, 10, 12, device=device) < 0.2
    truth = smooth_image(2, 10, 12, seed=1).to(device)
    constant = truth.mean((-2, -1), keepdim=True).expand_as(truth)
    assert colorization_loss(constant, luma) <= 1e-25 < colorization_loss(truth, luma)
    assert mse_loss(constant * hinted, truth * hinted) > 1e-4


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_and_boolean_masks(reduction, device):
    chroma, luma, _ = sample(device=device)
    mask = torch.rand(2, 1, 7, 9, device=device) < 0.5
    loss = colorization_loss(chroma, luma, mask=mask, reduction=reduction)
    squares = torch.where(mask, gathered_residual(chroma, luma, 1, "levin") ** 2, 0)
    expected = {"none": squares, "sum": squares.sum(), "mean": squares.sum() / (2 * mask.sum())}
    assert_close(loss, expected[reduction], 1e-12)
    weights = colorization_loss(chroma, luma, mask=mask.double(), reduction=reduction)
    assert_close(weights, loss, 1e-12)


def test_mask_that_counts_nothing(device):
    chroma, luma, mask = sample(requires_grad=True, device=device)
    for empty in (torch.zeros_like(mask), torch.zeros_like(mask, dtype=torch.bool)):
        loss = colorization_loss(chroma, luma, mask=empty)
        assert loss == 0
        for gradient in torch.autograd.grad(loss, (chroma, luma)):
            assert gradient.abs().max() == 0


def test_rows_left_out_still_serve_their_neighbours(device):
    luma = torch.full((1, 3, 3), 0.5, dtype=torch.float64, device=device)
    chroma = torch.zeros(1, 3, 3, dtype=torch.float64, device=device)
    chroma[0, 1, 1] = 1
    mask = torch.ones(1, 3, 3, dtype=torch.bool, device=device)
    mask[0, 1, 1] = False
    cost = colorization_loss(chroma, luma, mask=mask, reduction="none")
    assert cost[0, 1, 1] == 0
    assert_close(cost[0, 0, 0], torch.tensor(1 / 9, dtype=torch.float64, device=device), 1e-15)


def test_nan_under_a_boolean_mask_does_not_reach_the_value(device):
    chroma, luma, _ = sample(batch=1, device=device)
    chroma[0, :, 3, 4] = torch.nan
    mask = torch.ones(1, 1, 7, 9, dtype=torch.bool, device=device)
    mask[..., 2:5, 3:6] = False
    assert torch.isfinite(colorization_loss(chroma, luma, mask=mask))


@pytest.mark.parametrize("weighting", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_of_every_argument(weighting, reduction):
    tensors = sample(batch=1, height=3, width=3, requires_grad=True)

    def loss(chroma, luma, mask):
        return colorization_loss(chroma, luma, mask=mask, weighting=weighting, reduction=reduction)

    assert torch.autograd.gradcheck(loss, tensors)
    assert torch.autograd.gradgradcheck(loss, tensors, fast_mode=True)


@pytest.mark.parametrize("weighting", KINDS)
def test_gradients_on_flat_and_spiky_luma_are_finite(weighting, device):
    chroma, luma, _ = sample(batch=1, device=device)
    luma = torch.zeros_like(luma)
    luma[0, 0, 3, 4] = 1
    chroma.requires_grad_()
    luma.requires_grad_()
    loss = colorization_loss(chroma, luma, weighting=weighting)
    for gradient in torch.autograd.grad(loss, (chroma, luma)):
        assert torch.isfinite(gradient).all()


def test_luma_on_8_bit_steps_has_the_gradient_of_the_gathered_form(device):
    # Equal differences are the rule here, so the minimum has ties.
    chroma, luma, _ = sample(device=device)
    luma = ((luma * 4).round() / 4).requires_grad_()
    (actual,) = torch.autograd.grad(colorization_loss(chroma, luma), luma)
    expected = (gathered_residual(chroma, luma, 1, "levin") ** 2).mean()
    assert_close(actual, torch.autograd.grad(expected, luma)[0], 1e-14)


@pytest.mark.parametrize("weighting", KINDS)
def test_one_pixel_and_empty_batch(weighting, device):
    for shape in [(1, 1), (1, 2)]:
        chroma = torch.full((1, 2, *shape), 0.7, device=device, requires_grad=True)
        luma = torch.full((1, 1, *shape), 0.2, device=device, requires_grad=True)
        loss = colorization_loss(chroma, luma, radius=2, weighting=weighting)
        assert loss == 0
        for gradient in torch.autograd.grad(loss, (chroma, luma)):
            assert gradient.abs().max() == 0
    empty = torch.zeros(0, 2, 4, 4, device=device)
    assert colorization_loss(empty, empty[:, :1], weighting=weighting) == 0
    none = colorization_loss(empty, empty[:, :1], weighting=weighting, reduction="none")
    assert none.shape == (0, 2, 4, 4)


def test_leading_dimensions_broadcast(device):
    chroma = torch.rand(3, 1, 2, 6, 5, dtype=torch.float64, device=device, requires_grad=True)
    luma = torch.rand(4, 1, 6, 5, dtype=torch.float64, device=device, requires_grad=True)
    cost = colorization_loss(chroma, luma, reduction="none")
    assert cost.shape == (3, 4, 2, 6, 5)
    for i in range(3):
        for j in range(4):
            single = colorization_loss(chroma[i, 0], luma[j], reduction="none")
            assert_close(cost[i, j], single, 1e-15)
    for tensor, gradient in zip(
        (chroma, luma), torch.autograd.grad(cost.sum(), (chroma, luma)), strict=True
    ):
        assert gradient.shape == tensor.shape
    mask = torch.ones(5, 1, 1, 1, 6, 5, dtype=torch.bool, device=device)
    plain = colorization_loss(chroma, luma)
    assert_close(colorization_loss(chroma, luma, mask=mask), plain, 1e-12)


def test_dtypes_layouts_and_autocast(device):
    chroma, luma, _ = (t.float() for t in sample(device=device))
    expected = colorization_loss(chroma, luma)
    for dtype in (torch.float16, torch.bfloat16):
        loss = colorization_loss(chroma.to(dtype), luma.to(dtype))
        assert loss.dtype == torch.float32
        assert loss == colorization_loss(chroma.to(dtype).float(), luma.to(dtype).float())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert colorization_loss(chroma, luma) == expected
    for _, view in layouts(chroma):
        assert colorization_loss(view, luma) == expected
    assert colorization_loss(chroma.double(), luma).dtype == torch.float64


def test_float32_is_as_good_as_its_rounding(device):
    chroma, luma, _ = sample(device=device, height=40, width=30)
    exact = colorization_loss(chroma.float().double(), luma.float().double(), reduction="none")
    single = colorization_loss(chroma.float(), luma.float(), reduction="none")
    assert_close(single, exact, 1e-6)


@pytest.mark.parametrize("weighting", KINDS)
def test_torch_func(weighting):
    chroma, luma, mask = sample(height=4, width=4)

    def loss(chroma, luma, mask):
        return colorization_loss(chroma, luma, mask=mask, weighting=weighting)

    arguments = (0, 1, 2)
    singles = [
        torch.func.grad(loss, arguments)(*item) for item in zip(chroma, luma, mask, strict=True)
    ]
    batched = torch.func.vmap(torch.func.grad(loss, arguments))(chroma, luma, mask)
    for got, expected in zip(batched, zip(*singles, strict=True), strict=True):
        assert_close(got, torch.stack(expected), 1e-13)

    def costs(chroma, luma, mask):
        return colorization_loss(chroma, luma, mask=mask, weighting=weighting, reduction="none")

    jacobians = torch.func.jacrev(costs, arguments)(chroma[0], luma[0], mask[0])
    expected = torch.autograd.functional.jacobian(costs, (chroma[0], luma[0], mask[0]))
    for got, wanted in zip(jacobians, expected, strict=True):
        assert_close(got, wanted, 1e-12 * max(1, wanted.abs().max().item()))
    only_luma = torch.func.vmap(loss, (None, 0, None))(chroma[0], luma, mask[0])
    assert_close(only_luma[1], loss(chroma[0], luma[1], mask[0]), 1e-14)


def test_no_weight_plane_is_kept_for_the_backward_pass():
    chroma, luma, _ = sample(batch=1, height=20, width=20, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel() / 400
        return tensor

    planes = {}
    for radius in (1, 5):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            colorization_loss(chroma, luma, radius=radius).backward()
        planes[radius] = sum(kept.values())
    assert planes[5] == planes[1] <= 8  # chroma, luma and the residual; 120 weights otherwise


def test_module_equals_function(device):
    chroma, luma, mask = sample(device=device)
    module = ColorizationLoss(radius=2, weighting="gaussian", reduction="sum")
    expected = colorization_loss(
        chroma, luma, mask=mask, radius=2, weighting="gaussian", reduction="sum"
    )
    assert module(chroma, luma, mask) == expected
    assert repr(module) == "ColorizationLoss(radius=2, weighting='gaussian', reduction='sum')"
    assert not module.state_dict()
