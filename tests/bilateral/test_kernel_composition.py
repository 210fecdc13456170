"""What the kernel path composes with: compilers, function transforms, export, checks of the ops."""

import pytest
import torch
from helpers import assert_close

from torchops import bilateral_filter
from torchops.bilateral import fused  # noqa: F401  registers the ops

pytest.importorskip("triton")
pytestmark = pytest.mark.unhooked

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(DEVICE)


def smooth(image, level, backend="triton"):
    return bilateral_filter(image, 1.0, level, radius=1, border="circular", backend=backend)


LEVEL = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize("counted", [False, True])
def test_opcheck(counted):
    image = draw(1, 1, 1, 2, 3)
    counts, guide = (draw(1, 1, 1, 2, 3, seed=1), draw(1, 2, 1, 2, 3)) if counted else (None, None)
    rates, options = draw(1, 4) + 0.2, ([0, 1, 1], "reflect", False, False)
    arrays = (image, counts, guide, rates)
    torch.library.opcheck(torch.ops.torchops.bilateral_forward.default, (*arrays, *options))
    upstream = draw(1, 1, 1, 2, 3, seed=2)
    torch.library.opcheck(
        torch.ops.torchops.bilateral_backward.default,
        (*arrays, upstream, upstream, *options, counted, True),
    )


# A warning that the compiler of torch 2.11 causes itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_fullgraph(backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(smooth, backend=backend, fullgraph=True, dynamic=dynamic)
    for size in ((2, 3), (3, 4)):
        image, level = draw(1, *size).requires_grad_(), LEVEL.clone().requires_grad_()
        found, expected = compiled(image, level), smooth(image, level)
        assert_close(found, expected, 1e-14)
        for one, other in zip(
            torch.autograd.grad(found.square().sum(), (image, level)),
            torch.autograd.grad(expected.square().sum(), (image, level)),
            strict=True,
        ):
            assert_close(one, other, 1e-13)


def test_function_transforms():
    image = draw(2, 1, 2, 3)

    def loss(image, level, backend="triton"):
        return smooth(image, level, backend).square().sum()

    for transform in (torch.func.grad(loss), torch.func.grad(loss, argnums=1)):
        expected = transform(image[0], LEVEL, "torch")
        assert_close(transform(image[0], LEVEL), expected, 1e-12)
        mapped = torch.func.vmap(transform, in_dims=(0, None))(image, LEVEL)
        assert_close(mapped[0], expected, 1e-12)
    jacobian = torch.func.jacrev(smooth)
    assert_close(jacobian(image[0], LEVEL), jacobian(image[0], LEVEL, "torch"), 1e-12)
    mapped = torch.func.vmap(smooth, in_dims=(0, None))(image, LEVEL)
    assert_close(mapped, smooth(image, LEVEL, "torch"), 1e-13)


def test_export():
    class Smooth(torch.nn.Module):
        def forward(self, image):
            return smooth(image, LEVEL)

    image = draw(1, 3, 4)
    program = torch.export.export(Smooth(), (image,))
    assert_close(program.module()(image), smooth(image, LEVEL), 0)


def test_autocast():
    image = draw(1, 3, 4).float()
    expected = smooth(image, LEVEL.float())
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert torch.equal(smooth(image, LEVEL.float()), expected)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device on this machine")
def test_cuda_graph():
    image = draw(1, 3, 64, 64).float()
    level = LEVEL.float()
    expected = smooth(image, level)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = smooth(image, level)
    graph.replay()
    assert torch.equal(found, expected)


def test_without_gpu_or_triton_an_explicit_request_raises(monkeypatch):
    image = torch.rand(1, 3, 3)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="backend must be 'auto' or 'torch' for a tensor on cpu"):
        smooth(image, 0.3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        smooth(image, 0.3)
    with pytest.raises(ValueError, match="backend must be"):
        smooth(image, 0.3, backend="cuda")
    with pytest.raises(ValueError, match="backend must be 'auto' or 'torch' for method='grid'"):
        bilateral_filter(image, 1.0, 0.3, method="grid", backend="triton")
