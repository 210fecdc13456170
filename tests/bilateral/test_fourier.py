"""The cosine series against the exact filter of equal support, and its promised error."""

import math

import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st

from torchops import BilateralFilter, bilateral_filter
from torchops.bilateral.fourier import _fast_length, _kernel_error, _terms_for


def fourier(image, sigma_space, sigma_range, **options):
    return bilateral_filter(image, sigma_space, sigma_range, method="fourier", **options)


def psnr(found, expected):
    return -10 * math.log10((found - expected).double().square().mean().item())


@pytest.mark.parametrize(
    ("sigma_range", "terms", "floor"),
    # Published measurements on the same photograph at sigma_space 5, less 1 dB.
    [(0.1, 8, 96.5), (0.1, 10, 124), (0.1, 12, 153), (0.2, 6, 122), (0.05, 16, 108)],
)
def test_close_to_exact_on_a_photograph(sigma_range, terms, floor):
    image = photograph()[:, 100:356, 100:356]
    for border in ("reflect", "valid_only"):
        exact = bilateral_filter(image, 5.0, sigma_range, border=border)
        found = fourier(image, 5.0, sigma_range, border=border, terms=terms)
        assert psnr(found, exact) > floor, border
        single = fourier(image.float(), 5.0, sigma_range, border=border, terms=terms)
        assert psnr(single, exact) > min(floor, 136), border


@pytest.mark.parametrize("sigma_space", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-3, 1e-6])
def test_an_isolated_bright_pixel_is_off_by_no_more_than_the_tolerance(sigma_space, tolerance):
    image = torch.zeros(1, 70, 70, dtype=torch.float64)
    image[0, 40, 37] = 1
    exact = bilateral_filter(image, sigma_space, 0.1)
    error = (fourier(image, sigma_space, 0.1, tolerance=tolerance) - exact).abs().max()
    assert error <= tolerance
    assert error > tolerance / 50  # nor is it much better, which would be paid for in terms
    single = fourier(image.float(), sigma_space, 0.1, tolerance=tolerance)
    assert (single - exact).abs().max() <= tolerance + 1e-4


def test_an_isolated_bright_pixel_on_black_stays_by_default():
    image = torch.zeros(1, 96, 96)
    image[0, 50, 47] = 1
    assert_close(fourier(image, 10.0, 0.1), bilateral_filter(image, 10.0, 0.1), 1e-3)


@given(st.floats(0, 60), st.integers(1, 60))
def test_the_error_of_the_series_is_what_is_stated(ratio, terms):
    ratio = torch.tensor([ratio], dtype=torch.float64)
    period = (ratio + (ratio.square() + 4 * math.pi * (2 * terms + 1)).sqrt()) / 2
    t = torch.linspace(-1, 1, 2001, dtype=torch.float64) * ratio
    k = torch.arange(1, terms + 1, dtype=torch.float64)[:, None] * 2 * math.pi / period
    series = 1 + (2 * torch.exp(-0.5 * k.square()) * torch.cos(k * t)).sum(0)
    error = (series * math.sqrt(2 * math.pi) / period - torch.exp(-0.5 * t.square())).abs().max()
    stated = _kernel_error(ratio, period).item()
    assert error <= stated + 1e-12
    assert error >= 0.3 * stated - 1e-12


@given(st.floats(0, 100), st.floats(1e-9, 0.1))
def test_no_fewer_terms_would_do(ratio, error):
    terms = _terms_for(ratio, error)

    def stated(terms):
        ratios = torch.tensor([ratio], dtype=torch.float64)
        period = (ratios + (ratios.square() + 4 * math.pi * (2 * terms + 1)).sqrt()) / 2
        return _kernel_error(ratios, period).item()

    assert stated(terms) <= error * 1.001
    assert terms == 1 or stated(terms - 1) > error * 0.99


def test_the_known_numbers_of_terms():
    # Searched without a bound, 8, 9 and 13 suffice at a tenth of the range.
    assert [_terms_for(10, e) for e in (1e-3, 1e-4, 1e-6)] == [8, 10, 13]


