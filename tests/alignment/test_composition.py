"""align under torch.compile, torch.func and export, as the package promises for tol=0."""

import pytest
import torch
from helpers import assert_close, smooth_image

from benchmarks.alignment_protocol import translation
from torchops import align, warp_image, warp_points

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
START = translation(6.4, 5.3)


def batch(size=3, side=12):
    image = smooth_image(size, 1, 24, 26)
    cut = warp_image(image, translation(6, 5.75), (side, side))
    return cut + 0.01 * smooth_image(size, 1, side, side, seed=3), image


def fixed(cut, image, algorithm="inverse_compositional", gradient="implicit"):
    return align(
        cut,
        image,
        motion="affine",
        algorithm=algorithm,
        initial=START,
        iterations=1,
        tol=0,
        gradient=gradient,
    ).matrix


@algorithms
@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
def test_function_transforms(algorithm, gradient):
    cut, image = batch()
    expected = fixed(cut, image, algorithm, gradient)
    found = torch.func.vmap(lambda c, i: fixed(c, i, algorithm, gradient))(cut, image)
    assert_close(found, expected, 1e-10)
    shared = torch.func.vmap(lambda i: fixed(cut[0], i, algorithm, gradient))(image)
    assert_close(shared, fixed(cut[0], image, algorithm, gradient), 1e-10)

    def loss(c, i):
        return fixed(c, i, algorithm, gradient)[..., 0, 2].sum()

    leaf = cut.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, image), leaf)
    assert_close(torch.func.grad(loss)(cut, image), expected, 1e-12)
    each = torch.func.vmap(torch.func.grad(loss))(cut, image)
    assert_close(each, expected, 1e-9)
    rows = torch.func.jacrev(lambda c: fixed(c, image[0], algorithm, gradient)[0, 2])(cut[0])
    assert_close(rows, expected[0], 1e-9)


EVERY = [
    {"objective": "ecc", "algorithm": "esm"},
    {"objective": "ecc", "algorithm": "inverse_compositional", "solver": "levenberg_marquardt"},
    {"robust": "tukey", "algorithm": "esm", "solver": "levenberg_marquardt"},
    {"robust": "huber", "algorithm": "inverse_compositional"},
]
every = pytest.mark.parametrize("options", EVERY, ids=lambda o: "-".join(o.values()))


@every
@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
def test_function_transforms_of_every_objective(options, gradient):
    cut, image = batch()

    def run(cut, image):
        found = align(
            cut,
            image,
            motion="affine",
            initial=START,
            levels=1,
            iterations=2,
            tol=0,
            gradient=gradient,
            **options,
        )
        return found.matrix

    expected = run(cut, image)
    assert_close(torch.func.vmap(run)(cut, image), expected, 1e-9)
    leaf = cut.clone().requires_grad_()
    (expected,) = torch.autograd.grad(run(leaf, image)[..., 0, 2].sum(), leaf)

    def loss(cut, image):
        return run(cut, image)[..., 0, 2].sum()

    assert_close(torch.func.vmap(torch.func.grad(loss))(cut, image), expected, 1e-8)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(o, id="-".join(o.values()), marks=pytest.mark.slow if k % 2 else ())
        for k, o in enumerate(EVERY)
    ],
)
def test_compile_of_every_objective(options):
    torch._dynamo.reset()
    cut, image = batch()

    def run(cut, image):
        found = align(
            cut, image, motion="affine", initial=START, levels=1, iterations=1, tol=0, **options
        )
        return found.matrix, found.error

    compiled = torch.compile(run, fullgraph=True, dynamic=False, backend="aot_eager")
    for found, expected in zip(compiled(cut, image), run(cut, image), strict=True):
        assert_close(found, expected, 1e-9)


def test_levels_under_vmap():
    cut, image = batch()

    def two_levels(cut, image):
        return align(cut, image, initial=START, levels=2, iterations=2, tol=0).matrix

    expected = two_levels(cut, image)
    assert_close(torch.func.vmap(two_levels)(cut, image), expected, 1e-9)
    one = align(cut, image, initial=START, levels=1, iterations=2, tol=0).matrix
    assert (expected - one).abs().max() > 1e-6


def test_autocast(device):
    cut, image = (t.float().to(device) for t in batch())
    expected = align(cut, image, initial=START.to(device), tol=0, iterations=3)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = align(cut, image, initial=START.to(device), tol=0, iterations=3)
    assert_close(found.matrix, expected.matrix, 0)
    assert found.error.dtype == torch.float32


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("algorithm", "dynamic"),
    [
        ("inverse_compositional", False),
        pytest.param("inverse_compositional", True, marks=pytest.mark.slow),
        pytest.param("esm", False, marks=pytest.mark.slow),
        pytest.param("esm", True, marks=pytest.mark.slow),
        pytest.param("forward_compositional", True, marks=pytest.mark.slow),
        pytest.param("forward_additive", True, marks=pytest.mark.slow),
    ],
)
def test_compile(algorithm, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda c, i: fixed(c, i, algorithm), fullgraph=True, dynamic=dynamic, backend="eager"
    )
    for side in (12, 10) if dynamic else (12,):
        cut, image = batch(side=side)
        assert_close(compiled(cut, image), fixed(cut, image, algorithm), 1e-10)


@pytest.mark.unhooked
@pytest.mark.parametrize("gradient", ["implicit", pytest.param("unroll", marks=pytest.mark.slow)])
def test_compiled_gradients(gradient):
    torch._dynamo.reset()
    cut, image = batch()
    cut.requires_grad_()
    (expected,) = torch.autograd.grad(fixed(cut, image, gradient=gradient).sum(), cut)
    compiled = torch.compile(
        lambda c, i: fixed(c, i, gradient=gradient), fullgraph=True, backend="aot_eager"
    )
    (found,) = torch.autograd.grad(compiled(cut, image).sum(), cut)
    assert_close(found, expected, 1e-9)


@pytest.mark.unhooked
def test_compiled_warps():
    torch._dynamo.reset()
    _, image = batch()
    for dynamic in (False, True):
        warp = torch.compile(
            lambda i, m: warp_image(i, m, (9, 8)),
            fullgraph=True,
            dynamic=dynamic,
            backend="aot_eager",
        )
        assert_close(warp(image, START), warp_image(image, START, (9, 8)), 0)
        points = torch.rand(5, 2)
        map_points = torch.compile(
            warp_points, fullgraph=True, dynamic=dynamic, backend="aot_eager"
        )
        assert_close(map_points(points, START), warp_points(points, START), 1e-15)


@pytest.mark.unhooked
def test_export():
    class Fixed(torch.nn.Module):
        def forward(self, cut, image):
            return fixed(cut, image)

    cut, image = batch()
    with torch.no_grad():
        program = torch.export.export(Fixed(), (cut, image))
    cut, image = (t + 0.001 * torch.randn_like(t) for t in (cut, image))
    assert_close(program.module()(cut, image), fixed(cut, image), 1e-10)
