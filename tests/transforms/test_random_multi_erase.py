"""RandomMultiErase as a citizen of torchvision's v2 transforms."""

import copy
import io
import math
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import photograph
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import torchops
from torchops import RandomMultiErase

SIZE = (40, 50)
TARGET = math.floor(0.3 * 40 * 50 + 0.5)


def erase(**options):
    return RandomMultiErase(**{"fraction": 0.3, "count": (2, 4), "value": -1, "p": 1.0, **options})


def erased(image, value=-1):
    return (image == value).all(-3)


# Types in, types out.


@pytest.mark.parametrize("make", [torch.Tensor, tv_tensors.Image, tv_tensors.Video])
def test_type_dtype_and_input_survive(device, make):
    batch = (3,) if make is tv_tensors.Video else ()
    for dtype in (torch.float32, torch.float16, torch.uint8, torch.int16, torch.float64):
        data = torch.full((*batch, 3, *SIZE), 5, dtype=dtype, device=device)
        value = make(data) if make is not torch.Tensor else data
        out = erase(value=0)(value)
        assert type(out) is type(value)
        assert out.dtype == dtype
        assert out.device == data.device
        assert (data == 5).all()
        assert (erased(out, 0).sum((-1, -2)) == TARGET).all()


def test_the_rest_of_the_sample_passes_through():
    label, text = torch.tensor([3, 4]), "caption"
    sample = {"image": tv_tensors.Image(torch.ones(3, *SIZE)), "label": label, "text": text}
    out = erase()(sample)
    assert out["label"] is label
    assert out["text"] is text
    assert erased(out["image"]).sum() == TARGET


def test_only_the_first_pure_tensor_is_an_image():
    """As in every v2 transform: a second tensor may be anything."""
    image, other = erase()(torch.ones(3, *SIZE), torch.ones(3, *SIZE))
    assert erased(image).sum() == TARGET
    assert (other == 1).all()


def test_images_of_a_sample_share_rectangles():
    first, second = erase()(
        tv_tensors.Image(torch.ones(3, *SIZE)), tv_tensors.Image(torch.zeros(1, *SIZE))
    )
    assert torch.equal(erased(first), erased(second))


# Batches.


@pytest.mark.parametrize("make", [torch.Tensor, tv_tensors.Image])
def test_a_batch_has_a_coin_and_rectangles_for_each_image(make):
    images = torch.ones(400, 3, *SIZE)
    out = erase(p=0.5)(make(images) if make is not torch.Tensor else images)
    areas = erased(out).sum((1, 2))
    hit = areas > 0
    assert (areas[hit] == TARGET).all()
    assert abs(int(hit.sum()) - 200) < 3 * 10
    assert len(erased(out)[hit].flatten(1).unique(dim=0)) == hit.sum()
    assert torch.equal(out[~hit], images[~hit])


def test_a_video_is_one_sample():
    out = erase()(tv_tensors.Video(torch.ones(7, 3, *SIZE)))
    assert (erased(out) == erased(out)[0]).all()
    counts = [
        erase(p=0.5)(tv_tensors.Video(torch.ones(2, 3, *SIZE))).eq(-1).any((1, 2, 3))
        for _ in range(60)
    ]
    assert all(frames[0] == frames[1] for frames in counts)
    assert {bool(frames[0]) for frames in counts} == {True, False}


def test_a_batch_of_videos():
    out = erase()(tv_tensors.Video(torch.ones(5, 4, 3, *SIZE)))
    masks = erased(out)
    assert (masks == masks[:, :1]).all()
    assert len(masks[:, 0].flatten(1).unique(dim=0)) == 5


def test_colors_of_a_video_stay_with_their_rectangle():
    out = erase(value="color", count=2)(tv_tensors.Video(torch.full((4, 3, *SIZE), 9.0)))
    assert (out == out[:1]).all()
    colors = out[0].flatten(1).T.unique(dim=0)
    assert len(colors) == 3  # the image's and two more


