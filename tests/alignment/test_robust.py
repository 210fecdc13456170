"""Robust functions and Levenberg-Marquardt: what they are for, and their steps by hand."""

import pytest
import torch
from helpers import assert_close, photograph, smooth_image

from benchmarks.alignment_protocol import corner_error, translation, trials
from torchops import AlignmentStatus, align, motion_jacobian, motion_matrix, warp_image
from torchops._common.smoothing import gaussian_blur
from torchops.alignment import iteration, objective, template

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
kinds = pytest.mark.parametrize("kind", ["huber", "tukey"])


@pytest.fixture(scope="module")
def camera():
    return gaussian_blur(photograph(), 1.0)


def occluded(cut):
    """A bright block over a fifth of the template."""
    cut = cut.clone()
    cut[..., 30:75, 40:85] = 1
    return cut


@kinds
@pytest.mark.parametrize("algorithm", ["inverse_compositional", "esm"])
def test_an_occluding_block_of_a_fifth(camera, algorithm, kind):
    # Where plain least squares are more than half a pixel off, by tens of pixels even.
    cut, _, true, start = trials(camera, 1, 3, motion="affine")
    options = {"motion": "affine", "algorithm": algorithm, "initial": start}
    plain = align(occluded(cut), camera, **options)
    assert corner_error(plain.matrix, true).min() > 0.5
    if algorithm == "inverse_compositional" and kind == "huber":
        options["iterations"] = 200  # the block still pulls, evenly, until the scale has fallen
    found = align(occluded(cut), camera, robust=kind, **options)
    assert corner_error(found.matrix, true).max() < 0.1


@pytest.mark.parametrize("solver", ["gauss_newton", "levenberg_marquardt"])
def test_tukey_with_noise_and_a_block(camera, solver):
    cut, _, true, start = trials(camera, 2, 4)
    cut = occluded(cut) + 4 / 255 * torch.randn(cut.shape, dtype=torch.float64)
    options = {"algorithm": "esm", "initial": start, "solver": solver}
    found = align(cut, camera, robust="tukey", **options)
    assert found.converged.all()
    assert corner_error(found.matrix, true).max() < 0.25
    clean = align(cut, camera, robust="huber", **options)  # does not forget the block altogether
    assert corner_error(found.matrix, true).median() < corner_error(clean.matrix, true).median()


@kinds
def test_without_outliers_the_result_is_that_of_least_squares(camera, kind):
    cut, _, true, start = trials(camera, 2, 4)
    cut = cut + 4 / 255 * torch.randn(cut.shape, dtype=torch.float64)
    plain = align(cut, camera, algorithm="esm", initial=start, levels=1)
    found = align(cut, camera, algorithm="esm", initial=start, levels=1, robust=kind)
    assert found.converged.all()
    # 95 % efficient for Gaussian noise
    ratio = corner_error(found.matrix, true).square().mean().sqrt()
    assert ratio < 1.5 * corner_error(plain.matrix, true).square().mean().sqrt()


def _weights(residual, kind, scale):
    r = residual.square().mean(-2).sqrt() / scale
    if kind == "huber":
        return torch.where(r < 1.345, 1, 1.345 / r)
    return torch.where(r < 4.685, (1 - (r / 4.685) ** 2) ** 2, 0)


