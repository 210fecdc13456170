"""Smoothing, derivatives and resizing, against SciPy, torch and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers import assert_close, smooth_image

from torchops._common.smoothing import (
    central_difference,
    gaussian_blur,
    gaussian_taps,
    pad_axis,
    resize,
)


@pytest.mark.parametrize(
    ("border", "scipy_mode"), [("reflect", "mirror"), ("replicate", "nearest")]
)
@pytest.mark.parametrize("sigma", [0.6, 2.0, 5.0])
def test_gaussian_blur_is_scipys(border, scipy_mode, sigma):
    image = smooth_image(2, 13, 8)
    radius = len(gaussian_taps(sigma)) // 2
    expected = scipy.ndimage.gaussian_filter(
        image.numpy(), (0, sigma, sigma), mode=scipy_mode, radius=radius
    )
    assert_close(gaussian_blur(image, sigma, border=border), torch.from_numpy(expected), 1e-12)


def test_a_sigma_of_zero_changes_nothing():
    image = smooth_image(1, 5, 5)
    assert torch.equal(gaussian_blur(image, 0.0), image)


@pytest.mark.parametrize(("border", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge")])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_padding_is_numpys_even_when_wider_than_the_image(border, numpy_mode, size):
    image = torch.rand(3, size, dtype=torch.float64)
    expected = np.pad(image.numpy(), [(0, 0), (7, 9)], mode=numpy_mode)
    assert torch.equal(pad_axis(image, -1, 7, 9, border), torch.from_numpy(expected))


def test_central_difference_has_the_half_and_points_right():
    ramp = torch.arange(7, dtype=torch.float64).expand(1, 4, 7) * 3
    inner = central_difference(ramp, -1)[..., 1:-1]
    assert torch.equal(inner, torch.full_like(inner, 3.0))
    assert torch.equal(central_difference(ramp, -2), torch.zeros_like(ramp))


@pytest.mark.parametrize("size", [(3, 4), (9, 14), (1, 1), (5, 7), (10, 3)])
def test_resize_is_torchs_half_pixel_centred_bilinear(size):
    image = smooth_image(2, 1, 5, 7)
    expected = torch.nn.functional.interpolate(
        image, size, mode="bilinear", align_corners=False, antialias=False
    )
    assert_close(resize(image, size), expected, 1e-13)


def test_smoothing_differentiates():
    image = smooth_image(1, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda i: resize(gaussian_blur(i, 0.8), (3, 4)), (image,))
