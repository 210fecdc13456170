"""The enhanced correlation coefficient: its step, its invariance, and OpenCV's own conditions."""

import cv2
import numpy as np
import pytest
import torch
from helpers import assert_close, photograph, smooth_image

from benchmarks.alignment_protocol import corner_error, corners, translation, trials
from torchops import AlignmentStatus, align, motion_jacobian, motion_matrix, warp_image, warp_points
from torchops._common.smoothing import gaussian_blur
from torchops.alignment import template

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def camera():
    return gaussian_blur(photograph(), 1.0)


@algorithms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gain_and_bias_change_nothing(camera, algorithm, dtype):
    cut, _, true, start = trials(camera * 255, 2, 8)
    options = {"initial": start, "levels": 1, "algorithm": algorithm, "iterations": 50, "tol": 1e-4}
    cut, image = cut.to(dtype), (camera * 255).to(dtype)
    plain = align(cut, image, objective="ecc", **options)
    lit = align(cut, 1.7 * image + 20, objective="ecc", **options)
    assert corner_error(plain.matrix, true).max() < 1e-3
    assert corner_error(lit.matrix, plain.matrix.double()).max() < 1e-4
    assert_close(lit.error, plain.error, 1e-3)  # in units of the template, which has no gain
    # The sum of squared differences takes the light for motion.
    wrong = align(cut, 1.7 * image + 20, **options)
    assert corner_error(wrong.matrix, true).median() > 1


@algorithms
def test_the_fixed_point_maximises_the_correlation(algorithm):
    image = smooth_image(1, 60, 60)
    cut = warp_image(image, translation(12.4, 11.7), (32, 32))
    cut = 0.6 * cut + 0.3 + 0.02 * smooth_image(1, 32, 32, seed=4)

    def correlation(x, y):
        seen = warp_image(image, translation(x, y), (32, 32))
        a, b = seen - seen.mean(), cut - cut.mean()
        return (a * b).sum() / (a.norm() * b.norm())

    options = {"motion": "translation", "algorithm": algorithm, "initial": translation(11, 12)}
    found = align(cut, image, objective="ecc", levels=1, tol=1e-8, **options)
    assert found.converged
    x, y = found.matrix[:2, 2].tolist()
    # Differences stand for derivatives; inverse compositional and ESM take them elsewhere, too.
    reach = 0.02 if algorithm.startswith("forward") else 0.1
    best = correlation(x, y)
    for dx, dy in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
        assert correlation(x + dx, y + dy) < best


def _textbook_step(warped, reference, slopes):
    """Equation 19 of Evangelidis and Psarakis on explicit zero-mean vectors."""
    g = slopes - slopes.mean(0)
    w, r = warped - warped.mean(), reference - reference.mean()
    projection = g @ torch.linalg.solve(g.mT @ g, g.mT)
    gain = (w @ w - w @ projection @ w) / (r @ w - r @ projection @ w)
    return torch.linalg.solve(g.mT @ g, g.mT @ (gain * r - w))