def test_more_batch_dimensions_and_none():
    out = erase()(torch.ones(2, 3, 1, *SIZE))
    assert (erased(out).sum((-1, -2)) == TARGET).all()
    assert len(erased(out).flatten(0, 1).flatten(1).unique(dim=0)) == 6
    assert erase()(torch.ones(0, 3, *SIZE)).shape == (0, 3, *SIZE)


# PIL.


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]
)
def test_pil_images_keep_their_mode(mode):
    with PIL.Image.open(torchops.__path__[0] + "/samples/coffee.png") as file:
        source = file.convert("RGB").resize(SIZE[::-1])
    if mode == "I;16":
        image = PIL.Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(SIZE) + 1)
    else:
        image = (
            source.convert("L").convert(mode) if mode in ("I", "F", "LA") else source.convert(mode)
        )
    before = np.array(image)
    image.info["note"] = "kept"
    for value in (1, "random", "color"):
        out = erase(value=value)(image)
        assert out.mode == mode
        assert out.size == image.size
        assert out.info["note"] == "kept"
        assert out.getpalette() == image.getpalette()
        assert np.array_equal(np.array(image), before)
        changed = (np.array(out) != before).reshape(*SIZE, -1).any(-1)
        assert 0 < changed.sum() <= TARGET
    filled = (np.array(erase(value=1)(image)) == 1).reshape(*SIZE, -1).all(-1)
    assert filled.sum() >= TARGET


def test_pil_like_its_tensor():
    image = PIL.Image.fromarray((photograph("coffee.png") * 255).byte().permute(1, 2, 0).numpy())
    transform = erase(value=[1, 2, 3])
    torch.manual_seed(5)
    out = v2.functional.pil_to_tensor(transform(image))
    torch.manual_seed(5)
    assert torch.equal(out, transform(v2.functional.pil_to_tensor(image)))


# Masks, boxes, keypoints.


@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3)])
def test_masks(lead):
    image = tv_tensors.Image(torch.ones(3, *SIZE))
    mask = tv_tensors.Mask(torch.full((*lead, *SIZE), 7, dtype=torch.uint8))
    out, same = erase()(image, mask)
    assert same is mask
    out, filled = erase(mask_value=255)(image, mask)
    assert isinstance(filled, tv_tensors.Mask)
    assert filled.dtype == torch.uint8
    assert (mask == 7).all()
    assert torch.equal(filled == 255, erased(out).expand(*lead, *SIZE))


def test_masks_of_a_batch_go_with_their_images():
    image = tv_tensors.Image(torch.ones(6, 3, *SIZE))
    for lead in ((6,), (6, 1), (6, 2)):
        mask = tv_tensors.Mask(torch.zeros(*lead, *SIZE, dtype=torch.bool))
        out, filled = erase(p=0.6, mask_value=1)(image, mask)
        expected = erased(out).reshape(6, *(1,) * (len(lead) - 1), *SIZE).expand_as(filled)
        assert torch.equal(filled.as_subclass(torch.Tensor), expected)
    with pytest.raises(ValueError, match=r"mask must begin with the batch dimensions .*\(6,\)"):
        erase(mask_value=1)(image, tv_tensors.Mask(torch.zeros(5, *SIZE)))


def test_masks_of_a_video_and_in_place():
    video = tv_tensors.Video(torch.ones(4, 3, *SIZE))
    mask = tv_tensors.Mask(torch.zeros(4, 1, *SIZE))
    out, filled = erase(mask_value=2, inplace=True)(video, mask)
    assert out is video
    assert filled is mask
    assert torch.equal(mask[:, 0] == 2, erased(video))


def targets(boxes, format="XYXY", dtype=torch.float32):
    return tv_tensors.BoundingBoxes(boxes, format=format, canvas_size=SIZE, dtype=dtype)


