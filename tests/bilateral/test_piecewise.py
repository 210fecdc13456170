"""Durand and Dorsey's filter against the exact one of equal support."""

import math

import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image

from torchops import BilateralFilter, bilateral_filter


def piecewise(image, sigma_space, sigma_range, **options):
    return bilateral_filter(image, sigma_space, sigma_range, method="piecewise", **options)


def psnr(found, expected):
    return -10 * math.log10((found - expected).double().square().mean().item())


@pytest.mark.parametrize(
    ("sigma_space", "sigma_range", "floor"),
    # The middle rows: 45 dB is asked for at sigma_space 16, range 0.1.
    [(3, 0.1, 56), (4, 0.05, 60), (5, 0.2, 58), (5, 0.02, 58), (16, 0.1, 68)],
)
def test_close_to_exact_on_a_photograph(sigma_space, sigma_range, floor):
    image = photograph()[:, 100:356, 100:356].float()
    for border in ("reflect", "valid_only"):
        exact = bilateral_filter(image, sigma_space, sigma_range, border=border)
        found = piecewise(image, sigma_space, sigma_range, border=border)
        assert psnr(found, exact) > floor, border
        assert (found - exact).abs().max() < 0.025


def test_closer_than_the_grid_at_a_narrow_range():
    image = photograph()[:, 100:356, 100:356].float()
    exact = bilateral_filter(image, 5.0, 0.02)
    grid = bilateral_filter(image, 5.0, 0.02, method="grid")
    assert psnr(piecewise(image, 5.0, 0.02), exact) > psnr(grid, exact) + 2


def test_the_level_of_a_flat_picture_is_exact():
    # Two flat halves lie on levels, where nothing is interpolated in intensity.
    image = torch.zeros(1, 40, 50, dtype=torch.float64)
    image[..., 25:] = 1
    image[..., 10:20, 30:40] = 20 / 31
    found = piecewise(image, 4.0, 0.1)
    # Where the sides do not see each other, sums are of one value each.
    assert_close(found[..., :12], image[..., :12], 1e-12)


def test_a_colour_image_by_its_luminance():
    image = photograph("coffee.png")[:, 50:200, 100:260].float()
    guide = image.mean(0, keepdim=True)
    exact = bilateral_filter(image, 6.0, 0.1, guide=guide)
    assert psnr(piecewise(image, 6.0, 0.1, guide=guide), exact) > 50


def test_volume():
    slices = torch.stack([smooth_image(1, 32, 30, seed=k) for k in range(3)], 1)
    volume = torch.nn.functional.interpolate(slices[None], size=(15, 24, 22), mode="trilinear")[0]
    exact = bilateral_filter(volume, 2.5, 0.2, spatial_dims=3)
    assert psnr(piecewise(volume, 2.5, 0.2, spatial_dims=3), exact) > 45


@pytest.mark.parametrize("border", ["reflect", "valid_only"])
def test_a_constant_image_returns_itself(border):
    image = torch.full((2, 1, 21, 34), 0.3, dtype=torch.float64)
    assert_close(piecewise(image, 5.0, 0.1, border=border), image, 1e-14)


def test_an_isolated_bright_pixel_on_black_stays():
    image = torch.zeros(1, 96, 96, dtype=torch.float64)
    image[0, 50, 47] = 1
    exact = bilateral_filter(image, 10.0, 0.1)
    assert_close(piecewise(image, 10.0, 0.1), exact, 1e-3)


def test_a_ramp_returns_itself_inside():
    image = (0.01 * torch.arange(90, dtype=torch.float64)).expand(1, 60, 90)
    assert_close(piecewise(image, 4.0, 0.1)[..., 15:-15], image[..., 15:-15], 1e-3)


def test_a_huge_range_sigma_gives_the_gaussian_blur():
    image = photograph()[:, 100:200, 100:200]
    assert psnr(piecewise(image, 6.0, 1e4), bilateral_filter(image, 6.0, 1e4)) > 55


def test_a_tiny_range_sigma_acts_as_half_a_level():
    image = photograph()[:, 100:200, 100:200]
    found = piecewise(image, 4.0, 1e-9)
    assert_close(piecewise(image, 4.0, 1e-3), found, 1e-12)
    assert (found - image).abs().max() < 1.5 / 31


def test_shift_and_scale():
    image = photograph()[:, 100:170, 100:190]
    found = piecewise(image, 5.0, 0.1)
    assert_close(piecewise(image + 7, 5.0, 0.1) - 7, found, 1e-11)
    assert_close(piecewise(255 * image, 5.0, 25.5) / 255, found, 1e-12)


