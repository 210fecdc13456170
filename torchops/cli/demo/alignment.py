"""Alignment: find the homography under which an image shows a template."""

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Heading, Picture, Section, Table, Text, code
from torchops.cli.demo.disturbed import light, occlusion
from torchops.cli.demo.drawing import outline
from torchops.cli.demo.plots import curves
from torchops.cli.demo.scene import NOISE, Scene, overlay
from torchops.cli.demo.sheet import Sheet

_ALGORITHMS = ("inverse_compositional", "forward_compositional", "forward_additive", "esm")
_ORANGE, _GREEN = (255, 140, 0), (40, 220, 90)


def _align(template: Tensor, image: Tensor, guess: Tensor) -> torchops.Alignment:
    return torchops.align(template, image, motion="homography", initial=guess)


def section(sheet: Sheet) -> Section:
    """Find the template again from a rough guess."""
    scene = Scene(sheet)
    guess = scene.guess(torch.tensor([5.0, -4.0]))
    result, seconds = sheet.timed(lambda: _align(scene.template, scene.image, guess), repeats=1)
    before, after = float(scene.error(guess)), float(scene.error(result.matrix))
    pictures = _pictures(sheet, scene, guess, result.matrix)
    status = torchops.AlignmentStatus(int(result.status)).name
    blocks: list[Block] = [
        Text(
            "A template is a small picture of something flat; the image shows it somewhere, "
            "shifted, turned and in perspective. `align` finds the 3 x 3 matrix W with "
            "`image(W x) = template(x)` by Gauss-Newton steps on the brightness differences. It "
            "needs a rough guess to start from, here an upright square. The template was cut out "
            f"with a known matrix and given noise ({255 * NOISE:.0f} grey levels of 255), so the "
            "true corners are known."
        ),
        code(_align),
        Gallery(pictures[:3], width=280),
        Text(
            "In the overlays the template is red and the warped image cyan: gray is a match, "
            "coloured fringes are not."
        ),
        code(overlay),
        Gallery(pictures[3:], width=280),
        Text(
            f"Status {status} after {int(result.iterations)} iterations in "
            f"{1e3 * seconds:.0f} ms; remaining brightness difference "
            f"{255 * float(result.error):.2f} grey levels (root mean square)."
        ),
        *_convergence(sheet, scene, guess),
        *light(sheet, scene, guess),
        *occlusion(sheet, scene, guess),
        Heading("Many at once"),
        *_many(sheet, scene),
    ]
    return Section(
        "alignment",
        "Image alignment",
        ["align", "warp_image", "warp_points", "motion_matrix"],
        f"corners {before:.1f} px off before, {after:.3f} px after {int(result.iterations)} "
        "iterations",
        blocks,
    )


def _pictures(sheet: Sheet, scene: Scene, guess: Tensor, found: Tensor) -> list[Picture]:
    def place(matrix: Tensor, colour: tuple[int, int, int]) -> Tensor:
        return outline(scene.image, torchops.warp_points(scene.corners, matrix), colour)

    def difference(matrix: Tensor) -> Tensor:
        return (torchops.warp_image(scene.image, matrix, (side, side)) - scene.template).abs()

    before, after = float(scene.error(guess)), float(scene.error(found))
    side = scene.template.shape[-1]
    return [
        sheet.picture(
            scene.template,
            "1-template",
            "**the template**",
            detail=f"{side} x {side} px",
            alt="a tilted cut-out of the photograph",
        ),
        sheet.picture(
            place(guess, _ORANGE),
            "2-start",
            "**the image** with the guess",
            detail=f"corners {before:.2f} px off on average",
            alt="the photograph with an upright square, near the wanted place",
        ),
        sheet.picture(
            place(found, _GREEN),
            "3-found",
            "**the image** with the result",
            detail=f"corners {after:.4f} px off on average",
            alt="the photograph with the tilted quadrilateral that was found",
        ),
        sheet.picture(
            overlay(scene.template, scene.image, guess),
            "4-overlay-before",
            "overlay **before**",
            alt="template and image on top of each other with red and cyan fringes",
        ),
        sheet.picture(
            overlay(scene.template, scene.image, found),
            "5-overlay-after",
            "overlay **after**",
            alt="template and image on top of each other, all gray",
        ),
        sheet.picture(
            difference(found) * 10,
            "6-difference",
            "difference **after**, 10 times brighter",
            detail=f"mean {255 * float(difference(found).mean()):.2f} grey levels, before "
            f"{255 * float(difference(guess).mean()):.2f}; noise, and edges softened by sampling",
            alt="mostly even noise, with faint outlines of the face",
        ),
    ]


def _convergence(sheet: Sheet, scene: Scene, guess: Tensor) -> list[Block]:
    """Run every algorithm with 1, 2, 3, ... iterations, and measure the corners each time."""
    limit = sheet.scaled(15, 4)
    steps = list(range(limit + 1))
    series = {}
    for algorithm in _ALGORITHMS:
        errors = [float(scene.error(guess))]
        for iterations in steps[1:]:
            result = torchops.align(
                scene.template,
                scene.image,
                initial=guess,
                algorithm=algorithm,
                levels=1,
                iterations=iterations,
            )
            errors.append(float(scene.error(result.matrix)))
        series[algorithm.replace("_", " ").replace("esm", "ESM")] = (steps, errors)
    return curves(
        sheet,
        "convergence",
        series,
        x="iterations",
        y="mean corner error (px)",
        log=True,
        caption="**Convergence**: `align(..., levels=1, iterations=n)` for growing n: without the "
        "small sizes that come first by default and do most of the work. Noise and interpolation "
        "set the floor.",
        alt="falling curves: the corner error of four algorithms, that of ESM before the others",
    )


def _many(sheet: Sheet, scene: Scene) -> list[Block]:
    """Start from many guesses in one batched call."""
    count = sheet.scaled(32, 4)
    shifts = (torch.rand(count, 2, generator=sheet.generator(1)) * 2 - 1) * 20
    starts = scene.guess(shifts)
    result, seconds = sheet.timed(lambda: _align(scene.template, scene.image, starts), repeats=1)
    before, after = scene.error(starts), scene.error(result.matrix)
    found = after < 0.1
    rows = []
    for status in torchops.AlignmentStatus:
        chosen = result.status == int(status)
        if chosen.any():
            rows.append(
                [
                    status.name,
                    f"{int(chosen.sum())}",
                    f"{float(before[chosen].min()):.1f} to {float(before[chosen].max()):.1f} px",
                    f"{int(found[chosen].sum())}",
                    f"{float(after[chosen].median()):.4f} px",
                ]
            )
    return [
        Text(
            f"Everything works on batches: {count} guesses at once, moved by up to 20 px in x and "
            f"y, took {seconds:.2f} s. Each gets its own status, so a start that was too far off "
            "is known as such."
        ),
        Table(
            "How the starts ended",
            ["status", "starts", "corner error before", "ended below 0.1 px", "median after"],
            rows,
        ),
    ]
