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


def first_call():
    """The tables of a new image size, which the cache keeps."""

    def plan(height, width, fraction):
        return lambda: make_plan.__wrapped__(height, width, fraction, (1, 4), RATIO)

    return Case(
        name="tables of a new image size",
        candidates={
            "224x224": plan(224, 224, (0.02, 0.33)),
            "224x224, one fraction": plan(224, 224, (0.3, 0.3)),
            "480x640": plan(480, 640, (0.02, 0.33)),
            "1080x1920": plan(1080, 1920, (0.02, 0.33)),
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


if __name__ == "__main__":
    main("erase", cases)
