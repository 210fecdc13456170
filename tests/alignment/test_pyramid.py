"""Coarse to fine: a wider basin, the same answer, no level that makes things worse."""

import pytest
import torch
from helpers import assert_close, photograph, smooth_image

from benchmarks.alignment_protocol import corner_error, corners, translation, trials
from torchops import (
    LucasKanadeAligner,
    align,
    motion_matrix,
    motion_parameters,
    warp_image,
    warp_points,
)
from torchops._common.smoothing import gaussian_blur
from torchops.alignment import pyramid


@pytest.fixture(scope="module")
def camera():
    return gaussian_blur(photograph(), 1.0)


@pytest.mark.parametrize("x", [90, 110])
@pytest.mark.parametrize("y", [90, 110])
@pytest.mark.parametrize("sigma", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_scenario_of_the_question_from_every_side(x, y, sigma):
    image = gaussian_blur(photograph(), sigma)
    found = align(image[:, 100:200, 100:200], image, initial=translation(x, y))
    assert found.converged
    assert corner_error(found.matrix, translation(100, 100)) < 0.01


def test_the_basin_is_wider(camera):
    cut, _, true, start = trials(camera, 10, 40)
    good = [
        corner_error(align(cut, camera, initial=start, levels=n).matrix, true) < 0.01
        for n in (1, 3)
    ]
    assert good[1].sum() > good[0].sum()
    assert good[1].sum() >= 39


def test_defaults_at_sigma_4(camera):
    cut, _, true, start = trials(camera, 4)
    found = align(cut, camera, initial=start)
    good = corner_error(found.matrix, true) < 0.01
    assert good.all()
    assert found.converged.all()


def test_how_many_levels():
    sizes = {(20, 500): 1, (47, 47): 1, (48, 60): 2, (100, 100): 3, (480, 640): 5}
    for size, levels in sizes.items():
        assert pyramid.default_levels(*size) == levels


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("image_side", [96, 97])
def test_a_coarse_warp_is_the_fine_one_seen_from_afar(side, image_side):
    # Templates and images of odd size too: pixel edges, not centres, coincide.
    image = smooth_image(1, 1, image_side, image_side) * 0.5
    matrix = translation(25, 27) @ motion_matrix(
        torch.tensor([0.05, -0.04, 0.03, -0.02, 0, 0, 1e-3, 5e-4], dtype=torch.float64),
        "homography",
    )
    cut = warp_image(image, matrix, (side, side))
    small_cut, small_image = (pyramid.smaller(t, None, 2)[0] for t in (cut, image))
    small = pyramid._rescale(matrix[None], 0.5)
    seen = warp_image(small_image, small, small_cut.shape[-2:])
    # the blurs differ a little: one acts before the warp, the other after
    assert (seen - small_cut)[..., 3:-3, 3:-3].abs().max() < 4e-3
    shifted = pyramid._rescale(matrix[None] @ translation(1, 0), 0.5)
    wrong = warp_image(small_image, shifted, small_cut.shape[-2:])
    assert (wrong - small_cut)[..., 3:-3, 3:-3].abs().max() > 1e-2
    back = pyramid._rescale(small, 2.0)
    points = corners(side)
    assert_close(warp_points(points, back)[0], warp_points(points, matrix), 1e-10)


@pytest.mark.parametrize("motion", ["translation", "euclidean", "similarity"])
def test_levels_of_odd_sizes_stay_in_the_group(camera, motion):
    # Halving 231 and 300 pixels by their own ratios would stretch x against y.
    image = camera[:, :231, :300]
    p = {"translation": [3.0, -2], "euclidean": [0.03, 3, -2], "similarity": [0.02, 0.03, 3, -2]}
    true = motion_matrix(torch.tensor(p[motion], dtype=torch.float64), motion)
    cut = warp_image(camera, true, (231, 300))
    found = align(cut, image, motion=motion, levels=4)
    assert found.converged
    motion_parameters(found.matrix, motion)  # raises outside the group
    inside = warp_points(corners(150) + 40, found.matrix) - warp_points(corners(150) + 40, true)
    assert inside.norm(dim=-1).max() < 0.01


def test_holes_stay_holes(camera):
    cut, _, true, start = trials(camera, 6, 8)
    mask = torch.ones(1, 100, 100, dtype=torch.bool)
    mask[:, 30:60, 40:75] = False
    seen = torch.ones(1, 512, 512, dtype=torch.bool)
    seen[:, 215:245, 215:240] = False
    expected = align(cut, camera, initial=start, template_mask=mask, image_mask=seen)
    spoilt = torch.where(mask, cut, 7.0), torch.where(seen, camera, torch.nan)
    found = align(spoilt[0], spoilt[1], initial=start, template_mask=mask)
    assert_close(found.matrix, expected.matrix, 1e-6)
    assert corner_error(found.matrix, true).max() < 0.01


@pytest.mark.parametrize("algorithm", ["forward_additive", "esm"])
def test_batch_module_and_the_algorithms(camera, algorithm):
    cut, _, true, start = trials(camera, 8, 5)
    together = align(cut, camera, initial=start, algorithm=algorithm)
    module = LucasKanadeAligner(cut, algorithm=algorithm)
    assert_close(module(camera, start).matrix, together.matrix, 1e-9)
    for i in range(5):
        alone = align(cut[i], camera, initial=start, algorithm=algorithm)
        assert corner_error(alone.matrix, together.matrix[i]) < 1e-5
        assert alone.status == together.status[i]
    assert corner_error(together.matrix, true).max() < 0.01


@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
def test_gradients_are_those_of_the_full_size(camera, gradient):
    cut, _, _, start = trials(camera, 4, 2)
    cut = (cut + 0.02 * torch.randn(cut.shape, dtype=cut.dtype)).requires_grad_()
    options = {"tol": 1e-9, "gradient": gradient, "iterations": 100}
    results = []
    for levels in (1, 3):
        matrix = align(cut, camera, initial=start, levels=levels, **options).matrix
        results.append((matrix, torch.autograd.grad(matrix[:, 0, 2].sum(), cut)[0]))
    assert_close(results[0][0], results[1][0], 1e-6)
    scale = results[0][1].abs().max().item()
    assert_close(results[0][1], results[1][1], 1e-4 * scale)


def test_a_level_that_raises_the_error_is_dropped(camera, monkeypatch):
    cut, _, true, _ = trials(camera, 1, 3)
    calls = []

    def misleading(problem, iterations, tol):
        state = original(problem, iterations, tol)
        calls.append(problem)
        away = state.best.clone()
        away[:, 0, 2] += 0.5
        return state._replace(best=away)

    original = pyramid.iterate
    monkeypatch.setattr(pyramid, "iterate", misleading)
    found = align(cut, camera, initial=true, levels=3)
    assert len(calls) == 3
    assert corner_error(found.matrix, true).max() < 1e-6


def test_a_constant_template_comes_back_as_it_was(camera):
    found = align(torch.full((1, 100, 100), 0.5).double(), camera, initial=translation(90, 70))
    assert found.status == 3
    assert_close(found.matrix, translation(90, 70), 0)
