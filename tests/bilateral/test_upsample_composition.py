"""Joint bilateral upsampling under torch.func, torch.compile and export; its error messages."""

import warnings

import pytest
import torch
from helpers import assert_close

from torchops import joint_bilateral_upsample


def problem(large=(7, 8)):
    generator = torch.Generator().manual_seed(5)
    shapes = ((2, 2, 3, 4), (2, 1, *large), (2, 1, 3, 4))
    image, guide, mask = (torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes)
    space = torch.tensor([0.6, 0.8], dtype=torch.float64)
    return image, guide, mask, space, torch.tensor(0.3, dtype=torch.float64)


def run(image, guide, mask, space, level, radius=1):
    return joint_bilateral_upsample(image, guide, space, level, mask=mask, radius=radius)


def three_neighbours(*inputs):
    return run(*inputs, radius=(0, 1))  # the compiler works neighbour by neighbour


def one_neighbour(*inputs):
    return run(*inputs, radius=0)


def with_gradients(run, inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = run(*inputs)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(6), dtype=out.dtype)
    return [out, *torch.autograd.grad(out, inputs, upstream)], upstream


def test_func_grad_and_vmap():
    inputs = problem()
    (out, *expected), upstream = with_gradients(run, inputs)
    found = torch.func.grad(lambda *x: (run(*x) * upstream).sum(), argnums=(0, 1, 2, 3, 4))(*inputs)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-12)
    assert_close(torch.func.vmap(run, (0, 0, 0, 0, None))(*inputs), out, 1e-13)

    def loss(*x):
        return (run(*x[:5]) * x[5]).sum()

    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)), (0, 0, 0, 0, None, 0))
    for a, b in zip(each(*inputs, upstream), expected[:4], strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize("which", range(5))
def test_vmap_over_one_argument_alone(which):
    image, guide, mask, space, level = problem()
    single = [image[0], guide[0], mask[0], space[0], level]
    several = [image, guide, mask, space, torch.stack([level, 2 * level])][which]
    in_dims = tuple(0 if k == which else None for k in range(5))
    found = torch.func.vmap(run, in_dims)(*single[:which], several, *single[which + 1 :])
    for k in range(2):
        expected = run(*single[:which], several[k], *single[which + 1 :])
        assert_close(found[k], expected, 1e-13)


def test_jacrev_and_hessian():
    parts = tuple(t[0] if t.ndim else t for t in problem((5, 4)))
    found = torch.func.jacrev(run, argnums=(0, 1, 2, 3, 4))(*parts)
    for a, b in zip(found, torch.autograd.functional.jacobian(run, parts), strict=True):
        assert_close(a, b, 1e-12)

    def loss(sigmas):
        return run(*parts[:3], sigmas[0], sigmas[1]).square().sum()

    sigmas = torch.tensor([0.7, 0.3], dtype=torch.float64)
    found = torch.func.jacrev(torch.func.jacrev(loss))(sigmas)
    assert_close(found, torch.autograd.functional.hessian(loss, sigmas), 1e-10)


@pytest.mark.unhooked
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compile_fullgraph(dynamic):
    inputs = problem()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        compiled = torch.compile(
            three_neighbours, fullgraph=True, dynamic=dynamic, backend="aot_eager"
        )
        sizes = [inputs, problem((6, 9))] if dynamic else [inputs]
        for size in sizes:
            found, expected = (
                with_gradients(compiled, size)[0],
                with_gradients(three_neighbours, size)[0],
            )
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b, 1e-12)


@pytest.mark.unhooked
def test_compile_fullgraph_with_symbolic_sizes():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(one_neighbour, fullgraph=True, dynamic=True, backend="eager")
        for large in ((7, 8), (6, 9)):
            inputs = problem(large)
            assert_close(compiled(*inputs), one_neighbour(*inputs), 1e-13)


@pytest.mark.unhooked
def test_export():
    class Upsample(torch.nn.Module):
        def forward(self, *inputs):
            return run(*inputs)

    inputs = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Upsample(), inputs)
        found = program.module()(*inputs)
    assert_close(found, run(*inputs), 1e-13)


IMAGE, GUIDE = torch.rand(2, 3, 4, 5), torch.rand(2, 1, 8, 9)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": 3}, TypeError, r"image must be a torch.Tensor, got 3"),
        ({"guide": 3}, TypeError, r"guide must be a torch.Tensor, got 3"),
        ({"image": IMAGE[0, 0]}, ValueError, r"image must be of shape \(\*batch, C, H, W\)"),
        ({"image": IMAGE.int()}, TypeError, "image must be of dtype .*uint8, got a int32"),
        ({"guide": GUIDE.int()}, TypeError, "guide must be of dtype .*uint8, got a int32"),
        ({"guide": torch.rand(1, 0, 5)}, ValueError, "guide must have at least one channel"),
        (
            {"image": GUIDE, "guide": IMAGE},
            ValueError,
            r"guide must be no smaller than image, whose size is \(8, 9\), got a float32 tensor of",
        ),
        ({"guide": torch.rand(8, 4)[None]}, ValueError, "guide must be no smaller than image"),
        ({"guide": torch.rand(3, 1, 8, 9)}, ValueError, "image and guide must have batch dim"),
        ({"guide": torch.empty(1, 8, 9, device="meta")}, ValueError, "must be on one device"),
        ({"sigma_space": 0}, ValueError, "sigma_space must be a finite number > 0"),
        ({"sigma_space": (1.0, 1.0, 1.0)}, ValueError, "sigma_space must be one value or 2"),
        ({"sigma_range": -1}, ValueError, "sigma_range must be a finite number > 0"),
        ({"sigma_range": torch.tensor(1)}, TypeError, "sigma_range must be of dtype"),
        ({"radius": -1}, ValueError, "radius must be an integer >= 0, got -1"),
        ({"distance": "l3"}, ValueError, "distance must be one of 'l2', 'l1', got 'l3'"),
        ({"mask": torch.ones(1, 8, 9)}, ValueError, r"mask must have the spatial size \(4, 5\)"),
        ({"mask": torch.ones(3, 4, 5)}, ValueError, "mask must have 1 channel"),
    ],
)
def test_errors(arguments, error, message):
    defaults = {"image": IMAGE, "guide": GUIDE, "sigma_space": 0.5, "sigma_range": 0.1}
    with pytest.raises(error, match=message):
        joint_bilateral_upsample(**{**defaults, **arguments})


@pytest.mark.unhooked
def test_a_radius_that_cannot_be_read_is_asked_for():
    image, guide, _, space, level = problem()
    with pytest.raises(ValueError, match=r"sigma_space must have a known value.*pass radius="):
        torch.func.vmap(lambda s: joint_bilateral_upsample(image, guide, s, level))(space)