@kinds
@pytest.mark.parametrize("channels", [1, 3])
def test_one_step_is_weighted_least_squares(kind, channels):
    # From the second step on: Tukey's function begins with Huber's.
    image = smooth_image(channels, 40, 40)
    generator = torch.Generator().manual_seed(1)
    cut = warp_image(image, translation(9.3, 8.8), (21, 21))
    cut = cut + 0.02 * torch.randn(cut.shape, generator=generator, dtype=torch.float64)
    cut[..., 3:9, 4:12] += 0.5
    start, side, scale = translation(9, 9), 21, 10.0
    grid = torch.linspace(-1, 1, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    to_pixels = torch.tensor([[scale, 0, scale], [0, scale, scale], [0, 0, 1]], dtype=torch.float64)
    counts = torch.ones(1, 1, side, side, dtype=torch.bool)
    slopes = template.image_gradient(cut[None], counts)[0].flatten(-2) * scale  # (2, C, N)
    jacobian = motion_jacobian(points, torch.zeros(6, dtype=torch.float64), "affine")
    descent = torch.einsum("acn,nap->cnp", slopes, jacobian)
    increment, before, first = torch.eye(3, dtype=torch.float64), None, True
    for _ in range(6):
        seen = warp_image(
            image, start @ to_pixels @ increment @ torch.linalg.inv(to_pixels), (21, 21)
        )
        residual = (seen - cut).flatten(1)
        deviation = 1.4826 * residual.abs().median()
        first = first and (before is None or bool(deviation < 0.98 * before))
        before = deviation
        weight = _weights(residual, "huber" if first else kind, deviation)
        h = torch.einsum("cnp,n,cnq->pq", descent, weight, descent)
        b = torch.einsum("cnp,n,cn->p", descent, weight, residual)
        step = motion_matrix(torch.linalg.solve(h, b), "affine")
        increment = increment @ torch.linalg.inv(step)
    assert kind == "huber" or not first  # Tukey's own steps were among them
    expected = start @ to_pixels @ increment @ torch.linalg.inv(to_pixels)
    found = align(
        cut, image, motion="affine", robust=kind, initial=start, levels=1, iterations=6, tol=0
    )
    # The error may have been least before the end, so compare the run that ends here.
    assert_close(found.matrix, expected, 1e-6)


def test_a_pixel_is_an_outlier_with_all_its_channels(camera):
    cut, _, true, start = trials(camera, 1, 4, motion="affine")
    image = torch.cat([camera, camera, camera])
    cut = cut.repeat(1, 3, 1, 1)
    cut[:, 0, 30:75, 40:85] = 1
    options = {"motion": "affine", "algorithm": "esm", "initial": start}
    found = align(cut, image, robust="tukey", **options)
    assert corner_error(found.matrix, true).max() < 0.1


@algorithms
def test_damping_towards_zero_is_gauss_newton(algorithm, camera, monkeypatch):
    cut, _, _, start = trials(camera, 2, 3)
    options = {"algorithm": algorithm, "initial": start, "levels": 1, "iterations": 3, "tol": 0}
    plain = align(cut, camera, **options)
    monkeypatch.setattr(iteration, "DAMPING", 1e-9)
    monkeypatch.setattr(iteration, "LEAST_DAMPING", 1e-12)
    damped = align(cut, camera, solver="levenberg_marquardt", **options)
    assert_close(damped.matrix, plain.matrix, 1e-5)


def test_a_step_of_levenberg_and_marquardt_by_hand(monkeypatch):
    image = smooth_image(1, 40, 40)
    cut = warp_image(image, translation(9.3, 8.8), (21, 21))
    monkeypatch.setattr(iteration, "DAMPING", 0.5)
    found = align(
        cut,
        image,
        motion="translation",
        solver="levenberg_marquardt",
        initial=translation(9, 9),
        levels=1,
        iterations=1,
        tol=0,
    )
    counts = torch.ones(1, 1, 21, 21, dtype=torch.bool)
    slopes = template.image_gradient(cut[None], counts)[0, :, 0].flatten(1)
    residual = (warp_image(image, translation(9, 9), (21, 21)) - cut).flatten()
    h = slopes @ slopes.mT
    step = torch.linalg.solve(h + 0.5 * torch.diag(h.diagonal()), slopes @ residual)
    assert_close(found.matrix[:2, 2], 9 - step, 1e-9)


@pytest.mark.parametrize("objective", ["ssd", "ecc"])
@algorithms
def test_no_step_of_levenberg_and_marquardt_raises_the_error(algorithm, objective, camera):
    cut, _, _, start = trials(camera, 10, 6)
    before = torch.full((6,), torch.inf, dtype=torch.float64)
    for iterations in (1, 2, 3, 5, 8, 13):
        found = align(
            cut,
            camera,
            algorithm=algorithm,
            objective=objective,
            solver="levenberg_marquardt",
            initial=start,
            levels=1,
            iterations=iterations,
            tol=0,
        )
        assert (found.error <= before + 1e-12).all()
        assert (found.status == AlignmentStatus.ITERATION_LIMIT).all()
        before = found.error


def test_where_gauss_newton_overshoots_levenberg_and_marquardt_does_not(camera):
    # A template of less contrast than the image has makes the steps 2.5 times too long.
    cut, _, true, start = trials(camera, 0, 1)
    pale = 0.4 * (cut - cut.mean()) + cut.mean()
    start = start @ translation(0.5, -1)
    options = {"motion": "translation", "initial": start, "levels": 1}
    plain = align(pale, camera, **options)
    damped = align(pale, camera, solver="levenberg_marquardt", **options)
    assert not plain.converged
    assert damped.converged
    assert corner_error(damped.matrix, true).max() < 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"robust": "huber"},
        {"robust": "tukey", "algorithm": "esm"},
        {"solver": "levenberg_marquardt", "algorithm": "esm"},
        {"solver": "levenberg_marquardt", "robust": "tukey"},
        {"objective": "ecc"},
        {"objective": "ecc", "algorithm": "esm", "solver": "levenberg_marquardt"},
    ],
)
def test_a_batch_is_its_samples(camera, options):
    # Different starts, so that samples end at different times and leave the batch.
    image = camera[:, 100:400, 100:400].float()
    cut, _, _, start = trials(image, 4, 16, at=(106, 106), side=48)
    options = {"levels": 1, "iterations": 20, **options}
    cut[3] = 0.5  # singular
    start = start.repeat(16, 1, 1)
    start[5] = translation(1000, 0)  # out of view
    together = align(cut, image, initial=start, **options)
    assert together.iterations.unique().numel() > 3
    for k in range(16):
        alone = align(cut[k], image, initial=start[k], **options)
        assert alone.status == together.status[k]
        assert corner_error(alone.matrix, together.matrix[k].double(), 48) < 1e-5
    assert together.status[3] == AlignmentStatus.SINGULAR
    assert together.status[5] == AlignmentStatus.OUT_OF_VIEW


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "esm", "solver": "levenberg_marquardt"},
        {"algorithm": "forward_additive", "robust": "huber"},
        {"robust": "tukey", "solver": "levenberg_marquardt"},
        {"objective": "ecc"},
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_the_pieces_of_a_batch_change_nothing(camera, monkeypatch, options, shared):
    # 8 samples by threes; some pieces lie inside the image, some do not.
    image = camera[:, 100:300, 100:300]
    cut, _, _, start = trials(image, 3, 8, at=(76, 76), side=48)
    cut = cut[0] if shared else cut
    start = start.repeat(8, 1, 1)
    start[6] = translation(-10, 76)  # partly out of view
    options = {"initial": start, "levels": 1, "iterations": 12, **options}
    whole = align(cut, image, **options)
    looked = []
    original = objective.look

    def counted(problem, increment, clear):
        looked.append((len(increment), clear))
        return original(problem, increment, clear)

    monkeypatch.setattr(objective, "look", counted)
    monkeypatch.setattr(objective, "PIECE_VALUES", 3 * 48 * 48)
    pieces = align(cut, image, **options)
    assert (3, True) in looked
    assert (2, False) in looked
    assert torch.equal(pieces.status, whole.status)
    assert torch.equal(pieces.iterations, whole.iterations)
    assert_close(pieces.matrix, whole.matrix, 1e-9)
    assert_close(pieces.error, whole.error, 1e-9)
