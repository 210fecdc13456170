"""Centred and scaled coordinates: conditioning, and templates far from the origin."""

import numpy as np
import pytest
import torch
from helpers import assert_close, photograph
from PIL import Image

from benchmarks.alignment_protocol import corner_error, corners, through_points, translation, trials
from torchops import align, motion_jacobian, warp_points
from torchops._common.smoothing import gaussian_blur
from torchops.alignment.template import image_gradient, prepare_template

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")


def test_condition_and_closed_form_of_the_hessian():
    cut = gaussian_blur(photograph(), 1.0)[None, :, 206:306, 206:306]
    counts = torch.ones_like(cut, dtype=torch.bool)
    slopes = image_gradient(cut, counts)[0, :, 0].flatten(1).T
    grid = torch.arange(100.0, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    zero = torch.zeros(8, dtype=torch.float64)
    descent = (slopes[:, None] @ motion_jacobian(points, zero, "homography"))[:, 0]
    raw = descent.mT @ descent
    assert torch.linalg.cond(raw) > 1e9
    found = prepare_template(cut, None, "homography").matrix[0]
    assert torch.linalg.cond(found) < 200
    # It is the same matrix in other coordinates: with explicit ones it comes out again.
    descent = slopes[:, None] * 49.5
    points = (points - 49.5) / 49.5
    descent = (descent @ motion_jacobian(points, zero, "homography"))[:, 0]
    assert_close(found, descent.mT @ descent, 1e-9 * found.abs().max().item())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_template_far_from_the_origin_in_float32(algorithm):
    image = gaussian_blur(photograph(), 1.0).float()
    far = torch.nn.functional.pad(image, (1000, 0, 1000, 0))
    cut, _, true, start = trials(image, 3, 4)
    moved = translation(1000, 1000)
    near = align(cut, image, algorithm=algorithm, initial=start, tol=1e-4)
    found = align(cut, far, algorithm=algorithm, initial=moved @ start, tol=1e-4)
    assert found.converged.all()
    assert corner_error(found.matrix, moved @ true).max() < 1e-3
    assert (found.iterations - near.iterations).abs().max() <= 1


def test_a_real_pair_from_starts_ten_pixels_off(shared_data):
    # graf, views 1 and 3: other light and a wall that is not quite flat, so contrast is normalised
    # and the ground truth is met to a pixel or two.
    folder = shared_data / "homography" / "graf"
    pictures = []
    for name in ("graf1.png", "graf3.png"):
        with Image.open(folder / name) as picture:
            gray = torch.from_numpy(np.array(picture.convert("L"))).double()[None] / 255
        mean = gaussian_blur(gray, 15.0)
        spread = (gaussian_blur((gray - mean) ** 2, 15.0) + 1e-4).sqrt()
        pictures.append(gaussian_blur((gray - mean) / spread, 2.0))
    first, second = pictures
    true = torch.from_numpy(np.loadtxt(folder / "H1to3p.txt")) @ translation(300, 200)
    true = true / true[2, 2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(10, 4, 2, generator=generator, dtype=torch.float64)
    away = warp_points(corners(200), true) + 10 / 2**0.5 * noise
    starts = through_points(corners(200), away, "homography")
    found = align(first[:, 200:400, 300:500], second, algorithm="esm", initial=starts)
    assert corner_error(found.matrix, true, 200).median() < 2, corner_error(found.matrix, true, 200)
    assert found.converged.sum() >= 8
