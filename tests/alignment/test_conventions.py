"""Matrices go to OpenCV and kornia and come back; their own warps show what they mean."""

import cv2
import kornia.geometry as kornia
import numpy as np
import pytest
import torch
from helpers import assert_close, photograph, smooth_image

from benchmarks.alignment_protocol import corner_error, translation
from torchops import from_kornia, from_opencv, motion_matrix, to_kornia, to_opencv, warp_image

W = torch.tensor([[1.05, 0.02, 3.3], [-0.03, 0.97, 5.1], [2e-4, -1e-4, 1.0]], dtype=torch.float64)


def test_opencv_warps_with_the_inverse_map_flag():
    image = smooth_image(1, 60, 70, dtype=torch.float32)
    array = image[0].numpy()
    expected = warp_image(image, W, (40, 50))[0].numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    direct = cv2.warpPerspective(array, to_opencv(W), (50, 40), flags=flags)
    inverted = cv2.warpPerspective(array, to_opencv(W, inverse_map=False), (50, 40))
    # OpenCV rounds positions to 1 / 32 px; the image changes by less than 0.1 a pixel.
    assert np.abs(direct - expected).max() < 0.005
    assert np.abs(inverted - expected).max() < 0.005
    affine = motion_matrix(torch.tensor([0.02, -0.03, 0.05, 0.01, 4.0, 3.0]), "affine")
    expected = warp_image(image, affine, (40, 50))[0].numpy()
    direct = cv2.warpAffine(array, to_opencv(affine, "affine"), (50, 40), flags=flags)
    assert np.abs(direct - expected).max() < 0.005


def test_opencv_ecc_estimates_the_same_matrix():
    image = photograph(dtype=torch.float32)
    image = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    true = W @ translation(150, 120)
    true = true / true[2, 2]
    template = warp_image(image, true, (100, 100))
    start = to_opencv(true @ translation(1.5, -1)).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-8)
    _, found = cv2.findTransformECC(
        template[0].numpy(), image[0].numpy(), start, cv2.MOTION_HOMOGRAPHY, criteria, None, 1
    )
    assert corner_error(from_opencv(found), true) < 0.02


@pytest.mark.parametrize("inverse_map", [True, False])
def test_opencv_round_trip(inverse_map):
    batch = motion_matrix(torch.randn(2, 3, 8, dtype=torch.float64) * 1e-2, "homography")
    array = to_opencv(batch, inverse_map=inverse_map)
    assert array.shape == (2, 3, 3, 3)
    assert_close(from_opencv(array, inverse_map=inverse_map), batch, 1e-13)
    batch = motion_matrix(torch.randn(2, 6, dtype=torch.float64) * 1e-1, "affine")
    array = to_opencv(batch, "affine", inverse_map=inverse_map)
    assert array.shape == (2, 2, 3)
    assert_close(from_opencv(array, inverse_map=inverse_map), batch, 1e-13)


def test_opencv_arrays_are_copies():
    array = np.eye(3)
    matrix = from_opencv(array)
    array[0, 0] = 7
    assert matrix[0, 0] == 1
    matrix = torch.eye(3, dtype=torch.float64)
    to_opencv(matrix)[0, 0] = 7
    assert matrix[0, 0] == 1


@pytest.mark.parametrize("align_corners", [True, False])
def test_kornia_warps_alike(align_corners):
    image = smooth_image(1, 1, 60, 70)
    expected = warp_image(image, W, (40, 50))
    normal = to_kornia(W[None], (40, 50), (60, 70), align_corners=align_corners)
    found = kornia.homography_warp(image, normal, (40, 50), align_corners=align_corners)
    assert_close(found[..., :-1, :-1], expected[..., :-1, :-1], 1e-10)
    pixels = kornia.warp_perspective(image, torch.linalg.inv(W)[None], (40, 50))
    assert_close(pixels[..., :-1, :-1], expected[..., :-1, :-1], 1e-10)
    back = from_kornia(normal, (40, 50), (60, 70), align_corners=align_corners)
    assert_close(back[0], W, 1e-12)


def test_kornias_registrator_returns_what_from_kornia_takes():
    image = smooth_image(1, 1, 64, 64, seed=4, dtype=torch.float32)
    true = translation(1.7, -1.2)
    template = warp_image(image, true, (64, 64), border="replicate")
    registrator = kornia.ImageRegistrator("translation", num_iterations=100, pyramid_levels=3)
    found = registrator.register(image, template)
    last = torch.tensor([[[0.0, 0.0, 1.0]]])
    square = found if found.shape[-2] == 3 else torch.cat([found, last], -2)
    matrix = from_kornia(square.detach(), (64, 64), (64, 64))
    assert corner_error(matrix[0], true, 64) < 0.3


def test_kornia_side_of_one_pixel():
    shift = translation(2, 3)
    for align_corners in (True, False):
        normal = to_kornia(shift, (1, 5), (7, 1), align_corners=align_corners)
        assert_close(from_kornia(normal, (1, 5), (7, 1), align_corners=align_corners), shift, 1e-14)


def test_kornia_gradients_and_dtypes():
    matrix = W.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: to_kornia(m, (4, 5), (6, 7)), matrix)
    assert torch.autograd.gradcheck(lambda m: from_kornia(m, (4, 5), (6, 7)), matrix)
    assert to_kornia(W.half(), (4, 5), (6, 7)).dtype == torch.float32
