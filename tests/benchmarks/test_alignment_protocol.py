"""Baker and Matthews' experiment: its trials pose the problem they say, its numbers mean it."""

import sys
from pathlib import Path

import pytest
import torch
from helpers import photograph

import torchops

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as its files are run

import alignment_protocol as protocol

SIDE = 40


@pytest.fixture(scope="module")
def camera():
    return 255 * photograph()


@pytest.mark.parametrize(("motion", "fixed"), [("homography", 4), ("affine", 3)])
def test_the_true_warp_takes_the_corners_to_noise_of_sigma(camera, motion, fixed):
    problem = protocol.trials(camera, 3.0, 400, motion=motion, side=SIDE)
    corners = protocol.corners(SIDE)[:fixed]
    moved = torchops.warp_points(corners, problem.true) - corners
    place = (512 - SIDE) // 2
    assert (moved - place).std() == pytest.approx(3.0, rel=0.1)
    assert (moved - place).mean().abs() < 0.2
    if motion == "affine":
        assert (problem.true[:, 2] == torch.tensor([0.0, 0, 1])).all()
    template = torchops.warp_image(camera, problem.true[7], (SIDE, SIDE))
    assert torch.equal(problem.templates[7], template)
    assert (problem.start[:2, 2] == place + 0.5).all()


def test_corner_error_is_the_root_mean_square_distance():
    true = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    moved = protocol.translation(3, 4)
    assert protocol.corner_error(moved.expand(2, 3, 3), true, SIDE).tolist() == [5, 5]


def test_noise_goes_where_it_is_asked_for(camera):
    clean = protocol.trials(camera, 2.0, 20, side=SIDE)
    on_image = protocol.with_noise(clean, 8.0, "image", realisations=5)
    assert on_image.images.shape == (5, *camera.shape)
    assert torch.equal(on_image.templates, clean.templates)
    assert [len(templates) for templates, _ in on_image.pairs()] == [4] * 5
    on_template = protocol.with_noise(clean, 8.0, "template")
    assert torch.equal(on_template.images, clean.images)
    for noisy, quiet in ((on_image.images, camera), (on_template.templates, clean.templates)):
        assert (noisy - quiet).std() == pytest.approx(8.0, rel=0.02)


def test_every_method_solves_the_easy_trials(camera):
    smooth = torchops.bilateral_filter(camera, 1.0, 1e6)
    problem = protocol.trials(smooth, 1.0, 8)
    for name, solver in protocol.solvers({}).items():
        errors = protocol.corner_error(solver(problem, motion="homography"), problem.true)
        assert protocol.frequency(errors) == 1, name


def test_a_trial_without_a_result_did_not_converge():
    assert protocol.frequency(torch.tensor([0.5, torch.nan, 2.0, 0.1])) == 0.5


def test_rates_are_taken_over_the_trials_that_all_methods_solve():
    one = {1: torch.tensor([2.0, 4.0, 9.0]), 15: torch.tensor([0.1, 0.3, 9.0])}
    other = {1: torch.tensor([1.0, 3.0, 5.0]), 15: torch.tensor([0.2, 0.4, 0.1])}
    found = protocol.rates({"one": one, "other": other})
    assert found["one"] == pytest.approx({1: 3.0, 15: 0.2})
    assert found["other"] == pytest.approx({1: 2.0, 15: 0.3})
    with pytest.raises(ValueError, match="take more trials"):
        protocol.rates({"one": one, "none": {15: torch.full((3,), 5.0)}})
