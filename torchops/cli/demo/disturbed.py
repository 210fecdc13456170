"""Alignment where brightness alone misleads: under another light, and behind something."""

from collections.abc import Sequence

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Heading, Picture, Table, Text, code
from torchops.cli.demo.scene import Scene, overlay
from torchops.cli.demo.sheet import Sheet

_GAIN, _BIAS = 1.7, 20 / 255
_BLOCK = 0.6  # side of the block in front, in sides of the template
_ASIDE = 15 / 128  # how far its centre is from the template's, in the same unit

_Found = tuple[torchops.Alignment, float]  # and the seconds it took


def _align_ecc(template: Tensor, image: Tensor, guess: Tensor) -> torchops.Alignment:
    return torchops.align(template, image, initial=guess, objective="ecc")


def _align_tukey(template: Tensor, image: Tensor, guess: Tensor) -> torchops.Alignment:
    return torchops.align(template, image, initial=guess, robust="tukey")


def light(sheet: Sheet, scene: Scene, guess: Tensor) -> list[Block]:
    """Find a dark template in an image that is brighter and of more contrast."""
    template = scene.template / 2  # dark, so that the brighter image stays within [0, 1]
    image = _GAIN * (scene.image / 2) + _BIAS
    found = {
        "ssd": sheet.timed(lambda: torchops.align(template, image, initial=guess), repeats=1),
        "ecc": sheet.timed(lambda: _align_ecc(template, image, guess), repeats=1),
    }

    def seen(name: str, caption: str, matrix: Tensor, alt: str) -> Picture:
        # Both as they were before the light changed: colours show misplacement only.
        images = (scene.template, scene.image)
        return _overlay(sheet, scene, images, f"light-{name}", caption, matrix, alt)

    first = sheet.picture(
        overlay(template, image, guess),
        "light-1-as-it-is",
        "overlay **before**, as it is",
        detail="cyan: the image is brighter everywhere",
        alt="the overlay with a cyan cast all over and fringes",
    )
    ssd, ecc = found["ssd"][0].matrix, found["ecc"][0].matrix
    return [
        Heading("Another light"),
        Text(
            f"The image is now {_GAIN} times as bright as the template and "
            f"{255 * _BIAS:.0f} grey levels above that. Squared differences of brightness (`ssd`) "
            "move the template to where that costs least, which is the wrong place; the "
            "correlation coefficient (`ecc`) does not see a gain and a bias."
        ),
        code(_align_ecc),
        Gallery(
            [
                first,
                seen("2-before", "**before**, light undone", guess, "red and cyan fringes"),
                seen("3-ssd", "**after** `ssd`, light undone", ssd, "fringes are left"),
                seen("4-ecc", "**after** `ecc`, light undone", ecc, "gray all over"),
            ],
            width=230,
        ),
        Text(
            "For the pictures alone the change of light, which is known here, was undone: colours "
            "then show misplacement only."
        ),
        _table("Under another light", "objective", scene, guess, found),
    ]


def occlusion(sheet: Sheet, scene: Scene, guess: Tensor) -> list[Block]:
    """Find a template that something else covers in part."""
    image, covered = _covered(sheet, scene)
    found = {
        "none": sheet.timed(
            lambda: torchops.align(scene.template, image, initial=guess), repeats=1
        ),
        "huber": sheet.timed(
            lambda: torchops.align(scene.template, image, initial=guess, robust="huber"), repeats=1
        ),
        "tukey": sheet.timed(lambda: _align_tukey(scene.template, image, guess), repeats=1),
    }

    def seen(name: str, caption: str, matrix: Tensor, alt: str) -> Picture:
        images = (scene.template, image)
        return _overlay(sheet, scene, images, f"occlusion-{name}", caption, matrix, alt)

    plain, tukey = found["none"][0].matrix, found["tukey"][0].matrix
    return [
        Heading("Something in front"),
        Text(
            f"Another photograph now covers {covered:.0%} of the template. Its differences of "
            "brightness are large, and squared they outweigh what still fits. Huber's function "
            "limits the pull of a pixel, Tukey's ends it."
        ),
        code(_align_tukey),
        Gallery(
            [
                sheet.picture(
                    image,
                    "occlusion-1-image",
                    "**the image**, covered in part",
                    alt="the photograph with a square of another one over the face",
                ),
                seen("2-before", "overlay **before**", guess, "fringes all over"),
                seen("3-plain", "overlay **after**, no robust function", plain, "fringes are left"),
                seen("4-tukey", "overlay **after** `tukey`", tukey, "gray around the block"),
            ],
            width=230,
        ),
        _table("Behind something", "robust", scene, guess, found),
    ]


def _covered(sheet: Sheet, scene: Scene) -> tuple[Tensor, float]:
    """Put a square of another photograph before the goal; return which part of it that covers."""
    side = scene.template.shape[-1]
    half = round(_BLOCK * side / 2)
    centre = scene.goal.mean(0) + _ASIDE * side
    x, y = (round(value) - half for value in centre.tolist())
    block = sheet.photograph("coffee", (2 * half, 2 * half)).mean(0, keepdim=True)
    image, mask = scene.image.clone(), torch.zeros_like(scene.image)
    image[:, y : y + 2 * half, x : x + 2 * half] = block
    mask[:, y : y + 2 * half, x : x + 2 * half] = 1
    return image, float(torchops.warp_image(mask, scene.matrix, (side, side)).mean())


def _overlay(
    sheet: Sheet,
    scene: Scene,
    images: tuple[Tensor, Tensor],
    name: str,
    caption: str,
    matrix: Tensor,
    alt: str,
) -> Picture:
    return sheet.picture(
        overlay(*images, matrix),
        name,
        caption,
        detail=f"corners {float(scene.error(matrix)):.3f} px off",
        alt=f"overlay of template and image: {alt}",
    )


def _table(
    caption: str, option: str, scene: Scene, guess: Tensor, found: dict[str, _Found]
) -> Table:
    before = f"{float(scene.error(guess)):.2f} px"
    rows: list[Sequence[str]] = [
        [
            f"`{name}`",
            torchops.AlignmentStatus(int(result.status)).name,
            f"{int(result.iterations)}",
            before,
            f"{float(scene.error(result.matrix)):.3f} px",
            f"{1e3 * seconds:.0f} ms",
        ]
        for name, (result, seconds) in found.items()
    ]
    head = [option, "status", "iterations", "corner error before", "after", "time"]
    return Table(caption, head, rows)