@pytest.mark.parametrize("format", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_hidden_boxes_become_empty(format, dtype):
    xyxy = torch.stack([torch.randint(0, 20, (80,)), torch.randint(0, 15, (80,))], 1)
    xyxy = torch.cat([xyxy, xyxy + 2 * torch.randint(1, 12, (80, 2))], 1)  # even sides: CXCYWH
    boxes = targets(
        v2.functional.convert_bounding_box_format(xyxy, old_format="XYXY", new_format=format),
        format,
        dtype,
    )
    image, out = erase(min_visibility=0.4)(tv_tensors.Image(torch.ones(1, *SIZE)), boxes)
    assert isinstance(out, tv_tensors.BoundingBoxes)
    assert (out.format, out.canvas_size, out.dtype) == (boxes.format, SIZE, dtype)
    visible = torch.stack(
        [(image[0, y0:y1, x0:x1] == 1).double().mean() for x0, y0, x1, y1 in xyxy.tolist()]
    )
    dropped = (out == 0).all(1)
    assert torch.equal(dropped, visible < 0.4)
    assert 0 < dropped.sum() < 80
    assert torch.equal(out[~dropped], boxes[~dropped])


def test_hidden_boxes_are_dropped_with_their_labels():
    transform = v2.Compose([erase(min_visibility=0.5), v2.SanitizeBoundingBoxes()])
    boxes = targets([[5 * i, 4 * j, 5 * i + 5, 4 * j + 4] for i in range(10) for j in range(10)])
    sample = {
        "image": tv_tensors.Image(torch.ones(3, *SIZE)),
        "boxes": boxes,
        "labels": torch.arange(100),
    }
    out = transform(sample)
    assert 0 < len(out["labels"]) < 100
    assert torch.equal(out["boxes"], boxes[out["labels"]])


def test_visibility_counts_the_part_inside_the_image():
    image = tv_tensors.Image(torch.ones(1, *SIZE))
    boxes = targets([[-30, -30, 1, 1], [60, 60, 90, 90], [3, 3, 3, 9]])
    _, out = erase(fraction=1, count=1, min_visibility=0.01)(image, boxes)
    assert (out[0] == 0).all()
    assert torch.equal(out[1:], boxes[1:]), "boxes without any area inside are left alone"


def test_boxes_untouched_without_min_visibility():
    image, boxes = tv_tensors.Image(torch.ones(1, *SIZE)), targets([[3, 3, 9, 9]])
    assert erase(fraction=1, count=1)(image, boxes)[1] is boxes
    assert torch.equal(erase(fraction=1, count=1, min_visibility=0)(image, boxes)[1], boxes)


def test_hidden_keypoints():
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    points = tv_tensors.KeyPoints(torch.stack([x, y], -1).reshape(-1, 2), canvas_size=SIZE)
    image = tv_tensors.Image(torch.ones(1, *SIZE))
    assert erase()(image, points)[1] is points
    out, moved = erase(min_visibility=0.5)(image, points)
    hidden = erased(out).flatten()
    assert isinstance(moved, tv_tensors.KeyPoints)
    assert torch.equal(moved[~hidden], points[~hidden])
    assert (moved[hidden] == -1).all()
    kept, _ = v2.functional.sanitize_keypoints(moved)
    assert len(kept) == len(points) - TARGET
    skeletons = tv_tensors.KeyPoints(points.reshape(20, 50, 2, 2).float(), canvas_size=SIZE)
    assert erase(min_visibility=0.5)(image, skeletons)[1].shape == skeletons.shape


# Chance.


def test_p_zero_is_the_identity():
    image = torch.rand(3, *SIZE)
    assert erase(p=0)(image) is image
    assert torch.equal(erase(p=0)(image.expand(9, 3, *SIZE)), image.expand(9, 3, *SIZE))


def test_p_is_the_rate():
    transform, image = erase(p=0.5), torch.ones(1, 8, 8)
    applied = sum(bool((transform(image) == -1).any()) for _ in range(1000))
    assert abs(applied - 500) < 3 * math.sqrt(250)


def test_reproducible_by_manual_seed_and_by_generator():
    image = torch.rand(8, 3, *SIZE)
    for value in (0, "random", "color"):
        torch.manual_seed(1)
        first = erase(value=value)(image)
        torch.manual_seed(1)
        assert torch.equal(erase(value=value)(image), first)
        assert not torch.equal(erase(value=value)(image), first)
        state = torch.get_rng_state()
        first, second = (
            erase(value=value, generator=torch.Generator().manual_seed(2))(image) for _ in range(2)
        )
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), state)