def test_one_forward_additive_step_is_the_papers(camera):
    cut, side, scale = 0.7 * trials(camera, 2, 1)[0][0] + 0.2, 100, 99 / 2
    start = translation(206.5, 206.5)
    grid = torch.linspace(-1, 1, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    to_pixels = torch.tensor([[scale, 0, scale], [0, scale, scale], [0, 0, 1]], dtype=torch.float64)
    counts = torch.ones_like(camera[None], dtype=torch.bool)
    gx, gy = template.image_gradient(camera[None], counts)[0]
    seen = [warp_image(i, start, (side, side)).flatten() for i in (camera, gx, gy)]
    zero = torch.zeros(6, dtype=torch.float64)
    slopes = torch.stack(seen[1:], -1) * scale
    descent = (slopes[:, None] @ motion_jacobian(points, zero, "affine"))[:, 0]
    p = _textbook_step(seen[0], cut.flatten(), descent)
    expected = start @ to_pixels @ motion_matrix(p, "affine") @ torch.linalg.inv(to_pixels)
    found = align(
        cut,
        camera,
        motion="affine",
        algorithm="forward_additive",
        objective="ecc",
        initial=start,
        levels=1,
        iterations=1,
        tol=0,
    )
    assert_close(found.matrix, expected, 1e-8)


def test_inverse_compositional_swaps_the_images(camera):
    # Its step is the paper's with the template moving, and the warp takes the inverse of it.
    cut, side, scale = trials(camera, 2, 1)[0][0], 100, 99 / 2
    image, start = 0.7 * camera + 0.2, translation(206.5, 206.5)
    grid = torch.linspace(-1, 1, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    to_pixels = torch.tensor([[scale, 0, scale], [0, scale, scale], [0, 0, 1]], dtype=torch.float64)
    counts = torch.ones_like(cut[None], dtype=torch.bool)
    slopes = template.image_gradient(cut[None], counts)[0, :, 0].flatten(1).mT * scale
    zero = torch.zeros(8, dtype=torch.float64)
    descent = (slopes[:, None] @ motion_jacobian(points, zero, "homography"))[:, 0]
    seen = warp_image(image, start, (side, side)).flatten()
    p = _textbook_step(cut.flatten(), seen, descent)
    increment = torch.linalg.inv(motion_matrix(p, "homography"))
    expected = start @ to_pixels @ increment @ torch.linalg.inv(to_pixels)
    found = align(cut, image, objective="ecc", initial=start, levels=1, iterations=1, tol=0)
    assert_close(found.matrix, expected / expected[2, 2], 1e-8)


def test_error_is_the_residual_after_the_best_gain_and_bias(camera):
    cut, _, _, start = trials(camera, 1, 3)
    cut = cut + 0.05 * smooth_image(3, 1, 100, 100)
    found = align(cut, 0.5 * camera + 0.1, objective="ecc", initial=start, levels=1)
    for k in range(3):
        seen = warp_image(0.5 * camera + 0.1, found.matrix[k], (100, 100)).flatten()
        terms = torch.stack([seen, torch.ones_like(seen)], -1)
        fit = torch.linalg.lstsq(terms, cut[k].flatten()).solution
        rms = (terms @ fit - cut[k].flatten()).square().mean().sqrt()
        assert_close(found.error[k], rms, 1e-9)


@algorithms
def test_channels_share_a_gain_and_keep_their_own_bias(algorithm):
    image = smooth_image(3, 60, 60)
    true = translation(12.4, 11.7)
    cut = warp_image(image, true, (32, 32))
    bias = torch.tensor([0.3, -0.2, 5.0], dtype=torch.float64)[:, None, None]
    options = {"motion": "affine", "algorithm": algorithm, "initial": translation(12, 12)}
    found = align(cut, 2.5 * image + bias, objective="ecc", tol=1e-8, **options)
    assert found.converged
    assert corner_error(found.matrix, true, 32) < 1e-5
    assert found.error < 1e-5


@algorithms
def test_a_negative_picture_is_not_mistaken_for_a_match(algorithm, camera):
    cut, _, true, start = trials(camera, 1, 4)
    found = align(1 - cut, camera, algorithm=algorithm, objective="ecc", initial=start, levels=1)
    assert torch.isfinite(found.matrix).all()
    contrast = (cut - cut.mean((-2, -1), keepdim=True)).square().mean((-3, -2, -1)).sqrt()
    at_the_truth = corner_error(found.matrix, true) < 0.1
    assert not (at_the_truth & (found.error < 0.5 * contrast)).any()


@algorithms
def test_constant_images_are_named(algorithm):
    flat, cut = torch.full((1, 40, 40), 0.5), smooth_image(1, 20, 20).float()
    found = align(flat[:, :20, :20], flat, algorithm=algorithm, objective="ecc")
    assert found.status == AlignmentStatus.SINGULAR
    found = align(cut, flat, algorithm=algorithm, objective="ecc")
    assert torch.isfinite(found.matrix).all()
    assert torch.isfinite(found.error)
    assert found.status == AlignmentStatus.SINGULAR
    assert_close(found.matrix, torch.eye(3), 0)


# OpenCV's modules/video/test/test_ecc.cpp: a 216 x 216 picture, random warps of these sizes, 50
# iterations from the identity. Its measure mixes units; the corners here are in pixels.
def _affine(u):
    linear = [size * (2 * v - 1) for size, v in zip((0.05, 0.03, 0.03, 0.05), u[2:6], strict=True)]
    return [*linear, 10 + 10 * u[0], 10 + 10 * u[1]]


CONDITIONS = {
    "translation": lambda u: [10 + 10 * u[0], 10 + 10 * u[1]],
    "euclidean": lambda u: [
        np.pi / 30 + np.pi / 90 * (2 * u[2] - 1),
        10 + 10 * u[0],
        10 + 10 * u[1],
    ],
    "affine": _affine,
    "homography": lambda u: [*_affine(u), 1e-4 + 2e-4 * u[6], 1e-4 + 2e-4 * u[7]],
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("motion", CONDITIONS)
def test_conditions_of_opencvs_own_test(motion, masked, camera):
    # The picture stands out around the template, as the warped one does in OpenCV's test.
    image = torch.nn.functional.interpolate(
        camera[None], (216, 216), mode="bicubic", antialias=True, align_corners=False
    )[0]
    draws = np.random.default_rng(3).random((6, 8))
    parameters = torch.tensor(np.array([CONDITIONS[motion](u) for u in draws]))
    true = motion_matrix(parameters, motion)
    moving = warp_image(image, true, (216, 216))  # moving(x) = image(W x)
    seen = warp_image(torch.ones_like(image), true, (216, 216)) > 0.999
    mask = None
    if masked:
        seen = seen.clone()
        seen[..., :72, :72] = False
        moving = torch.where(seen, moving, 0)
        mask = seen
    found = align(
        moving.float(),
        image.float(),
        motion=motion,
        objective="ecc",
        template_mask=seen if mask is None else mask,
        iterations=50,
        tol=1e-4,
    )
    goal = warp_points(corners(216), true)
    error = (warp_points(corners(216), found.matrix.double()) - goal).norm(dim=-1).amax(-1)
    assert found.converged.all()
    assert error.max() < 0.01


def test_as_often_at_the_goal_as_opencv(camera):
    image = (camera * 255).float()
    cut, _, true, start = trials(image, 6, 40, motion="affine")
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, -1)
    peers = 0
    for k in range(40):
        warp = start[:2].numpy().astype(np.float32).copy()
        try:
            warp = cv2.findTransformECC(
                cut[k, 0].numpy(), image[0].numpy(), warp, cv2.MOTION_AFFINE, stop, None, 1
            )[1]
        except cv2.error:
            continue
        matrix = torch.cat([torch.tensor(warp).double(), torch.tensor([[0.0, 0.0, 1.0]])])
        peers += (corner_error(matrix, true[k]) < 1).item()
    for algorithm in ("forward_additive", "esm"):
        found = align(
            cut,
            image,
            motion="affine",
            algorithm=algorithm,
            objective="ecc",
            initial=start,
            levels=1,
            iterations=15,
            tol=0,
        )
        assert (corner_error(found.matrix, true) < 1).sum() >= peers - 1
