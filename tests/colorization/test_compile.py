"""torch.compile (static and dynamic shapes) and torch.export of weights, loss and colour spaces."""

import pytest
import torch
from helpers import assert_close

from torchops import ColorizationLoss, colorization_loss, levin_weights, rgb_to_yiq, yuv_to_rgb

pytestmark = pytest.mark.unhooked

KINDS = ["levin", "gaussian", "correlation"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("weighting", "dynamic", "backend"),
    [
        ("levin", True, "eager"),
        ("correlation", False, "aot_eager"),
        pytest.param("levin", False, "aot_eager", marks=pytest.mark.slow),
        pytest.param("levin", True, "aot_eager", marks=pytest.mark.slow),
        pytest.param("gaussian", False, "aot_eager", marks=pytest.mark.slow),
        pytest.param("gaussian", True, "aot_eager", marks=pytest.mark.slow),
        pytest.param("correlation", True, "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_compile(weighting, dynamic, backend):
    def loss(chroma, luma, mask):
        return colorization_loss(chroma, luma, mask=mask, weighting=weighting)

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=backend)
    for height, width in [(6, 7), (9, 5)] if dynamic else [(6, 7)]:
        tensors = [torch.rand(2, c, height, width).double().requires_grad_() for c in (2, 1, 1)]
        expected, actual = loss(*tensors), compiled(*tensors)
        assert_close(actual, expected, 1e-13)
        expected = torch.autograd.grad(expected, tensors)
        for got, wanted in zip(torch.autograd.grad(actual, tensors), expected, strict=True):
            assert_close(got, wanted, 1e-12 * max(1, wanted.abs().max().item()))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("weighting", KINDS)
def test_compile_weights(weighting, dynamic):
    def weights(luma):
        return levin_weights(luma, weighting=weighting)

    compiled = torch.compile(weights, fullgraph=True, dynamic=dynamic, backend="eager")
    for size in (4, 6):
        luma = torch.rand(2, 1, size, size)
        assert_close(compiled(luma), weights(luma), 1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("convert", [rgb_to_yiq, yuv_to_rgb])
def test_compile_colour_spaces(convert, dynamic):
    compiled = torch.compile(convert, fullgraph=True, dynamic=dynamic, backend="eager")
    for size in (4, 6):
        image = torch.rand(2, 3, size, size)
        assert_close(compiled(image), convert(image), 1e-7)


@pytest.mark.parametrize("weighting", KINDS)
def test_export(weighting):
    module = ColorizationLoss(weighting=weighting)
    chroma, luma = torch.rand(2, 2, 6, 7), torch.rand(2, 1, 6, 7)
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height")}
    shapes = {"chroma": sizes, "luma": sizes, "mask": None}
    program = torch.export.export(module, (chroma, luma, None), dynamic_shapes=shapes)
    for batch, height in [(2, 6), (3, 10)]:
        chroma, luma = torch.rand(batch, 2, height, 7), torch.rand(batch, 1, height, 7)
        assert_close(program.module()(chroma, luma, None), module(chroma, luma), 1e-7)


@pytest.mark.parametrize("weighting", KINDS)
def test_export_of_weights(weighting):
    class Weights(torch.nn.Module):
        def forward(self, luma):
            return levin_weights(luma, weighting=weighting)

    luma = torch.rand(2, 1, 6, 7)
    program = torch.export.export(Weights(), (luma,))
    assert_close(program.module()(luma), Weights()(luma), 1e-7)
