"""Sampling at pixel coordinates, against grid_sample, SciPy and closed forms."""

import numpy as np
import pytest
import torch
from helpers import assert_close, smooth_image
from scipy.ndimage import map_coordinates

from torchops._common.sampling import inside, reflect_index, sample_at
from torchops._common.smoothing import spline_coefficients


def grid(height, width, dtype=torch.float64):
    y, x = torch.meshgrid(
        torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype), indexing="ij"
    )
    return x, y


@pytest.mark.parametrize("border", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 3), (40, 513)])
def test_integer_positions_return_the_stored_values_exactly_in_float32(mode, border, size):
    image = torch.rand(2, *size)
    x, y = grid(*size, dtype=torch.float32)
    assert torch.equal(sample_at(image, x, y, mode=mode, border=border), image)


@pytest.mark.parametrize(("border", "padding"), [("zeros", "zeros"), ("replicate", "border")])
def test_bilinear_is_grid_sample_inside_and_outside(border, padding):
    image = smooth_image(2, 3, 9, 11)
    x = torch.rand(2, 6, 5, dtype=torch.float64) * 19 - 4
    y = torch.rand(2, 6, 5, dtype=torch.float64) * 17 - 4
    normalised = torch.stack([2 * x / 10 - 1, 2 * y / 8 - 1], -1)
    expected = torch.nn.functional.grid_sample(
        image, normalised, padding_mode=padding, align_corners=True
    )
    assert_close(sample_at(image, x, y, border=border), expected, 1e-13)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_reflect_reads_the_mirrored_image(mode):
    image = smooth_image(1, 6, 7)
    x = torch.linspace(-30, 30, 61, dtype=torch.float64) + 0.3
    y = torch.full_like(x, 2.0)
    period = 12
    folded = x.remainder(period)
    folded = torch.minimum(folded, period - folded)
    assert_close(
        sample_at(image, x, y, mode=mode, border="reflect"),
        sample_at(image, folded, y, mode=mode, border="reflect"),
        1e-13,
    )


def test_bicubic_reproduces_a_quadratic_image():
    x, y = grid(12, 12)
    image = (x**2 - 3 * x * y + 2 * y**2 + x)[None]
    px = torch.rand(50, dtype=torch.float64) * 7 + 2
    py = torch.rand(50, dtype=torch.float64) * 7 + 2
    expected = (px**2 - 3 * px * py + 2 * py**2 + px)[None]
    assert_close(sample_at(image, px, py, mode="bicubic"), expected, 1e-11)


@pytest.mark.parametrize("border", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients_of_image_and_positions(mode, border):
    image = smooth_image(2, 5, 6).requires_grad_()
    x = torch.tensor([-3.3, 0.4, 2.7, 4.6, 9.2], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.3, -2.6, 2.2, 3.4, 7.7], dtype=torch.float64, requires_grad=True)

    def sample(image, x, y):
        return sample_at(image, x, y, mode=mode, border=border)

    assert torch.autograd.gradcheck(sample, (image, x, y))
    assert torch.autograd.gradgradcheck(sample, (image, x, y))


def test_a_nan_position_gives_nan_there_only():
    image = smooth_image(1, 5, 5)
    x = torch.tensor([1.5, float("nan"), 2.5], dtype=torch.float64)
    result = sample_at(image, x, torch.full_like(x, 2.0), border="zeros")
    assert result.isnan().tolist() == [[False, True, False]]


def test_outside_a_zero_border_an_edge_of_nan_is_not_seen():
    image = torch.full((1, 4, 4), float("nan"), dtype=torch.float64)
    far = torch.tensor([-1.0, 4.0, 50.0], dtype=torch.float64)
    assert torch.equal(sample_at(image, far, far), torch.zeros(1, 3, dtype=torch.float64))


def test_reflect_index_folds_as_often_as_needed_and_size_one_is_replicate():
    index = torch.arange(-7, 9)
    assert reflect_index(index, 3).tolist() == [1, 2, 1, 0] * 4
    assert reflect_index(index, 1).tolist() == [0] * 16


def test_inside_includes_the_border_of_pixel_centres():
    x = torch.tensor([-0.01, 0.0, 4.0, 4.01])
    assert inside(x, torch.zeros(4), 3, 5).tolist() == [False, True, True, False]


def test_vmap_and_compile_see_the_same_values():
    image = smooth_image(3, 2, 6, 7)
    x = torch.rand(3, 9, dtype=torch.float64) * 8 - 1
    y = torch.rand(3, 9, dtype=torch.float64) * 7 - 1
    expected = sample_at(image, x, y, border="reflect")
    mapped = torch.func.vmap(lambda i, x, y: sample_at(i, x, y, border="reflect"))(image, x, y)
    assert_close(mapped, expected, 1e-14)


def test_spline_agrees_with_scipy():
    image = smooth_image(2, 15, 18)
    x, y = 17 * torch.rand(40, dtype=torch.float64), 14 * torch.rand(40, dtype=torch.float64)
    expected = [map_coordinates(c, [y, x], order=3, mode="mirror") for c in image.numpy()]
    actual = sample_at(spline_coefficients(image), x, y, mode="spline", border="reflect")
    assert_close(actual, torch.from_numpy(np.stack(expected)), 1e-6)
