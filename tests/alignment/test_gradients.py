"""Gradients of the solution against finite differences of the whole alignment."""

import pytest
import torch
from helpers import assert_close, smooth_image

from benchmarks.alignment_protocol import translation
from torchops import LucasKanadeAligner, align, motion_matrix, warp_image
from torchops.alignment import implicit
from torchops.alignment.template import prepare_template

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")
MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")
# A pixel or two off: the end of inverse compositional is below the error of the start.
START = translation(7.3, 4.7)
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def noisy_pair(*batch, channels=1, noise=0.02, seed=3, side=14):
    """A small template that no warp fits: the residual at the solution is far from zero."""
    generator = torch.Generator().manual_seed(seed)
    image = smooth_image(*batch, channels, 24, 26, seed=seed)
    p = torch.tensor([0.02, -0.03, 0.04, 0.01, 6.3, 5.6, 4e-4, -3e-4], dtype=torch.float64)
    cut = warp_image(image, motion_matrix(p, "homography"), (side, side))
    return cut + noise * torch.randn(cut.shape, generator=generator, dtype=torch.float64), image


def directional(function, inputs, step=1e-6):
    """Central finite difference along a random direction, and that direction."""
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
    forward = function(*(t + step * d for t, d in zip(inputs, direction, strict=True)))
    backward = function(*(t - step * d for t, d in zip(inputs, direction, strict=True)))
    return (forward - backward) / (2 * step), direction


def assert_gradient(matrix, inputs, numeric, direction, tolerance):
    """Compare the gradient of a random sum of the matrix with its finite difference."""
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad((matrix * weights).sum(), inputs)
    found = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    expected = (numeric * weights).sum()
    assert abs(found - expected) < tolerance * (numeric.abs() * weights.abs()).sum()


@algorithms
@pytest.mark.parametrize(
    "motion",
    [
        pytest.param(m, marks=pytest.mark.slow if m in ("euclidean", "similarity") else ())
        for m in MOTIONS
    ],
)
def test_implicit_gradient_at_a_residual_that_is_not_zero(motion, algorithm):
    cut, image = noisy_pair()
    start = START.clone()
    first = align(cut, image, motion=motion, algorithm=algorithm, initial=start, tol=1e-3)

    def solve(cut, image):
        found = align(
            cut,
            image,
            motion=motion,
            algorithm=algorithm,
            initial=start,
            tol=1e-12,
            iterations=300,
        )
        assert found.converged, found
        return found.matrix

    assert first.error > 0.01
    numeric, direction = directional(solve, (cut, image))
    leaves = [cut.requires_grad_(), image.requires_grad_()]
    assert_gradient(solve(*leaves), leaves, numeric, direction, 1e-5)


OBJECTIVES = [
    {"objective": "ecc", "algorithm": "inverse_compositional"},
    {"objective": "ecc", "algorithm": "forward_additive"},
    {"objective": "ecc", "algorithm": "forward_compositional"},
    {"objective": "ecc", "algorithm": "esm"},
    {"robust": "huber", "algorithm": "esm"},
    {"robust": "huber", "algorithm": "inverse_compositional"},
    {"robust": "tukey", "algorithm": "forward_additive"},
    {"robust": "tukey", "algorithm": "forward_compositional"},
]


@pytest.mark.parametrize("options", OBJECTIVES, ids=lambda options: "-".join(options.values()))
def test_implicit_gradient_of_every_objective(options):
    cut, image = noisy_pair(channels=2)
    cut = 0.8 * cut + 0.1 if "objective" in options else cut
    if "robust" in options:
        cut[..., 2:6, 3:7] += 0.4
    options = {"motion": "affine", "initial": START, "levels": 1, **options}

    def solve(cut, image):
        found = align(cut, image, tol=1e-11, iterations=400, **options)
        assert found.converged, found
        return found.matrix

    numeric, direction = directional(solve, (cut, image))
    leaves = [cut.requires_grad_(), image.requires_grad_()]
    assert_gradient(solve(*leaves), leaves, numeric, direction, 1e-4)


