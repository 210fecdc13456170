"""torch.func, torch.compile, export: the composition table of the package for this room."""

import warnings

import pytest
import torch
from helpers import assert_close

from torchops import BilateralFilter, bilateral_filter, durand_tonemap

METHODS = ["exact", "piecewise", "grid", "fourier"]
TERMS = {"fourier": 6}  # what would have to be read otherwise


def problem(batch=2):
    generator = torch.Generator().manual_seed(5)
    shapes = ((batch, 2, 7, 8), (batch, 1, 7, 8), (batch, 1, 7, 8))
    image, guide, mask = (torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes)
    space = torch.tensor([1.2, 0.8], dtype=torch.float64)[:batch]
    level = torch.tensor(0.3, dtype=torch.float64)
    return image, guide, mask, space, level


def filtered(method, distance="l2", radius=2):
    def run(image, guide, mask, space, level):
        return bilateral_filter(
            image,
            space,
            level,
            guide=guide,
            mask=mask,
            radius=radius,
            distance=distance,
            method=method,
            terms=TERMS.get(method),
        )

    return run


def with_gradients(run, inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = run(*inputs)
    generator = torch.Generator().manual_seed(6)
    upstream = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    return [out, *torch.autograd.grad(out, inputs, upstream)]


@pytest.mark.parametrize("method", METHODS)
def test_func_grad_and_vmap(method):
    inputs = problem()
    run = filtered(method)
    out, *expected = with_gradients(run, inputs)
    generator = torch.Generator().manual_seed(6)
    upstream = torch.randn(out.shape, generator=generator, dtype=out.dtype)

    def loss(*inputs):
        return (run(*inputs) * upstream).sum()

    found = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*inputs)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-12)

    mapped = torch.func.vmap(run, in_dims=(0, 0, 0, 0, None))(*inputs)
    assert_close(mapped, out, 1e-13)

    def sample_loss(image, guide, mask, space, level, upstream):
        return (run(image, guide, mask, space, level) * upstream).sum()

    found = torch.func.vmap(
        torch.func.grad(sample_loss, argnums=(0, 1, 2, 3)), in_dims=(0, 0, 0, 0, None, 0)
    )(*inputs, upstream)
    for a, b in zip(found, expected[:4], strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize("which", range(5))
def test_vmap_over_one_argument_alone(which):
    # Whatever is accumulated must be batched as soon as anything that enters it is.
    image, guide, mask, space, level = problem()
    single = [image[0], guide[0], mask[0], space[0], level]
    several = [image, guide, mask, space, torch.stack([level, 2 * level])][which]
    in_dims = tuple(0 if k == which else None for k in range(5))
    for method in METHODS:
        run = filtered(method)
        found = torch.func.vmap(run, in_dims)(*single[:which], several, *single[which + 1 :])
        for k in range(2):
            expected = run(*single[:which], several[k], *single[which + 1 :])
            assert_close(found[k], expected, 1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_jacrev(method):
    image, guide, mask, space, level = (t[0] if t.ndim else t for t in problem())
    parts = (image[:, :3, :4], guide[:, :3, :4], mask[:, :3, :4], space, level)
    run = filtered(method)
    found = torch.func.jacrev(run, argnums=(0, 1, 2, 3, 4))(*parts)
    expected = torch.autograd.functional.jacobian(run, parts)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-12)


def test_hessian_of_the_sigmas():
    image = problem()[0]

    def loss(sigmas):
        return bilateral_filter(image, sigmas[0], sigmas[1], radius=2).square().sum()

    sigmas = torch.tensor([1.1, 0.3], dtype=torch.float64)
    found = torch.func.jacrev(torch.func.jacrev(loss))(sigmas)
    assert_close(found, torch.autograd.functional.hessian(loss, sigmas), 1e-10)
    assert found[0, 1] != 0


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("method", "distance", "dynamic"),
    [
        ("exact", "l2", False),
        # Half a minute each; without the gradients they are traced in the next test.
        pytest.param("piecewise", "l2", False, marks=pytest.mark.slow),
        pytest.param("grid", "l2", False, marks=pytest.mark.slow),
        pytest.param("fourier", "l2", False, marks=pytest.mark.slow),
        # Symbolic sizes make the compiler slow on everything made of them: minutes.
        pytest.param("exact", "l1", True, marks=pytest.mark.slow),
        pytest.param("piecewise", "l2", True, marks=pytest.mark.slow),
        pytest.param("grid", "l2", True, marks=pytest.mark.slow),
        pytest.param("fourier", "l2", True, marks=pytest.mark.slow),
    ],
)
def test_compile_fullgraph(method, distance, dynamic):
    run = filtered(method, distance, radius=1)  # four pairs: the compiler works tap by tap
    inputs = problem()
    expected = with_gradients(run, inputs)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        found = with_gradients(compiled, inputs)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, 1e-12)
        if not dynamic:
            return
        other = [t[..., :6, :5] if t.ndim == 4 else t for t in inputs]
        for a, b in zip(with_gradients(compiled, other), with_gradients(run, other), strict=True):
            assert_close(a, b, 1e-12)


