"""What the kernels of the alignment compose with, as the package promises for tol=0."""

import pytest
import torch
from helpers import assert_close, smooth_image

from benchmarks.alignment_protocol import translation
from torchops import align, warp_image
from torchops.alignment.arguments import Pair
from torchops.alignment.steps import Method

pytest.importorskip("triton")
pytestmark = pytest.mark.unhooked

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
START = translation(6.4, 5.3).to(DEVICE)
OPS = torch.ops.torchops


def batch(size=2, side=9, dtype=torch.float64):
    image = smooth_image(size, 1, 24, 26)
    cut = warp_image(image, translation(6, 5.75), (side, side))
    cut = cut + 0.01 * smooth_image(size, 1, side, side, seed=3)
    return cut.to(DEVICE, dtype), image.to(DEVICE, dtype)


def fixed(cut, image, backend="triton", **options):
    """One step of a run of fixed length."""
    options = {"motion": "euclidean", "iterations": 1, "initial": START, "levels": 1, **options}
    return align(cut, image, tol=0, backend=backend, **options).matrix


@pytest.mark.parametrize("some", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_opcheck(some):
    cut, image = batch(side=4)
    pair = Pair(cut[:1], image, START.expand(2, 3, 3), None, None, torch.Size([2]))
    problem = pair.problem(Method("translation", "esm"), None)
    template, start = problem.template, problem.start
    arrays = (template.values, template.counts, problem.image, start)
    torch.library.opcheck(OPS.alignment_moments.default, arrays)
    if not some:
        torch.library.opcheck(OPS.alignment_residual.default, arrays)
    arrays = (template.values, template.counts, template.gradient, problem.image, start)
    known = (template.number, template.matrix)
    for extra, objective in ((start.new_ones(2, 1, 4), "ecc"), (None, "ssd"))[: 1 if some else 2]:
        arguments = (*arrays, *known, extra, None, "translation", "esm", objective)
        torch.library.opcheck(OPS.alignment_sums.default, arguments)
    system = (template.matrix.expand(2, 2, 2), start[:, :2, 2], start[:, 2, 2])
    torch.library.opcheck(
        OPS.alignment_solve.default, (*system, start[0, 2, :2] + 1, start[:1, 2, 2], 1e-7)
    )


# A warning that the compiler of torch 2.11 causes itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("dynamic", "options"),
    [
        (False, {}),
        (True, {}),
        pytest.param(True, {"objective": "ecc"}, marks=pytest.mark.slow),
        pytest.param(False, {"robust": "huber"}, marks=pytest.mark.slow),
        pytest.param(True, {"algorithm": "esm", "robust": "tukey"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compile(dynamic, options):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda c, i: fixed(c, i, **options), fullgraph=True, dynamic=dynamic, backend="eager"
    )
    for side in (9, 7) if dynamic else (9,):
        cut, image = batch(side=side)
        assert_close(compiled(cut, image), fixed(cut, image, "torch", **options), 1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_gradients():
    torch._dynamo.reset()
    cut, image = batch(size=1)
    cut.requires_grad_()
    compiled = torch.compile(fixed, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(cut, image).sum(), cut)
    (expected,) = torch.autograd.grad(fixed(cut, image, "torch").sum(), cut)
    assert_close(found, expected, 1e-9)


def test_function_transforms():
    cut, image = batch()
    found = torch.func.vmap(fixed)(cut, image)
    assert_close(found, fixed(cut, image, "torch"), 1e-10)
    shared = torch.func.vmap(fixed, in_dims=(None, 0))(cut[0], image)
    assert_close(shared, fixed(cut[0], image, "torch"), 1e-10)

    def loss(cut, image, backend="triton"):
        return fixed(cut, image, backend)[..., 0, 2].sum()

    expected = torch.func.grad(loss)(cut, image, "torch")
    assert_close(torch.func.grad(loss)(cut, image), expected, 1e-9)
    each = torch.func.vmap(torch.func.grad(loss))(cut, image)
    assert_close(each, expected, 1e-9)
    rows = torch.func.jacrev(lambda c: fixed(c, image[0])[:2, 2])(cut[0])
    assert_close(rows[0], expected[0], 1e-9)


@pytest.mark.parametrize("options", [{"objective": "ecc"}, {"robust": "huber"}], ids=str)
def test_vmap_of_batches(options):
    # Of the inner batch the template is shared, of the outer one the image is.
    cut, image = batch(size=4)
    options |= {"motion": "translation"}

    def both(cut, image):
        return fixed(cut, image, **options)

    found = torch.func.vmap(both, in_dims=(0, None))(cut[:2, None], image[:2])
    expected = fixed(cut[:2, None], image[:2], "torch", **options)
    assert_close(found, expected, 1e-9)


def test_export():
    class Fixed(torch.nn.Module):
        def forward(self, cut, image):
            return fixed(cut, image)

    cut, image = batch(size=1)
    with torch.no_grad():
        program = torch.export.export(Fixed(), (cut, image))
    cut, image = (t + 0.001 * torch.randn_like(t) for t in (cut, image))
    assert_close(program.module()(cut, image), fixed(cut, image, "torch"), 1e-10)


def test_autocast():
    cut, image = batch(size=1, dtype=torch.float32)
    expected = fixed(cut, image)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert torch.equal(fixed(cut, image), expected)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device on this machine")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"motion": "homography"},
        {"algorithm": "esm", "solver": "levenberg_marquardt"},
        {"objective": "ecc"},
        {"robust": "tukey"},
    ],
    ids=str,
)
def test_cuda_graph(options):
    cut, image = batch(side=20, dtype=torch.float32)
    options |= {"iterations": 5}
    expected = fixed(cut, image, **options)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = fixed(cut, image, **options)
    graph.replay()
    assert torch.equal(found, expected)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device on this machine")
def test_no_waiting_for_the_device():
    cut, image = batch(dtype=torch.float32)
    fixed(cut, image, iterations=3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fixed(cut, image, iterations=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