def test_implicit_gradient_of_levenberg_and_marquardt():
    # It stops where the cost stops falling, near the root that the gradient is of.
    cut, image = noisy_pair()
    cut, image = cut.requires_grad_(), image.requires_grad_()
    gradients = []
    for solver in ("gauss_newton", "levenberg_marquardt"):
        found = align(
            cut, image, motion="affine", algorithm="esm", solver=solver, initial=START, levels=1
        )
        assert found.converged
        gradients.append(torch.autograd.grad(found.matrix[0, 2], cut)[0])
    plain, damped = gradients
    assert (plain - damped).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize("options", OBJECTIVES, ids=lambda options: "-".join(options.values()))
def test_unrolled_gradient_of_every_objective(options):
    cut, image = noisy_pair(side=8, channels=2)
    if "robust" in options:
        cut[..., 2:4, 3:5] += 0.4
    start = START.clone()
    options = {"motion": "affine", "levels": 1, "iterations": 3, "tol": 0, **options}
    inputs = [cut.requires_grad_(), image.requires_grad_(), start.requires_grad_()]

    def solve(cut, image, start):
        return align(cut, image, initial=start, gradient="unroll", **options).matrix

    with torch.no_grad():
        numeric, direction = directional(lambda *a: _solved(solve, a), inputs)
    assert_gradient(solve(*inputs), inputs, numeric, direction, 1e-4)


def _solved(solve, arguments):
    # By the exact sampler of the differentiated path, for finite differences.
    with torch.enable_grad():
        return solve(*(a.detach().requires_grad_() for a in arguments)).detach()


@pytest.mark.parametrize("options", OBJECTIVES, ids=lambda options: "-".join(options.values()))
def test_singular_and_lost_samples_get_zero_gradient_of_every_objective(options):
    cut, image = noisy_pair(3, side=10)
    cut[1] = 0.5
    start = START.repeat(3, 1, 1)
    start[2] = translation(500, 0)
    cut, image = cut.requires_grad_(), image.requires_grad_()
    found = align(cut, image, motion="affine", initial=start, levels=1, **options)
    gradients = torch.autograd.grad(found.matrix.sum(), (cut, image))
    for gradient in gradients:
        assert torch.isfinite(gradient).all()
        assert (gradient[1:] == 0).all()
        assert (gradient[0] != 0).any() == bool(found.status[0] <= 1)


def test_a_gauss_newton_adjoint_would_fail(monkeypatch):
    # H in place of the derivative of the equation is right for zero residual only.
    cut, image = noisy_pair()
    options = {"motion": "affine", "initial": START}

    def solve(cut, image):
        return align(cut, image, tol=1e-12, iterations=300, **options).matrix

    numeric, direction = directional(solve, (cut, image))
    leaves = [cut.requires_grad_(), image.requires_grad_()]
    right = torch.autograd.grad(solve(*leaves)[0, 2], leaves)
    hessian = prepare_template(cut.detach()[None], None, "affine").matrix
    monkeypatch.setattr(implicit, "batch_jacobian", lambda function, point: hessian)
    wrong = torch.autograd.grad(solve(*leaves)[0, 2], leaves)
    expected = numeric[0, 2]
    for gradient, close in ((right, True), (wrong, False)):
        found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        assert (abs(found - expected) < 1e-4 * abs(expected)) == close


@algorithms
def test_unrolled_gradient(algorithm):
    cut, image = noisy_pair(side=8)
    start = START.clone()
    inputs = [cut.requires_grad_(), image.requires_grad_(), start.requires_grad_()]

    def solve(cut, image, start):
        return align(
            cut,
            image,
            motion="affine",
            algorithm=algorithm,
            initial=start,
            iterations=2,
            tol=0,
            gradient="unroll",
        ).matrix

    assert torch.autograd.gradcheck(solve, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True)


@algorithms
def test_implicit_and_unrolled_gradients_agree(algorithm):
    cut, image = noisy_pair(2, channels=2)
    image.requires_grad_()
    cut.requires_grad_()
    results = []
    for gradient in ("implicit", "unroll"):
        found = align(
            cut,
            image,
            motion="similarity",
            algorithm=algorithm,
            initial=START,
            tol=1e-12,
            iterations=200,
            gradient=gradient,
        )
        assert found.converged.all()
        loss = (found.matrix * torch.arange(9.0).reshape(3, 3)).sum()
        results.append(torch.autograd.grad(loss, (cut, image)))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 1e-7 * b.abs().max().item())