def test_too_few_terms_are_refused():
    # The sum of the weights may be 0 somewhere: better no result than one that is wrong there.
    image = photograph()[:, 100:150, 100:150]
    assert fourier(image, 5.0, 0.1, terms=4).isnan().all()
    assert fourier(image, 5.0, 0.1, terms=8).isfinite().all()
    both = fourier(image, 5.0, torch.tensor([0.1, 0.3], dtype=torch.float64)[:, None], terms=5)
    assert both[0].isnan().all()
    assert both[1].isfinite().all()


def test_beyond_the_window_by_no_more_than_the_tolerance():
    image = photograph()[:, 100:180, 100:180]
    found = fourier(image, 3.0, 0.05, tolerance=1e-3)
    pad = torch.nn.functional.pad(image, (9, 9, 9, 9), mode="reflect")
    high = torch.nn.functional.max_pool2d(pad, 19, 1)
    low = -torch.nn.functional.max_pool2d(-pad, 19, 1)
    assert (found - high).max() <= 1e-3
    assert (low - found).max() <= 1e-3


def test_a_colour_image_by_its_luminance():
    image = photograph("coffee.png")[:, 50:150, 100:200].float()
    guide = image.mean(0, keepdim=True)
    exact = bilateral_filter(image, 4.0, 0.1, guide=guide)
    assert_close(fourier(image, 4.0, 0.1, guide=guide), exact, 2e-4)


def test_volume():
    volume = torch.rand(1, 9, 11, 10, dtype=torch.float64)
    for border in ("reflect", "valid_only"):
        exact = bilateral_filter(volume, 1.5, 0.2, spatial_dims=3, border=border)
        found = fourier(volume, 1.5, 0.2, spatial_dims=3, border=border, tolerance=1e-9)
        assert_close(found, exact, 1e-9)


def test_own_windows_for_the_axes():
    image = torch.rand(1, 30, 28, dtype=torch.float64)
    for radius in (None, (3, 0), 7):
        exact = bilateral_filter(image, (1.5, 4.0), 0.2, radius=radius)
        found = fourier(image, (1.5, 4.0), 0.2, radius=radius, tolerance=1e-8)
        assert_close(found, exact, 1e-8)


@pytest.mark.parametrize("border", ["reflect", "valid_only"])
def test_a_constant_image_returns_itself(border):
    image = torch.full((2, 1, 21, 34), 0.3, dtype=torch.float64)
    assert_close(fourier(image, 5.0, 0.1, border=border), image, 1e-13)


def test_a_ramp_returns_itself_inside():
    image = (0.01 * torch.arange(90, dtype=torch.float64)).expand(1, 60, 90)
    found = fourier(image, 4.0, 0.1, tolerance=1e-6)
    assert_close(found[..., 15:-15], image[..., 15:-15], 1e-6)


def test_a_huge_range_sigma_gives_the_gaussian_blur():
    image = photograph()[:, 100:170, 100:170]
    assert_close(fourier(image, 4.0, 1e4), bilateral_filter(image, 4.0, 1e4), 1e-4)


def test_shift_and_scale_and_mirror():
    image = photograph()[:, 100:170, 100:190]
    found = fourier(image, 5.0, 0.1)
    assert_close(fourier(image + 7, 5.0, 0.1) - 7, found, 1e-6)
    assert_close(fourier(255 * image, 5.0, 25.5) / 255, found, 1e-9)
    assert_close(fourier(image.flip(-1), 5.0, 0.1).flip(-1), found, 1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (30, 1)])
def test_images_smaller_than_the_window(size):
    image = torch.rand(1, *size, dtype=torch.float64)
    for border in ("reflect", "valid_only"):
        found = fourier(image, 8.0, 0.3, border=border, tolerance=1e-6)
        assert_close(found, bilateral_filter(image, 8.0, 0.3, border=border), 1e-6)


def test_radius_0_and_empty_batches():
    image = torch.rand(1, 9, 8)
    assert_close(fourier(image, 1.0, 0.1, radius=0), image, 1e-5)
    assert fourier(torch.rand(0, 1, 9, 8), 2.0, 0.1).shape == (0, 1, 9, 8)


