"""What torchvision asks of each of its own v2 transforms, asked of RandomMultiErase."""

import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils._pytree import tree_flatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchops import RandomMultiErase

SIZE = (17, 11)

IMAGES = {
    "tensor": lambda: torch.rand(3, *SIZE),
    "gray tensor": lambda: torch.rand(1, *SIZE),
    "bytes": lambda: torch.randint(1, 256, (3, *SIZE), dtype=torch.uint8),
    "batch": lambda: torch.rand(4, 3, *SIZE),
    "image": lambda: tv_tensors.Image(torch.rand(3, *SIZE)),
    "images": lambda: tv_tensors.Image(torch.rand(2, 2, 3, *SIZE)),
    "video": lambda: tv_tensors.Video(torch.rand(5, 3, *SIZE)),
    "videos": lambda: tv_tensors.Video(torch.rand(2, 5, 3, *SIZE)),
    "pil": lambda: PIL.Image.fromarray(np.full((*SIZE, 3), 200, np.uint8)),
    "channels last": lambda: torch.rand(2, 3, *SIZE).to(memory_format=torch.channels_last),
    "not contiguous": lambda: torch.rand(3, *SIZE[::-1]).transpose(1, 2),
}


def values(image):
    """A copy of the numbers of any kind of image."""
    if isinstance(image, PIL.Image.Image):
        return torch.from_numpy(np.array(image))
    return image.as_subclass(torch.Tensor).clone()


def boxes_of(format, rows):
    return tv_tensors.BoundingBoxes(rows, format=format, canvas_size=SIZE)


def mixed_sample(image):
    """Everything a dataset may hand to a transform, beside the image."""
    return {
        "image": image,
        "corners": boxes_of("XYXY", [[1, 2, 6, 9], [0, 0, 11, 17]]),
        "sides": boxes_of("XYWH", [[1, 2, 5, 7]]),
        "centres": boxes_of("CXCYWH", [[5, 5, 4, 4]]),
        "degenerate": boxes_of("XYXY", [[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1], [2, 0, 1, 1]]),
        "no boxes": boxes_of("XYXY", torch.empty(0, 4)),
        "points": tv_tensors.KeyPoints([[1, 2], [10, 16]], canvas_size=SIZE),
        "masks": tv_tensors.Mask(torch.zeros(6, *SIZE, dtype=torch.bool)),
        "classes": tv_tensors.Mask(torch.randint(0, 9, SIZE)),
        "integer": 0,
        "float": 0.0,
        "bool": True,
        "none": None,
        "text": "text",
        "path": Path("somewhere"),
        "object": object(),
        "labels": torch.empty(5),
        "array": np.empty(5),
    }


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("container", [dict, list, tuple])
def test_a_mixed_sample_keeps_its_form(kind, container):
    sample = mixed_sample(IMAGES[kind]())
    given = sample if container is dict else container(sample.values())
    out = RandomMultiErase(p=1.0, fraction=0.2)(given)
    before, form = tree_flatten(given)
    after, same_form = tree_flatten(out)
    assert same_form == form
    assert type(after[0]) is type(before[0])
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new is old  # nothing else is touched unless it is asked for


@pytest.mark.parametrize("kind", ["tensor", "image", "video", "pil"])
def test_a_mixed_sample_when_all_is_asked_for(kind):
    sample = mixed_sample(IMAGES[kind]())
    out = RandomMultiErase(p=1.0, fraction=0.2, mask_value=1, min_visibility=0.5)(sample)
    touched = {"image", "corners", "sides", "centres", "degenerate", "no boxes", "points"}
    touched |= {"masks", "classes"}
    for name, old in sample.items():
        new = out[name]
        assert type(new) is type(old)
        if name not in touched:
            assert new is old
        elif name != "image":
            assert (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
            assert getattr(new, "format", None) == getattr(old, "format", None)
            assert getattr(new, "canvas_size", None) == getattr(old, "canvas_size", None)
    assert torch.equal(out["degenerate"], sample["degenerate"])


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_input_is_not_modified_and_a_pickled_twin_does_the_same(kind, p):
    transform, image = RandomMultiErase(p=p, fraction=0.3, value=0), IMAGES[kind]()
    before = values(image)
    torch.manual_seed(0)
    out = values(transform(image))
    assert torch.equal(values(image), before)
    assert torch.equal(out, before) == (p == 0)
    torch.manual_seed(0)
    assert torch.equal(values(pickle.loads(pickle.dumps(transform))(image)), out)


@pytest.mark.parametrize("kind", ["tensor", "bytes", "image", "video", "batch"])
def test_the_transform_is_its_functions_at_its_params(kind):
    """The same as torchvision's functional erase of the rectangles that make_params tells."""
    image = IMAGES[kind]()
    transform = RandomMultiErase(p=1.0, fraction=0.3, count=(2, 3), value=0)
    torch.manual_seed(4)
    params = transform.make_params([image])
    torch.manual_seed(4)
    out = transform(image)
    boxes = params["boxes"] if kind == "batch" else params["boxes"][None]
    expected = image.clone() if kind == "batch" else image.clone()[None]
    for sample, rectangles in zip(expected, boxes.tolist(), strict=True):
        for x0, y0, x1, y1 in rectangles:
            fill = torch.zeros(1, dtype=image.dtype)
            v2.functional.erase(sample, y0, x0, y1 - y0, x1 - x0, fill, inplace=True)
    assert torch.equal(out, expected if kind == "batch" else expected[0])


def test_an_image_that_the_coin_passes_by_is_handed_through():
    image = tv_tensors.Image(torch.rand(3, *SIZE))
    transform = RandomMultiErase(p=0.5, fraction=0.3)
    passed = 0
    for _ in range(50):
        params = transform.make_params([image])
        if not (params["boxes"] != 0).any():
            assert not params["applies"]
            assert transform.transform(image, params) is image
            passed += 1
    assert 5 < passed < 45


@pytest.mark.parametrize(
    "wrap",
    [
        lambda transform: v2.Compose([v2.RandomHorizontalFlip(), transform]),
        lambda transform: torch.nn.Sequential(transform),
        lambda transform: v2.RandomApply([transform], p=1.0),
        lambda transform: v2.RandomChoice([transform, transform]),
        lambda transform: v2.RandomOrder([transform, v2.Identity()]),
    ],
    ids=["Compose", "Sequential", "RandomApply", "RandomChoice", "RandomOrder"],
)
def test_inside_the_containers_of_v2(wrap):
    sample = {"image": tv_tensors.Image(torch.ones(3, 20, 20)), "label": 3}
    out = wrap(RandomMultiErase(p=1.0, fraction=0.25, count=2))(sample)
    assert (out["image"][0] == 0).sum() == 100
    assert out["label"] == 3


def test_it_is_a_v2_transform_that_leaves_forward_alone():
    assert issubclass(RandomMultiErase, v2.Transform)
    assert "forward" not in vars(RandomMultiErase)
    assert not list(RandomMultiErase().parameters())
    assert RandomMultiErase().eval()(torch.ones(3, 8, 8)).shape == (3, 8, 8)