def test_parameters_can_be_replayed():
    image = torch.rand(3, *SIZE)
    transform = erase()
    params = transform.make_params([image])
    assert params["boxes"].shape == (4, 4)
    assert torch.equal(transform.transform(image, params), transform.transform(image, params))


class Noise(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(torch.ones(1, *SIZE))


def test_workers_differ():
    loader = DataLoader(Noise(erase()), num_workers=2, batch_size=2)
    masks = torch.cat([erased(batch) for batch in loader])
    assert len(masks.flatten(1).unique(dim=0)) == 8


def test_a_generator_in_a_worker_raises():
    transform = erase(generator=torch.Generator().manual_seed(0))
    assert len(list(DataLoader(Noise(transform), batch_size=2))) == 4
    with pytest.raises(ValueError, match=r"generator must be None inside a DataLoader worker"):
        list(DataLoader(Noise(transform), num_workers=1))


# Conventions of v2.


def test_pickle_and_copy():
    for generator in (None, torch.Generator().manual_seed(4)):
        transform = erase(value=[1, 2, 3], generator=generator)
        for twin in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
            torch.manual_seed(9)
            first = transform(torch.zeros(3, *SIZE)) if generator is None else None
            torch.manual_seed(9)
            second = twin(torch.zeros(3, *SIZE))
            assert first is None or torch.equal(first, second)
    buffer = io.BytesIO()
    torch.save(erase().state_dict(), buffer)


def test_representation():
    text = repr(RandomMultiErase(value="color", mask_value=255))
    assert text == (
        "RandomMultiErase(fraction=(0.02, 0.33), count=(1, 4), ratio=(0.3, 3.3), value=color, "
        "mask_value=255, p=0.5, inplace=False)"
    )


def test_the_name_is_exported_lazily():
    assert torchops.RandomMultiErase is RandomMultiErase
    assert "RandomMultiErase" in dir(torchops)
    with pytest.raises(AttributeError, match="has no attribute 'RandomErase'"):
        torchops.RandomErase  # noqa: B018


@pytest.mark.parametrize("kind", ["tensor", "image", "batch", "pil"])
def test_inplace(kind):
    if kind == "pil":
        image = PIL.Image.new("L", SIZE[::-1], 9)
        assert erase(value=0, inplace=True)(image) is image
        assert (np.array(image) == 0).sum() == TARGET
        return
    data = torch.ones(2, 3, *SIZE) if kind == "batch" else torch.ones(3, *SIZE)
    image = tv_tensors.Image(data) if kind == "image" else data
    assert erase(inplace=True)(image) is image
    assert (erased(data).sum((-1, -2)) == TARGET).all()


def test_in_a_pipeline():
    pipeline = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,) * 3, (0.2,) * 3),
            RandomMultiErase(fraction=(0.1, 0.3), p=1.0, value=0),
        ]
    )
    out = pipeline(PIL.Image.new("RGB", (64, 48), (9, 99, 199)))
    share = erased(out, 0).double().mean().item()
    assert 0.1 - 1e-3 <= share <= 0.3 + 1e-3


def test_gradient_flows_through():
    image = torch.rand(2, 3, *SIZE, requires_grad=True)
    out = erase()(image)
    out.sum().backward()
    assert torch.equal(image.grad, (out != -1).float())


# The mistake of the code this transform spares people.


def test_mistake_an_image_comes_back_unchanged():
    """The whole image in one rectangle: torchvision asks for h < H and w < W, and gives up."""
    image = torch.ones(1, 20, 20)
    theirs = v2.RandomErasing(p=1, scale=(1, 1), value=-1)
    assert torch.equal(theirs(image), image)
    assert (erase(fraction=1, count=1)(image) == -1).all()
    for fraction in (0.001, 0.02, 0.9):  # 0.001 of 400 pixels rounds to none: one is taken
        for _ in range(50):
            assert (erase(fraction=fraction, count=1)(image) == -1).any()
