"""Erasing beside its peers: one image, a batch, and the drawing of the boxes alone.

Column "erased %" is the share of pixels erased in one call, "worst miss" the largest distance of an
image from the share asked for, in percent of the image: peers' rectangles overlap or are rounded.
"""

import warnings

import albumentations
import kornia.augmentation as K
import torch
from harness import Case, main
from timm.data.random_erasing import RandomErasing as TimmErasing
from torchvision.transforms import v2

from torchops import RandomMultiErase, erase_boxes, sample_disjoint_boxes
from torchops.erase.plan import make_plan
from torchops.erase.rectangles import rectangles_up_to

SHARE = 0.3
RATIO = (0.3, 3.3)
CALLS = 50  # single images per timed call: one alone is too short to time


def erased_percent(images):
    return 100 * (torch.as_tensor(images) == 0).double().mean()


def worst_miss(images):
    images = torch.as_tensor(images)
    shares = (images == 0).double().flatten(max(images.ndim - 3, 0)).mean(-1)
    return 100 * (shares - SHARE).abs().max()


METRICS = {"erased %": erased_percent, "worst miss": worst_miss}


def timm_erasing(*, count):
    return TimmErasing(
        probability=1.0,
        min_area=SHARE,
        max_area=SHARE,
        min_aspect=RATIO[0],
        max_aspect=RATIO[1],
        min_count=1,
        max_count=count,
        device="cpu",
    )


def repeat(transform, image):
    def call():
        for _ in range(CALLS):
            out = transform(image)
        return out

    return call


def one_image():
    image = torch.full((3, 224, 224), 2.0)
    array = image.permute(1, 2, 0).contiguous().numpy()
    timm = timm_erasing(count=4)
    # A hole's sides are drawn on their own; these cover about the share on average.
    holes = albumentations.CoarseDropout(
        num_holes_range=(1, 4), hole_height_range=(0.2, 0.5), hole_width_range=(0.2, 0.5), p=1.0
    )
    kornia = K.RandomErasing(scale=(SHARE, SHARE), ratio=RATIO, p=1.0)
    return Case(
        name=f"one image 3x224x224, {CALLS} calls",
        candidates={
            "torchvision, 1 rectangle": repeat(
                v2.RandomErasing(p=1.0, scale=(SHARE, SHARE), ratio=RATIO), image
            ),
            "torchops, 1 to 4 rectangles": repeat(
                RandomMultiErase(fraction=SHARE, ratio=RATIO, p=1.0), image
            ),
            "torchops, 1 rectangle": repeat(
                RandomMultiErase(fraction=SHARE, count=1, ratio=RATIO, p=1.0), image
            ),
            "timm, 1 to 4 rectangles, on a copy": repeat(lambda x: timm(x.clone()), image),
            "kornia, 1 rectangle": repeat(lambda x: kornia(x)[0], image),
            "albumentations, 1 to 4 rectangles": repeat(lambda x: holes(image=x)["image"], array),
        },
        baseline="torchvision, 1 rectangle",
        metrics=METRICS,
        items=CALLS,
        target="torchops with 1 to 4 rectangles no slower than torchvision with one",
    )


def batch(size, device):
    images = torch.full((size, 3, 224, 224), 2.0, device=device)
    mask = (torch.rand(size, 1, 224, 224, device=device) < SHARE).contiguous()
    target = images.clone()
    timm = timm_erasing(count=4)
    timm.device = device.type
    kornia = K.RandomErasing(scale=(SHARE, SHARE), ratio=RATIO, p=1.0)
    erase = RandomMultiErase(fraction=SHARE, ratio=RATIO, p=1.0)
    inplace = RandomMultiErase(fraction=SHARE, ratio=RATIO, p=1.0, inplace=True)
    boxes = sample_disjoint_boxes(
        size, 224, 224, fraction=SHARE, count=(1, 4), ratio=RATIO, device=device
    )

    return Case(
        name=f"batch {size}x3x224x224",
        candidates={
            "torch.where, mask given": lambda: torch.where(mask, 0.0, images),
            "masked_fill_, mask given": lambda: target.masked_fill_(mask, 0.0),
            "torchops": lambda: erase(images),
            "torchops, boxes given": lambda: erase_boxes(images, boxes),
            "torchops in place": lambda: inplace(target),
            "timm in place": lambda: timm(target),
            "kornia, 1 rectangle": lambda: kornia(images),
        },
        baseline="torch.where, mask given",
        items=size,
        image_bytes=images[0].nbytes,
        target="torchops <= 1.3 (CPU) or 2 (GPU, against masked_fill_); in place below timm's",
    )


