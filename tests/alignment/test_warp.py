"""Warping points and images."""

import cv2
import numpy as np
import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.alignment_protocol import translation
from torchops import motion_matrix, warp_image, warp_points

W = torch.tensor([[1.1, 0.1, 3.0], [-0.05, 0.9, 5.0], [1e-3, -2e-3, 1.0]], dtype=torch.float64)


def test_points_are_opencvs():
    points = torch.rand(9, 2, dtype=torch.float64) * 30
    expected = cv2.perspectiveTransform(points.numpy()[None], W.numpy())[0]
    assert_close(warp_points(points, W), torch.from_numpy(expected), 1e-12)


def test_points_broadcast_and_survive_a_round_trip():
    points = torch.rand(4, 1, 6, 2, dtype=torch.float64) * 30
    matrix = motion_matrix(torch.randn(3, 8, dtype=torch.float64) * 1e-3, "homography")
    there = warp_points(points, matrix)
    assert there.shape == (4, 3, 6, 2)
    back = warp_points(there, torch.linalg.inv(matrix))
    assert_close(back, points.expand_as(back), 1e-11)


def test_a_point_on_the_horizon_is_nan_without_gradient():
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]], requires_grad=True)
    warped = warp_points(torch.tensor([[-1.0, 3.0], [1.0, 3.0]]), matrix)
    assert warped[0].isnan().all()
    (gradient,) = torch.autograd.grad(warped.nansum(), matrix)
    assert torch.isfinite(gradient).all()


def test_an_integer_shift_moves_pixels_exactly(device):
    image = torch.rand(2, 3, 9, 11, device=device)
    matrix = translation(2, 3).to(device)
    assert_close(warp_image(image, matrix, (6, 9)), image[..., 3:, 2:], 0)
    outside = warp_image(image, matrix, (8, 9))
    assert (outside[..., 6:, :] == 0).all()


def test_a_quarter_turn_is_exact():
    image = torch.rand(1, 8, 8, dtype=torch.float64)
    turn = torch.tensor([[0.0, -1, 7], [1, 0, 0], [0, 0, 1]])
    for mode in ("bilinear", "bicubic"):
        assert_close(warp_image(image, turn, (8, 8), mode=mode), image.rot90(1, (1, 2)), 1e-15)


def test_a_homography_warp_used_in_the_wrong_direction():
    # warpPerspective without WARP_INVERSE_MAP inverts the matrix: it samples at W^-1.
    image = photograph(dtype=torch.float32)
    array = image[0].numpy()
    size = (60, 50)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    right = torch.from_numpy(cv2.warpPerspective(array, W.numpy(), size, flags=flags))
    wrong = torch.from_numpy(cv2.warpPerspective(array, W.numpy(), size))
    found = warp_image(image, W, (50, 60))[0]
    # OpenCV rounds positions to 1 / 32 px
    assert (found - right).abs().mean() < 2e-3
    assert (found - wrong).abs().mean() > 2e-2
    shifted = warp_image(image, translation(100, 100), (100, 100))
    assert_close(shifted, image[:, 100:200, 100:200], 0)


@pytest.mark.parametrize("border", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_borders_continue_the_image_as_they_say(mode, border):
    image = smooth_image(1, 12, 12)
    found = warp_image(image, translation(-4, 2), (8, 20), mode=mode, border=border)
    pad = {"zeros": "constant", "replicate": "edge", "reflect": "reflect"}[border]
    padded = torch.from_numpy(np.pad(image[0].numpy(), 4, mode=pad))
    assert_close(found[0], padded[6:14, :20], 1e-15)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
def test_any_size_and_the_identity_inside(height, width, h, w):
    image = torch.rand(1, height, width)
    found = warp_image(image, torch.eye(3), (h, w))
    assert found.shape == (1, h, w)
    assert_close(found[:, :height, :width], image[:, :h, :w], 0)


def test_pixels_behind_the_horizon_are_zero():
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.25, 0, 1]])
    for border in ("zeros", "replicate", "reflect"):
        found = warp_image(torch.ones(1, 6, 6), matrix, (1, 8), border=border)
        assert (found[..., 4:] == 0).all()
        assert found[..., 0] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_image_keeps_its_dtype(dtype, device):
    image = smooth_image(2, 20, 20).to(device, dtype)
    found = warp_image(image, W.to(device), (15, 15))
    assert found.dtype == dtype
    exact = warp_image(image.double(), W.to(device), (15, 15))
    # positions near 16 px are rounded too; the image changes by less than 0.15 a pixel
    assert_close(found, exact, torch.finfo(dtype).eps * (1 + 0.15 * 16 * 2))


def test_batches_broadcast_and_equal_the_loop():
    image = smooth_image(3, 1, 2, 16, 18)
    matrix = motion_matrix(torch.randn(4, 8, dtype=torch.float64) * 1e-3, "homography")
    found = warp_image(image, matrix, (9, 7))
    assert found.shape == (3, 4, 2, 9, 7)
    for i in range(3):
        for j in range(4):
            assert_close(found[i, j], warp_image(image[i, 0], matrix[j], (9, 7)), 0)
    assert warp_image(image[:0], matrix[:1], (9, 7)).shape == (0, 1, 2, 9, 7)


def test_layouts():
    image = smooth_image(2, 3, 16, 18)
    expected = warp_image(image, W, (9, 7))
    for name, same in layouts(image):
        assert_close(warp_image(same, W, (9, 7)), expected, 0, name)


@pytest.mark.parametrize(
    "border", ["zeros", "replicate", pytest.param("reflect", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients(mode, border):
    image = smooth_image(1, 5, 6).requires_grad_()
    matrix = (W + translation(0.31, 0.17) - torch.eye(3)).requires_grad_()

    def warp(image, matrix):
        return warp_image(image, matrix, (3, 4), mode=mode, border=border)

    assert torch.autograd.gradcheck(warp, (image, matrix))
    assert torch.autograd.gradgradcheck(warp, (image, matrix))
    points = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(warp_points, (points, matrix))
    assert torch.autograd.gradgradcheck(warp_points, (points, matrix))


def test_function_transforms_and_autocast(device):
    image = smooth_image(3, 1, 9, 9, dtype=torch.float32).to(device)
    matrix = W.to(device).expand(3, 3, 3)
    expected = warp_image(image, matrix, (5, 5))
    found = torch.func.vmap(lambda i, m: warp_image(i, m, (5, 5)))(image, matrix)
    assert_close(found, expected, 0)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_close(warp_image(image, matrix, (5, 5)), expected, 0)
    jacobian = torch.func.jacrev(lambda m: warp_image(image[0], m, (5, 5)))(W.to(device))
    assert jacobian.shape == (1, 5, 5, 3, 3)
