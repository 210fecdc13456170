import pytest
import torch
from helpers import assert_close, layouts, smooth_image
from scipy.ndimage import map_coordinates
from torch.autograd import gradcheck, gradgradcheck

from torchops import warp_by_flow

BORDERS = {"zeros": "constant", "replicate": "nearest", "reflect": "mirror"}


def constant(u, v, height, width, dtype=torch.float64):
    return torch.tensor([u, v], dtype=dtype)[:, None, None].expand(2, height, width)


@pytest.mark.parametrize("border", BORDERS)
def test_bilinear_agrees_with_scipy(border):
    image, flow = smooth_image(2, 15, 18), 12 * (smooth_image(2, 15, 18, seed=1) - 0.5)
    if border == "zeros":  # SciPy drops a whole pixel outside; ours fades, so stay away from there
        flow = flow.clamp(-1, 1)
    y, x = torch.meshgrid(torch.arange(15.0), torch.arange(18.0), indexing="ij")
    positions = torch.stack([y + flow[1], x + flow[0]]).numpy()
    expected = torch.stack(
        [
            torch.from_numpy(map_coordinates(c, positions, order=1, mode=BORDERS[border]))
            for c in image.numpy()
        ]
    )
    warped = warp_by_flow(image, flow, border=border)
    inner = slice(2, -2) if border == "zeros" else slice(None)
    assert_close(warped[..., inner, inner], expected[..., inner, inner], 1e-12)


def test_integer_flow_moves_pixels_exactly():
    image = torch.rand(3, 8, 9)
    for mode in ("bilinear", "bicubic"):
        warped = warp_by_flow(image, constant(2, -1, 8, 9, torch.float32), mode=mode)
        assert torch.equal(warped[:, 1:, :-2], image[:, :-1, 2:])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_ramp_is_read_exactly(mode):
    ramp = (2 * torch.arange(12.0, dtype=torch.float64)).expand(1, 10, 12)
    warped = warp_by_flow(ramp, constant(0.3, 0.7, 10, 12), mode=mode)
    assert_close(warped[..., 2:-3, 2:-3], (ramp + 0.6)[..., 2:-3, 2:-3], 1e-12)


def test_far_outside():
    image = torch.rand(1, 4, 5) + 1
    far = constant(100.0, 100.0, 4, 5, torch.float32)
    assert not warp_by_flow(image, far, border="zeros").any()
    assert torch.equal(warp_by_flow(image, far), image[:, -1:, -1:].expand(1, 4, 5))


def test_unknown_flow_gives_nan_there_and_gradient_zero():
    image = torch.rand(1, 4, 5, requires_grad=True)
    flow = torch.zeros(2, 4, 5)
    flow[0, 1, 2] = float("nan")
    flow[1, 3, 3] = float("inf")
    flow.requires_grad_()
    warped = warp_by_flow(image, flow)
    lost = torch.zeros(1, 4, 5, dtype=torch.bool)
    lost[0, 1, 2] = lost[0, 3, 3] = True
    assert torch.equal(warped.isnan(), lost)
    to_image, to_flow = torch.autograd.grad(warped.nansum(), (image, flow))
    assert torch.equal(to_image, (~lost).float())
    assert to_flow.isfinite().all()


def test_sizes_and_batches_broadcast():
    image, flow = torch.rand(4, 1, 3, 6, 7), torch.rand(2, 2, 9, 5)
    warped = warp_by_flow(image, flow)
    assert warped.shape == (4, 2, 3, 9, 5)
    assert_close(warped[3, 1], warp_by_flow(image[3, 0], flow[1]), 0)
    assert warp_by_flow(image[:0, 0], flow[0]).shape == (0, 3, 9, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_image_keeps_its_dtype(dtype, device):
    image = smooth_image(2, 6, 7).to(device, dtype)
    flow = smooth_image(2, 6, 7, seed=1).to(device, torch.float32)
    warped = warp_by_flow(image, flow)
    exact = warp_by_flow(image.double(), flow.double())
    assert warped.dtype == dtype
    assert_close(warped, exact, 2 * torch.finfo(dtype).eps + 1e-6)


def test_autocast_changes_nothing(device):
    image, flow = torch.rand(1, 6, 7, device=device), torch.rand(2, 6, 7, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(warp_by_flow(image, flow), warp_by_flow(image, flow))


def test_layouts():
    image, flow = torch.rand(3, 6, 7), torch.rand(2, 6, 7)
    for name, view in layouts(image):
        assert_close(warp_by_flow(view, flow), warp_by_flow(image, flow), 0, name)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients(mode, border):
    image = torch.rand(2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = (3 * torch.rand(2, 4, 5, dtype=torch.float64) - 1.5).requires_grad_()

    def function(image, flow):
        return warp_by_flow(image, flow, mode=mode, border=border)

    assert gradcheck(function, (image, flow))
    assert gradgradcheck(function, (image, flow))