@algorithms
def test_gradcheck_of_the_implicit_gradient(algorithm):
    cut, image = noisy_pair(side=14)

    def solve(cut, image):
        return align(
            cut,
            image,
            motion="translation",
            algorithm=algorithm,
            initial=START,
            tol=1e-13,
            iterations=100,
        ).matrix

    leaves = (cut.requires_grad_(), image.requires_grad_())
    assert torch.autograd.gradcheck(solve, leaves, fast_mode=True)


def test_implicit_gradient_of_a_start_outside_the_group():
    # A translation refines a start that is rotated: the answer depends on the rotation.
    cut, image = noisy_pair()
    start = START.clone()
    start[0, 1] = 0.04

    def solve(start):
        return align(
            cut, image, motion="translation", initial=start, tol=1e-12, iterations=200
        ).matrix

    assert torch.autograd.gradcheck(solve, start.requires_grad_())


def test_none_gives_no_gradient():
    cut, image = noisy_pair()
    found = align(cut.requires_grad_(), image, initial=START, gradient="none")
    assert not found.matrix.requires_grad
    implicit = align(cut, image, initial=START)
    assert implicit.matrix.requires_grad
    assert not implicit.error.requires_grad
    with torch.no_grad():
        assert not align(cut, image, initial=START).matrix.requires_grad


def test_second_derivatives_of_the_implicit_gradient_raise():
    cut, image = noisy_pair()
    for leaf in (cut, image):
        leaf.requires_grad_()
    matrix = align(cut, image, motion="affine", initial=START).matrix
    for leaf in (cut, image):
        (gradient,) = torch.autograd.grad(matrix[0, 2], leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="gradient must be 'unroll' for second derivatives"):
            torch.autograd.grad(gradient.square().sum(), leaf)


@algorithms
@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
@pytest.mark.parametrize("tol", [1e-3, 0.0])
def test_samples_without_a_solution_get_zero_and_never_nan(algorithm, gradient, tol):
    cut, image = noisy_pair(6)
    cut[1] = 0.25  # constant: singular
    cut[2, 0, 2:4] = torch.nan
    image[3, 0, 10:12, 8] = torch.inf
    start = START.repeat(6, 1, 1)
    start[4, 0, 2] = 500  # out of view
    start[5, 1, 1] = torch.nan
    leaves = [t.requires_grad_() for t in (cut, image, start)]
    found = align(
        cut,
        image,
        motion="affine",
        algorithm=algorithm,
        initial=start,
        gradient=gradient,
        tol=tol,
        iterations=8,
    )
    assert found.status[1] == 3
    assert found.status[4] == 4
    assert found.status[5] == 2
    loss = (found.matrix[torch.isfinite(found.matrix)] ** 2).sum()
    gradients = torch.autograd.grad(loss, leaves)
    for one in gradients:
        assert torch.isfinite(one).all()
        assert (one[[1, 4, 5]] == 0).all()
    for one in gradients[:2]:
        for i in (0, 2, 3):
            if found.status[i] <= 1:
                assert one[i].abs().max() > 0
    assert (gradients[0][2, 0, 2:4] == 0).all()
    assert (gradients[1][3, 0, 10:12, 8] == 0).all()


def test_the_module_passes_gradients_to_its_template():
    cut, image = noisy_pair()
    cut.requires_grad_()
    for gradient in ("implicit", "unroll"):
        options = {"motion": "affine", "gradient": gradient}
        module = LucasKanadeAligner(cut, **options)
        for _ in range(2):  # no graph is kept between calls
            matrix = module(image, START).matrix
            (found,) = torch.autograd.grad(matrix.sum(), cut)
        matrix = align(cut, image, initial=START, **options).matrix
        (expected,) = torch.autograd.grad(matrix.sum(), cut)
        assert_close(found, expected, 1e-12)


def test_a_photometric_map_can_be_learned_through_the_aligner():
    # Two channels show the motion, one shows another: the weights that align must find out.
    torch.manual_seed(0)
    image = smooth_image(3, 40, 40)
    true = translation(10, 9)
    cut = warp_image(image, true, (20, 20))
    cut[2] = warp_image(image[2:], translation(12, 7), (20, 20))[0]
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.5)
    losses = []
    for _ in range(15):
        weights = logits.softmax(0)[:, None, None]
        found = align(
            cut * weights, image * weights, motion="translation", initial=translation(10.5, 8.5)
        )
        loss = (found.matrix - true).square().sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.05 * losses[0]