def test_a_batch_equals_the_loop(device):
    factors = torch.tensor([1, 5, 0.1], device=device)[:, None, None, None]
    image = torch.rand(3, 1, 20, 22, device=device) * factors
    space = torch.tensor([2.0, 4.0, 2.0], device=device)
    level = torch.tensor([0.2, 1.0, 0.05], device=device)
    found = fourier(image, space, level)
    for k in range(3):
        alone = fourier(image[k], float(space[k]), float(level[k]))
        assert_close(found[k], alone, 1e-5)


def test_masks_and_what_is_not_finite():
    image = photograph()[:, 100:160, 100:160].clone()
    mask = torch.rand(1, 60, 60) > 0.3
    exact = bilateral_filter(image, 4.0, 0.2, mask=mask)
    broken = torch.where(mask, image, torch.nan)
    found = fourier(broken, 4.0, 0.2, mask=mask, guide=image)
    assert_close(found[mask], exact[mask], 1e-5)
    known = found != 0  # pixels that do not count may have nothing similar that counts
    assert known.double().mean() > 0.99
    assert_close(found[known], exact[known], 0.05)
    found = fourier(broken, 4.0, 0.2)
    assert (found[~mask] == 0).all()
    assert_close(found[mask], exact[mask], 1e-5)
    assert (fourier(image, 4.0, 0.2, mask=torch.zeros(1, 60, 60)) == 0).all()


@pytest.mark.parametrize("border", ["reflect", "valid_only"])
def test_a_nan_that_counts_spoils_its_window_exactly(border):
    image = torch.rand(2, 40, 41, dtype=torch.float64)
    image[0, 2, 20] = torch.nan
    image[1, 30, 39] = torch.inf
    guide = torch.rand(1, 40, 41, dtype=torch.float64)
    exact = bilateral_filter(image, 2.0, 0.3, guide=guide, border=border)
    found = fourier(image, 2.0, 0.3, guide=guide, border=border, tolerance=1e-6)
    assert torch.equal(found.isfinite(), exact.isfinite())
    assert_close(found.nan_to_num(), torch.where(exact.isfinite(), exact, 0), 1e-6)


def test_a_masked_pixel_far_from_all_that_counts_is_0():
    image = torch.zeros(1, 20, 20, dtype=torch.float64)
    image[..., 10, 10] = 1
    mask = image == 0
    found = fourier(image, 2.0, 0.1, mask=mask)
    assert (found == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_dtypes(dtype):
    image = photograph()[:, 100:150, 100:150]
    image = (image * 255).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)
    level = 25.0 if dtype == torch.uint8 else 0.1
    found = fourier(image, 4.0, level)
    assert found.dtype == dtype
    expected = fourier(image.double(), 4.0, level)
    rounding = 0.51 if dtype == torch.uint8 else max(torch.finfo(dtype).eps, 1e-5)
    assert_close(found, expected, rounding)
    if dtype != torch.uint8:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fourier(image, 4.0, level), found)


def test_layouts():
    image = smooth_image(2, 1, 24, 20)
    expected = fourier(image, 3.0, 0.1)
    for name, other in layouts(image):
        assert_close(fourier(other, 3.0, 0.1), expected, 1e-13, name)


def test_a_nan_sigma_spoils_its_own_sample_only():
    image = torch.rand(2, 1, 16, 16)
    for options in ({}, {"terms": 20}):
        for space, level in (
            (torch.tensor([1.0, torch.nan]), 0.3),
            (1.0, torch.tensor([0.1, torch.nan])),
        ):
            found = fourier(image, space, level, **options)
            assert found[1].isnan().all()
            assert found[0].isfinite().all()


@settings(max_examples=200)
@given(st.integers(1, 5000))
def test_lengths_of_transforms(length):
    fast = _fast_length(length)
    assert length <= fast <= max(1.35 * length, length + 8)
    for factor in (2, 3, 5):
        while fast % factor == 0:
            fast //= factor
    assert fast == 1


def test_module():
    image = torch.rand(2, 1, 16, 18)
    module = BilateralFilter(3.0, 0.2, method="fourier", tolerance=0.01)
    assert torch.equal(module(image), fourier(image, 3.0, 0.2, tolerance=0.01))
    module = BilateralFilter(3.0, 0.2, method="fourier", terms=9)
    assert torch.equal(module(image), fourier(image, 3.0, 0.2, terms=9))
