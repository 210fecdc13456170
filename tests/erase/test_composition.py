"""erase_boxes and sample_disjoint_boxes under compile, torch.func and export."""

import pytest
import torch
from helpers import smooth_image
from torch.func import grad, jacrev, vmap

from torchops import boxes_to_mask, erase_boxes, sample_disjoint_boxes

pytestmark = pytest.mark.unhooked

SHAPE = (3, 60, 70)
BOXES = torch.tensor([[1, 2, 5, 6], [7, 0, 9, 9], [0, 0, 0, 0]])
RATIO = (0.3, 3.3)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("value", [0.5, [1, 2, 3]])
def test_erase_compiles(device, dynamic, value):
    compiled = torch.compile(
        lambda x, b: erase_boxes(x, b, value=value),
        fullgraph=True,
        dynamic=dynamic,
        backend="aot_eager",
    )
    for size in ((60, 70), (31, 44)):
        image = smooth_image(2, 3, *size).to(device).requires_grad_()
        boxes = BOXES.to(device)
        out = compiled(image, boxes)
        assert torch.equal(out, erase_boxes(image, boxes, value=value))
        (gradient,) = torch.autograd.grad(out.sum(), image)
        assert torch.equal(gradient, (~boxes_to_mask(boxes, *size)).expand_as(image).double())


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("value", ["random", "color"])
def test_random_fill_compiles(device, dynamic, value):
    compiled = torch.compile(
        lambda x, b: erase_boxes(x, b, value=value),
        fullgraph=True,
        dynamic=dynamic,
        backend="aot_eager",
    )
    image, boxes = smooth_image(2, *SHAPE).to(device), BOXES.to(device)
    out = compiled(image, boxes)
    inside = boxes_to_mask(boxes, *SHAPE[1:]).expand_as(out)
    assert torch.equal(out[~inside], image[~inside])
    assert (out[inside] != image[inside]).all()


@pytest.mark.parametrize("dynamic", [False, True])
def test_sample_compiles_without_a_generator(device, dynamic):
    def draw(image):
        return sample_disjoint_boxes(
            image.shape[0],
            image.shape[-2],
            image.shape[-1],
            fraction=(0.1, 0.5),
            count=(1, 4),
            ratio=RATIO,
            device=image.device,
        )

    compiled = torch.compile(draw, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((5, 3, 60, 70), (3, 3, 32, 48), (1, 3, 20, 20)):
        image = torch.zeros(shape, device=device)
        torch.manual_seed(6)
        boxes = compiled(image)
        torch.manual_seed(6)
        assert torch.equal(boxes, draw(image))


def test_sampling_and_erasing_compile_with_inductor():
    def augment(image):
        boxes = sample_disjoint_boxes(4, 40, 50, fraction=0.3, count=(2, 4), ratio=RATIO)
        return erase_boxes(image, boxes, value=-1)

    out = torch.compile(augment, fullgraph=True)(torch.zeros(4, 1, 40, 50))
    assert ((out == -1).sum((1, 2, 3)) == 600).all()


def test_the_registered_op():
    from torchops.erase.plan import numbers_per_image

    numbers = torch.randint(2**31, (3, numbers_per_image(4)))
    torch.library.opcheck(
        torch.ops.torchops.disjoint_boxes, (numbers, 40, 50, 0.1, 0.5, 1, 4, *RATIO)
    )


@pytest.mark.parametrize("value", [0.5, [1, 2, 3]])
@pytest.mark.parametrize("size", [(60, 70), (10, 12)])
def test_function_transforms(value, size):
    image = smooth_image(4, 3, *size)
    boxes = sample_disjoint_boxes(4, *size, fraction=0.3, count=(1, 4), ratio=RATIO)
    expected = erase_boxes(image, boxes, value=value)

    def one(x, b):
        return erase_boxes(x, b, value=value)

    assert torch.equal(vmap(one)(image, boxes), expected)
    assert torch.equal(
        vmap(one, in_dims=(0, None))(image, boxes[0]), erase_boxes(image, boxes[0], value=value)
    )
    assert torch.equal(
        vmap(one, in_dims=(None, 0))(image[0], boxes), erase_boxes(image[0], boxes, value=value)
    )
    kept = (~boxes_to_mask(boxes, *size)).expand_as(image).double()
    assert torch.equal(grad(lambda x: one(x, boxes).sum())(image), kept)
    assert torch.equal(vmap(grad(lambda x, b: one(x, b).sum()))(image, boxes), kept)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("size", [(60, 70), (10, 12)])
def test_forward_mode(size):
    image, boxes = smooth_image(2, 3, *size), BOXES
    tangent = torch.randn_like(image)
    out, moved = torch.func.jvp(lambda x: erase_boxes(x, boxes, value=2), (image,), (tangent,))
    assert torch.equal(moved, tangent * ~boxes_to_mask(boxes, *size))
    assert torch.equal(out, erase_boxes(image, boxes, value=2))


def test_jacobian():
    image = smooth_image(1, 4, 5)
    jacobian = jacrev(lambda x: erase_boxes(x, BOXES))(image).reshape(20, 20)
    kept = ~boxes_to_mask(BOXES, 4, 5).flatten()
    assert torch.equal(jacobian, torch.diag(kept.double()))


def test_export():
    class Erase(torch.nn.Module):
        def forward(self, image, boxes):
            return erase_boxes(image, boxes, value=[1, 2, 3])

    image = smooth_image(2, *SHAPE)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        Erase(), (image, BOXES), dynamic_shapes={"image": {0: batch}, "boxes": None}
    )
    bigger = smooth_image(5, *SHAPE)
    assert torch.equal(program.module()(bigger, BOXES), erase_boxes(bigger, BOXES, value=[1, 2, 3]))


@pytest.mark.parametrize("value", [0, [1, 2, 3], "random", "color"])
def test_cuda_graph(device, value):
    if device.type != "cuda":
        pytest.skip("CUDA graphs need a CUDA device")
    image, boxes = torch.rand(2, *SHAPE, device=device), BOXES.to(device)
    graph = torch.cuda.CUDAGraph()
    erase_boxes(image, boxes, value=value)  # warm up outside of the capture
    with torch.cuda.graph(graph):
        out = erase_boxes(image, boxes, value=value)
    image.copy_(torch.rand_like(image) + 20)
    graph.replay()
    inside = boxes_to_mask(boxes, *SHAPE[1:]).expand_as(image)
    assert torch.equal(out[~inside], image[~inside])
    assert (out[inside] < 20).all()