def test_within_the_values_of_the_image():
    image = photograph()[:, 100:200, 100:200]
    found = piecewise(image, 8.0, 0.05)
    assert found.min() >= image.min() - 1e-12
    assert found.max() <= image.max() + 1e-12


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (30, 1)])
def test_images_smaller_than_the_window(size):
    image = torch.rand(1, *size, dtype=torch.float64)
    for border in ("reflect", "valid_only"):
        found = piecewise(image, 8.0, 0.3, border=border)
        assert_close(found, bilateral_filter(image, 8.0, 0.3, border=border), 0.06)


def test_radius_0_and_empty_batches():
    image = torch.rand(1, 9, 8)
    assert_close(piecewise(image, 1.0, 0.1, radius=0), image, 1e-5)
    assert piecewise(torch.rand(0, 1, 9, 8), 2.0, 0.1).shape == (0, 1, 9, 8)


def test_a_batch_equals_the_loop(device):
    factors = torch.tensor([1, 5, 0.1], device=device)[:, None, None, None]
    image = torch.rand(3, 1, 20, 22, device=device) * factors
    space = torch.tensor([2.0, 4.0, 2.0], device=device)
    level = torch.tensor([0.2, 1.0, 0.05], device=device)
    found = piecewise(image, space, level)
    for k in range(3):
        alone = piecewise(image[k], float(space[k]), float(level[k]))
        assert_close(found[k], alone, 1e-5)


def test_strips_do_not_show(monkeypatch):
    from torchops.bilateral import lattice

    image = torch.rand(2, 1, 61, 23, dtype=torch.float64)
    whole = {method: bilateral_filter(image, 4.0, 0.2, method=method) for method in FAST}
    monkeypatch.setattr(lattice, "BLOCK", 1)
    for method, expected in whole.items():
        found = bilateral_filter(image, 4.0, 0.2, method=method)
        assert_close(found, expected, 1e-13, method)


FAST = ("grid", "piecewise")


def test_masks_and_what_is_not_finite():
    image = photograph()[:, 100:160, 100:160].clone()
    mask = torch.rand(1, 60, 60) > 0.3
    exact = bilateral_filter(image, 4.0, 0.2, mask=mask)
    broken = torch.where(mask, image, torch.nan)
    assert psnr(piecewise(broken, 4.0, 0.2, mask=mask, guide=image), exact) > 45
    found = piecewise(broken, 4.0, 0.2)
    assert (found[~mask] == 0).all()
    assert psnr(found[mask], exact[mask]) > 45
    assert (piecewise(image, 4.0, 0.2, mask=torch.zeros(1, 60, 60)) == 0).all()


@pytest.mark.parametrize("method", FAST)
def test_a_nan_that_counts_stays_near(method):
    image = torch.rand(1, 90, 90)
    image[0, 40, 40] = torch.nan
    found = bilateral_filter(image, 3.0, 0.2, guide=torch.rand(1, 90, 90), method=method)
    assert found[..., 33:48, 33:48].isnan().all()
    assert found[..., :20, :].isfinite().all()
    assert found[..., 60:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_dtypes(dtype):
    image = photograph()[:, 100:150, 100:150]
    image = (image * 255).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)
    level = 25.0 if dtype == torch.uint8 else 0.1
    found = piecewise(image, 4.0, level)
    assert found.dtype == dtype
    expected = piecewise(image.double(), 4.0, level)
    rounding = 0.51 if dtype == torch.uint8 else max(torch.finfo(dtype).eps, 1e-5)
    assert_close(found, expected, rounding)
    if dtype != torch.uint8:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(piecewise(image, 4.0, level), found)


def test_layouts():
    image = smooth_image(2, 1, 24, 20)
    expected = piecewise(image, 3.0, 0.1)
    for name, other in layouts(image):
        assert_close(piecewise(other, 3.0, 0.1), expected, 1e-14, name)


def test_a_nan_sigma_spoils_its_own_sample_only():
    image = torch.rand(2, 1, 16, 16)
    for space, level in (
        (torch.tensor([1.0, torch.nan]), 0.3),
        (1.0, torch.tensor([0.1, torch.nan])),
    ):
        found = piecewise(image, space, level)
        assert found[1].isnan().all()
        assert found[0].isfinite().all()


def test_module():
    image = torch.rand(2, 1, 16, 18)
    module = BilateralFilter(3.0, 0.2, method="piecewise")
    assert torch.equal(module(image), piecewise(image, 3.0, 0.2))