@pytest.mark.unhooked
@pytest.mark.parametrize("method", METHODS[1:])
def test_compile_fullgraph_of_fast_methods(method):
    run = filtered(method, radius=1)
    inputs = problem()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        found, expected = with_gradients(compiled, inputs), with_gradients(run, inputs)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.unhooked
def test_compile_fullgraph_with_symbolic_sizes():
    def run(signal, space, level):
        return bilateral_filter(signal, space, level, radius=1, spatial_dims=1, distance="l1")

    signal, _, _, space, level = problem()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
        for inputs in ((signal[:, 0], space, level), (signal[:, 0, :5, :6], space, level)):
            found, expected = with_gradients(compiled, inputs), with_gradients(run, inputs)
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b, 1e-12)


@pytest.mark.unhooked
def test_compile_by_inductor():
    image = problem()[0].float()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(lambda x: bilateral_filter(x, 0.7, 0.2, radius=1), fullgraph=True)
        assert_close(compiled(image), bilateral_filter(image, 0.7, 0.2, radius=1), 2e-6)


@pytest.mark.unhooked
def test_compile_and_export_of_tonemap():
    radiance = 10 ** (4 * problem()[0][:, :1].repeat(1, 3, 1, 1))
    expected = durand_tonemap(radiance)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(durand_tonemap, fullgraph=True, backend="aot_eager")
        assert_close(compiled(radiance), expected, 1e-12)


@pytest.mark.unhooked
@pytest.mark.parametrize("method", METHODS)
def test_export(method):
    image, guide, mask, *_ = problem()
    module = BilateralFilter(1.0, 0.3, method=method, terms=TERMS.get(method))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (image, guide, mask))
        found = program.module()(image, guide, mask)
    assert_close(found, module(image, guide, mask), 1e-13)


@pytest.mark.unhooked
def test_terms_that_cannot_be_chosen_are_asked_for():
    image = problem()[0][:, :1]

    def run(image):
        return bilateral_filter(image, 1.0, 0.3, method="fourier")

    message = "guide must have a known value.*pass terms="
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(run)(image)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        with pytest.raises(Exception, match=message):
            compiled(image)


@pytest.mark.unhooked
def test_a_radius_that_cannot_be_read_is_asked_for():
    image, _, _, space, level = problem()

    def run(space):
        return bilateral_filter(image, space, level)

    message = "sigma_space must have a known value.*pass radius="
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(run)(space)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        with pytest.raises(Exception, match=message):
            compiled(space)
    # torch.func.grad still knows the value.
    found = torch.func.grad(lambda s: run(s).square().sum())(space)
    leaf = space.clone().requires_grad_()
    assert_close(found, torch.autograd.grad(run(leaf).square().sum(), leaf)[0], 1e-12)
