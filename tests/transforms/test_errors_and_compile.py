"""RandomMultiErase with wrong arguments, and traced."""

import PIL.Image
import pytest
import torch
from torchvision import tv_tensors

from torchops import RandomMultiErase

pytestmark = pytest.mark.unhooked

SIZE = (40, 50)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 1.5}, ValueError, r"fraction must be .* got 1.5"),
        ({"count": (2, 1)}, ValueError, r"count must be .* low <= high"),
        ({"ratio": (0, 1)}, ValueError, r"ratio\[0\] must be .* > 0, got 0"),
        ({"p": 1.2}, ValueError, r"p must be a finite number >= 0 and <= 1, got 1.2"),
        ({"p": "1"}, TypeError, r"p must be .* got '1'"),
        ({"value": "noise"}, ValueError, r"value must be one of 'random', 'color'"),
        ({"value": None}, TypeError, r"value must be a number, a sequence"),
        ({"value": ()}, ValueError, r"value must hold one number per channel, got 0"),
        ({"mask_value": "0"}, TypeError, r"mask_value must be a finite number, got '0'"),
        ({"min_visibility": 2}, ValueError, r"min_visibility must be .* got 2"),
        ({"inplace": 0}, TypeError, r"inplace must be True or False, got 0"),
        ({"generator": 0}, TypeError, r"generator must be a torch.Generator or None, got 0"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        RandomMultiErase(**options)


@pytest.mark.parametrize(
    ("options", "inputs", "error", "message"),
    [
        ({}, (torch.ones(4, 4),), ValueError, r"image must be of shape \(\*batch, C, H, W\), got"),
        (
            {},
            (tv_tensors.Video(torch.ones(1, 3, 4, 4)), tv_tensors.Image(torch.ones(3, 5, 4))),
            ValueError,
            r"images of a sample must agree in batch and size, got .* 4 x 4 and .* 5 x 4",
        ),
        (
            {},
            (tv_tensors.Image(torch.ones(2, 3, 4, 4)), tv_tensors.Image(torch.ones(3, 4, 4))),
            ValueError,
            r"images of a sample must agree in batch and size, got batch \(2,\)",
        ),
        ({}, ({"label": 3},), TypeError, r"the sample must hold an image or a video"),
        (
            {"value": 0.5},
            (torch.ones(3, *SIZE, dtype=torch.uint8),),
            ValueError,
            r"value must be a whole number from 0 to 255, as uint8 holds, got 0.5",
        ),
        (
            {"value": 300},
            (PIL.Image.new("L", (50, 40)),),
            ValueError,
            r"value must be a whole number .* got 300",
        ),
        (
            {"mask_value": 300},
            (
                tv_tensors.Image(torch.ones(3, *SIZE)),
                tv_tensors.Mask(torch.ones(*SIZE, dtype=torch.uint8)),
            ),
            ValueError,
            r"value must be a whole number .* got 300",
        ),
        (
            {},
            (PIL.Image.new("I;16B", (50, 40)),),
            TypeError,
            r"a PIL image must be of mode .* got 'I;16B'; convert it first",
        ),
        (
            {"fraction": 0.99, "count": 3, "ratio": (0.9, 1.1)},
            (torch.ones(3, *SIZE),),
            ValueError,
            r"fraction must be what 3 .* size 40 x 50, got 0.99",
        ),
        (
            {"min_visibility": 0.5},
            (
                tv_tensors.Image(torch.ones(2, 3, *SIZE)),
                tv_tensors.BoundingBoxes([[1, 1, 3, 3]], format="XYXY", canvas_size=SIZE),
            ),
            ValueError,
            r"BoundingBoxes with min_visibility must belong to a single image, got a batch",
        ),
        (
            {"min_visibility": 0.5},
            (
                tv_tensors.Image(torch.ones(3, *SIZE)),
                tv_tensors.BoundingBoxes(
                    torch.ones(1, 5), format="CXCYWHR", canvas_size=SIZE, dtype=torch.float32
                ),
            ),
            ValueError,
            r"BoundingBoxes with min_visibility must be of format XYXY, XYWH or CXCYWH",
        ),
    ],
)
def test_inputs(options, inputs, error, message):
    with pytest.raises(error, match=message):
        RandomMultiErase(**{"p": 1.0, **options})(*inputs)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("value", [-1.0, "color"])
def test_compiles_without_a_generator(device, dynamic, value):
    torch.compiler.reset()
    transform = RandomMultiErase(fraction=0.3, count=(2, 4), p=1.0, value=value)
    compiled = torch.compile(transform, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (5, 3):
        out = compiled(torch.full((batch, 3, *SIZE), 7.0, device=device))
        assert ((out != 7).any(1).sum((1, 2)) == 600).all()


def test_compiled_like_eager():
    torch.compiler.reset()
    transform = RandomMultiErase(fraction=(0.1, 0.5), p=0.5)
    compiled = torch.compile(transform, fullgraph=True, backend="eager")
    images = torch.rand(16, 3, *SIZE)
    torch.manual_seed(3)
    out = compiled(images)
    torch.manual_seed(3)
    assert torch.equal(out, transform(images))
