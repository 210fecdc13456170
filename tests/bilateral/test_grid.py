"""The bilateral grid against the exact filter of equal support."""

import math

import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image

from torchops import BilateralFilter, bilateral_filter


def psnr(found, expected, peak=1.0):
    return 10 * math.log10(peak**2 / (found - expected).double().square().mean().item())


@pytest.mark.parametrize(
    ("sigma_space", "sigma_range", "floor"),
    [(3, 0.1, 56), (5, 0.05, 60), (5, 0.1, 58), (5, 0.2, 53), (12, 0.1, 62)],
)
def test_close_to_exact_on_a_photograph(sigma_space, sigma_range, floor):
    image = photograph()[:, 100:356, 100:356].float()
    for border in ("reflect", "valid_only"):
        exact = bilateral_filter(image, sigma_space, sigma_range, border=border)
        found = bilateral_filter(image, sigma_space, sigma_range, border=border, method="grid")
        assert psnr(found, exact) > floor, border
        assert (found - exact).abs().max() < 0.03


def test_a_colour_image_by_its_luminance():
    image = photograph("coffee.png")[:, 50:200, 100:260].float()
    guide = image.mean(0, keepdim=True)
    exact = bilateral_filter(image, 6.0, 0.1, guide=guide)
    assert psnr(bilateral_filter(image, 6.0, 0.1, guide=guide, method="grid"), exact) > 50


def test_volume():
    slices = torch.stack([smooth_image(1, 32, 30, seed=k) for k in range(3)], 1)
    volume = torch.nn.functional.interpolate(slices[None], size=(15, 24, 22), mode="trilinear")[0]
    exact = bilateral_filter(volume, 2.5, 0.2, spatial_dims=3)
    found = bilateral_filter(volume, 2.5, 0.2, spatial_dims=3, method="grid")
    assert psnr(found, exact) > 45


@pytest.mark.parametrize("border", ["reflect", "valid_only"])
def test_a_constant_image_returns_itself(border):
    image = torch.full((2, 1, 21, 34), 0.3, dtype=torch.float64)
    found = bilateral_filter(image, 5.0, 0.1, border=border, method="grid")
    assert_close(found, image, 1e-14)


def test_an_isolated_bright_pixel_on_black_stays():
    image = torch.zeros(1, 96, 96, dtype=torch.float64)
    image[0, 50, 47] = 1
    exact = bilateral_filter(image, 10.0, 0.1)
    assert_close(bilateral_filter(image, 10.0, 0.1, method="grid"), exact, 1e-3)


def test_a_ramp_returns_itself_inside():
    image = (0.01 * torch.arange(90, dtype=torch.float64)).expand(1, 60, 90)
    found = bilateral_filter(image, 4.0, 0.1, method="grid")
    assert_close(found[..., 15:-15], image[..., 15:-15], 2e-3)


def test_a_huge_range_sigma_gives_the_gaussian_blur():
    image = photograph()[:, 100:200, 100:200]
    exact = bilateral_filter(image, 6.0, 1e4)
    assert psnr(bilateral_filter(image, 6.0, 1e4, method="grid"), exact) > 55


def test_shift_and_scale_and_mirror():
    image = photograph()[:, 100:170, 100:190]
    found = bilateral_filter(image, 5.0, 0.1, method="grid")
    assert_close(bilateral_filter(image + 7, 5.0, 0.1, method="grid") - 7, found, 1e-11)
    assert_close(bilateral_filter(255 * image, 5.0, 25.5, method="grid") / 255, found, 1e-12)
    mirrored = bilateral_filter(image.flip(-1), 5.0, 0.1, method="grid").flip(-1)
    assert (mirrored - found).abs().max() < 0.02  # cells are cut from the left


def test_within_the_values_of_the_image():
    image = photograph()[:, 100:200, 100:200]
    found = bilateral_filter(image, 8.0, 0.05, method="grid")
    assert found.min() >= image.min() - 1e-12
    assert found.max() <= image.max() + 1e-12


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (30, 1)])
def test_images_smaller_than_the_window(size):
    image = torch.rand(1, *size, dtype=torch.float64)
    for border in ("reflect", "valid_only"):
        found = bilateral_filter(image, 8.0, 0.3, border=border, method="grid")
        assert_close(found, bilateral_filter(image, 8.0, 0.3, border=border), 0.06)


def test_radius_0_and_empty_batches():
    image = torch.rand(1, 9, 8)
    assert_close(bilateral_filter(image, 1.0, 0.1, radius=0, method="grid"), image, 1e-5)
    assert bilateral_filter(torch.rand(0, 1, 9, 8), 2.0, 0.1, method="grid").shape == (0, 1, 9, 8)


def test_a_batch_equals_the_loop(device):
    image = torch.rand(3, 1, 20, 22, device=device) * torch.tensor([1, 5, 0.1])[:, None, None, None]
    image = image.to(device)
    space = torch.tensor([2.0, 4.0, 2.0], device=device)
    level = torch.tensor([0.2, 1.0, 0.05], device=device)
    found = bilateral_filter(image, space, level, method="grid")
    for k in range(3):
        alone = bilateral_filter(image[k], float(space[k]), float(level[k]), method="grid")
        assert_close(found[k], alone, 1e-5)


def test_masks_and_what_is_not_finite():
    image = photograph()[:, 100:160, 100:160].clone()
    mask = torch.rand(1, 60, 60) > 0.3
    exact = bilateral_filter(image, 4.0, 0.2, mask=mask)
    broken = torch.where(mask, image, torch.nan)
    found = bilateral_filter(broken, 4.0, 0.2, mask=mask, guide=image, method="grid")
    assert psnr(found, exact) > 45
    found = bilateral_filter(broken, 4.0, 0.2, method="grid")
    assert (found[~mask] == 0).all()
    assert psnr(found[mask], exact[mask]) > 45
    nothing = bilateral_filter(image, 4.0, 0.2, mask=torch.zeros(1, 60, 60), method="grid")
    assert (nothing == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_dtypes(dtype):
    image = photograph()[:, 100:150, 100:150]
    image = (image * 255).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)
    level = 25.0 if dtype == torch.uint8 else 0.1
    found = bilateral_filter(image, 4.0, level, method="grid")
    assert found.dtype == dtype
    expected = bilateral_filter(image.double(), 4.0, level, method="grid")
    rounding = 0.51 if dtype == torch.uint8 else max(torch.finfo(dtype).eps, 1e-5)
    assert_close(found, expected, rounding)
    if dtype != torch.uint8:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(bilateral_filter(image, 4.0, level, method="grid"), found)


def test_layouts():
    image = smooth_image(2, 1, 24, 20)
    expected = bilateral_filter(image, 3.0, 0.1, method="grid")
    for name, other in layouts(image):
        assert_close(bilateral_filter(other, 3.0, 0.1, method="grid"), expected, 1e-14, name)


def test_a_nan_sigma_spoils_its_own_sample_only():
    image = torch.rand(2, 1, 16, 16)
    for space, level in (
        (torch.tensor([1.0, torch.nan]), 0.3),
        (1.0, torch.tensor([0.1, torch.nan])),
    ):
        found = bilateral_filter(image, space, level, method="grid")
        assert found[1].isnan().all()
        assert found[0].isfinite().all()


def test_module():
    image = torch.rand(2, 1, 16, 18)
    module = BilateralFilter(3.0, 0.2, method="grid")
    assert torch.equal(module(image), bilateral_filter(image, 3.0, 0.2, method="grid"))