def drawing(size, device):
    options = {"fraction": (0.02, 0.6), "count": (1, 4), "ratio": RATIO}

    def draw(height, width):
        return lambda: sample_disjoint_boxes(size, height, width, device=device, **options)

    return Case(
        name=f"draw boxes for {size} images",
        candidates={
            "32x32": draw(32, 32),
            "100x100": draw(100, 100),
            "160x1024": draw(160, 1024),
        },
        baseline="100x100",
        items=size,
    )


def million(device):
    """A third of 10^6 draws at each of three sizes, every promise checked on what comes out."""
    fraction, count = (0.02, 0.6), (1, 4)
    batches, batch = 34, 9804

    def draw(height, width):
        options = {"fraction": fraction, "count": count, "ratio": RATIO, "device": device}

        def call():
            boxes = [sample_disjoint_boxes(batch, height, width, **options) for _ in range(batches)]
            return torch.cat(boxes), height, width

        return call

    return Case(
        name="10^6 draws, a third at each size",
        candidates={
            "32x32": draw(32, 32),
            "100x100": draw(100, 100),
            "160x1024": draw(160, 1024),
        },
        baseline="100x100",
        metrics={"broken": lambda drawn: broken_promises(*drawn, fraction=fraction, count=count)},
        items=batches * batch,
        target="no promise broken",
    )


def broken_promises(boxes, height, width, *, fraction, count):
    """How many of the sets overlap, leave the image, or miss ratio, count or total area."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    h, w = y1 - y0, x1 - x0
    used = (h > 0) & (w > 0)
    inside = (x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height)
    quotient = h.double() / w.clamp(min=1)
    shaped = (quotient >= RATIO[0]) & (quotient <= RATIO[1])
    kept = torch.where(used, inside & shaped, (boxes == 0).all(-1)).all(-1)
    for i in range(boxes.shape[1]):
        for j in range(i):
            across = torch.minimum(x1[:, i], x1[:, j]) - torch.maximum(x0[:, i], x0[:, j])
            along = torch.minimum(y1[:, i], y1[:, j]) - torch.maximum(y0[:, i], y0[:, j])
            kept &= (across <= 0) | (along <= 0)
    number, area = used.sum(-1), (h * w).sum(-1)
    kept &= (number >= count[0]) & (number <= count[1])
    low, high = (int(share * height * width + 0.5) for share in fraction)
    kept &= (number == 1) | ((area >= low) & (area <= high))
    return float((~kept).sum())


def first_call():
    """A new image size: its tables alone, and a batch with them."""
    plan = make_plan.__wrapped__

    def tables(height, width, fraction):
        return lambda: plan(height, width, fraction, (1, 4), RATIO)

    def new_ratio(height, width):
        def call():
            rectangles_up_to.cache_clear()
            return plan(height, width, (0.02, 0.33), (1, 4), RATIO)

        return call

    def first_batch(height, width):
        def call():
            make_plan.cache_clear()
            return sample_disjoint_boxes(
                64, height, width, fraction=(0.02, 0.33), count=(1, 4), ratio=RATIO
            )

        return call

    return Case(
        name="a new image size",
        candidates={
            "224x224": tables(224, 224, (0.02, 0.33)),
            "224x224, one fraction": tables(224, 224, (0.3, 0.3)),
            "480x640": tables(480, 640, (0.02, 0.33)),
            "1080x1920": tables(1080, 1920, (0.02, 0.33)),
            "224x224, new ratio too": new_ratio(224, 224),
            "1080x1920, new ratio too": new_ratio(1080, 1920),
            "224x224, with 64 images": first_batch(224, 224),
            "1080x1920, with 64 images": first_batch(1080, 1920),
        },
        baseline="224x224",
    )


def cases(device):
    warnings.filterwarnings("ignore", category=UserWarning)  # of the peers
    if device.type == "cpu":
        yield one_image()
        yield batch(64, device)
        yield first_call()
    else:
        yield batch(256, device)
    yield drawing(1, device)
    yield drawing(64, device)
    yield drawing(10_000, device)
    yield million(device)


if __name__ == "__main__":
    main("erase", cases)
