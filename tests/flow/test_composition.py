"""torch.compile, torch.func and torch.export around the room's functions."""

import pytest
import torch
from helpers import assert_close, smooth_image

from torchops import angular_error, endpoint_error, lucas_kanade, warp_by_flow

pytestmark = pytest.mark.unhooked

OPTIONS = {"sigma": 0.5, "levels": 2, "warps": 1}  # few taps: tracing unrolls them all


def pair(height=12, width=14, seed=0):
    reference = smooth_image(2, height, width, seed=seed)
    return reference, 0.9 * reference.roll(1, -1) + 0.1 * smooth_image(2, height, width, seed=3)


def flow(reference, moving):
    return lucas_kanade(reference, moving, **OPTIONS)


def warp(image, shift):
    return warp_by_flow(image, shift, mode="bicubic", border="reflect")


def errors(first, second):
    return endpoint_error(first, second), angular_error(first, second)


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


def compare(actual, expected):
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        assert_close(a, e, 1e-9)


FUNCTIONS = {"flow": flow, "warp": warp, "errors": errors}


def one_level(reference, moving):
    return lucas_kanade(reference, moving, sigma=0.5, levels=1, warps=1)


@pytest.mark.parametrize("function", [one_level, warp, errors])
def test_compile(function):
    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend="eager")
    compare(compiled(*pair()), function(*pair()))


@pytest.mark.parametrize(
    "function", [one_level, warp, errors, pytest.param(flow, marks=pytest.mark.slow)]
)
def test_compile_with_dynamic_sizes(function):
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="eager")
    for size in ((12, 14), (15, 17)):
        compare(compiled(*pair(*size)), function(*pair(*size)))


@pytest.mark.parametrize(
    "function", [warp, errors, pytest.param(one_level, marks=pytest.mark.slow)]
)
def test_compile_differentiates(function):
    arguments = [t.requires_grad_() for t in pair()]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    actual, expected = (
        torch.autograd.grad(sum(t.square().sum() for t in leaves(f(*arguments))), arguments)
        for f in (compiled, function)
    )
    compare(actual, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_of_grad(name):
    def loss(first, second):
        return sum(t.square().sum() for t in leaves(FUNCTIONS[name](first, second)))

    firsts, seconds = (torch.stack(t) for t in zip(*(pair(seed=s) for s in (0, 1)), strict=True))
    together = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(firsts, seconds)
    for k in range(2):
        alone = torch.func.grad(loss, argnums=(0, 1))(firsts[k], seconds[k])
        for a, e in zip(together, alone, strict=True):
            assert_close(a[k], e, 1e-7 * max(1.0, e.abs().max().item()))


def test_jacrev():
    reference, moving = pair(6, 5)

    def function(image):
        return lucas_kanade(image, moving, sigma=1.0, levels=1, warps=1).flow

    jacobian = torch.func.jacrev(function)(reference)
    expected = torch.autograd.functional.jacobian(function, reference)
    assert_close(jacobian, expected, 1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_export(name):
    class Wrapper(torch.nn.Module):
        def forward(self, first, second):
            return tuple(leaves(FUNCTIONS[name](first, second)))

    arguments = pair()
    program = torch.export.export(Wrapper(), arguments)
    compare(program.module()(*arguments), Wrapper()(*arguments))
