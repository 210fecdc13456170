"""Random erasing with several rectangles: the asked fraction, to the pixel."""

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Heading, Picture, Section, Text, code
from torchops.cli.demo.sheet import Sheet

# name of the photograph, asked fraction, number of rectangles (or its range), fill
_TILES: list[tuple[str, float, int | tuple[int, int], float | str]] = [
    ("coffee", 0.05, 2, 0.0),
    ("chelsea", 0.10, 3, 0.5),
    ("astronaut", 1 / 7, 4, "color"),
    ("coffee", 0.25, 6, "random"),
    ("chelsea", 1 / 3, (2, 6), 0.0),
    ("astronaut", 0.40, 8, "color"),
    ("coffee", 0.50, 10, 0.5),
    ("chelsea", 0.60, 12, "color"),
]


def _erase(
    image: Tensor, fraction: float, count: int | tuple[int, int], value: float | str
) -> tuple[Tensor, Tensor, Tensor]:
    boxes = torchops.sample_disjoint_boxes(
        1, *image.shape[-2:], fraction=fraction, count=count, ratio=(0.3, 3.3)
    )
    erased = torchops.erase_boxes(image, boxes.to(image.device), value=value)
    mask = torchops.boxes_to_mask(boxes, *image.shape[-2:])
    return erased, boxes, mask


def _augment(images: Tensor, nothing: Tensor) -> tuple[Tensor, Tensor]:
    transform = torchops.RandomMultiErase(
        fraction=(0.02, 0.33), count=(1, 4), value="color", mask_value=1, p=0.5
    )
    erased, masks = transform(images, nothing)
    return erased, masks


def section(sheet: Sheet) -> Section:
    """Erase rectangles of a given total area, and check the area by counting pixels."""
    size = (sheet.scaled(180, 48), sheet.scaled(240, 64))
    tiles = []
    misses = []
    for k, (name, fraction, count, value) in enumerate(_TILES):
        image = sheet.photograph(name, size)[None]
        with sheet.seeded(k):
            erased, boxes, mask = _erase(image, fraction, count, value)
        tiles.append(_tile(sheet, k, name, fraction, erased, boxes, mask))
        misses.append(abs(int(mask.sum()) - int(fraction * mask.numel() + 0.5)))
    blocks: list[Block] = [
        Text(
            "Hiding parts of the training images makes a network look at the rest. Here you say "
            "how much is to be hidden, in how many rectangles and of which shapes, and get exactly "
            "that: the rectangles never overlap, lie inside the image, keep their side ratio, and "
            "their areas add up to the asked fraction, rounded to a whole pixel."
        ),
        code(_erase),
        Gallery(tiles, width=200),
        Text(
            "The achieved fraction is the count of pixels under the mask. "
            f"Largest difference to the asked number of pixels in these {len(tiles)} images: "
            f"{max(misses)} px."
        ),
        Heading("In a training pipeline"),
        Text(
            "`RandomMultiErase` is the same as a torchvision v2 transform. It tosses a coin for "
            "every image of a batch (here p = 0.5) and carries masks and bounding boxes along; "
            "here a mask tells what was erased."
        ),
        code(_augment),
        Gallery(_pipeline(sheet, size), width=200),
    ]
    return Section(
        "erasing",
        "Erasing rectangles",
        ["RandomMultiErase", "sample_disjoint_boxes", "erase_boxes", "boxes_to_mask"],
        f"{len(tiles)} images, {_TILES[0][1]:.0%} to {_TILES[-1][1]:.0%} erased; "
        f"off by at most {max(misses)} pixels",
        blocks,
    )


def _tile(
    sheet: Sheet,
    k: int,
    name: str,
    fraction: float,
    erased: Tensor,
    boxes: Tensor,
    mask: Tensor,
) -> Picture:
    drawn = int(((boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])).sum())
    pixels, total = int(mask.sum()), mask.numel()
    return sheet.picture(
        erased[0],
        f"{k + 1}-{name}",
        f"asked {fraction:.3%}",
        detail=f"achieved {pixels / total:.3%}: {pixels:,} of {total:,} px, {drawn} rectangles",
        alt=f"{name} with {drawn} rectangles erased",
    )


def _pipeline(sheet: Sheet, size: tuple[int, int]) -> list[Picture]:
    from torchvision import tv_tensors

    names = ["coffee", "chelsea", "astronaut", "coffee"]
    images = tv_tensors.Image(torch.stack([sheet.photograph(name, size) for name in names]))
    nothing = tv_tensors.Mask(torch.zeros(len(names), 1, *size, dtype=torch.uint8))
    with sheet.seeded(2):
        erased, masks = _augment(images, nothing.to(sheet.device))
    pictures = []
    for k, name in enumerate(names):
        share = float(masks[k].float().mean())
        what = f"{share:.2%} erased" if share else "left as it was"
        pictures.append(
            sheet.picture(
                erased[k].as_subclass(Tensor),
                f"batch-{k + 1}",
                f"image {k + 1} of the batch: {what}",
                alt=f"{name}, {what}",
            )
        )
    return pictures
