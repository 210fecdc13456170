"""Alignment: find the homography under which an image shows a template."""

import torch
from torch import Tensor

import torchops
from torchops.cli.align.overlay import red_cyan
from torchops.cli.demo.blocks import Block, Gallery, Picture, Section, Table, Text, code
from torchops.cli.demo.drawing import outline
from torchops.cli.demo.plots import curves
from torchops.cli.demo.sheet import Sheet

_ALGORITHMS = ("inverse_compositional", "forward_compositional", "forward_additive")
_NOISE = 2 / 255
_ORANGE, _GREEN = (255, 140, 0), (40, 220, 90)


def _align(template: Tensor, image: Tensor, guess: Tensor) -> torchops.Alignment:
    return torchops.align(template, image, motion="homography", initial=guess)


def _overlay(template: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    height, width = template.shape[-2:]
    seen = torchops.warp_image(image, matrix, (height, width))  # seen(x) = image(W x)
    return red_cyan(template, seen)


class _Scene:
    """A template cut out of a photograph by a known matrix, and the corners it should find."""

    def __init__(self, sheet: Sheet):
        side = sheet.scaled(128, 48)
        self.image = sheet.photograph("astronaut").mean(0, keepdim=True)
        self.matrix = _true_matrix(side).to(self.image)
        clean = torchops.warp_image(self.image, self.matrix, (side, side), mode="bicubic")
        noise = torch.randn(clean.shape, generator=sheet.generator()).to(sheet.device)
        self.template = clean + _NOISE * noise
        last = side - 1
        corners = torch.tensor([[0, 0], [last, 0], [last, last], [0, last]])
        self.corners = corners.to(self.image)
        self.goal = torchops.warp_points(self.corners, self.matrix)

    def guess(self, shift: Tensor) -> Tensor:
        """Return the upright square of template size about the goal, moved by ``shift`` (*, 2)."""
        centre = self.goal.mean(0) - self.corners.mean(0) + shift.to(self.goal)
        parameters = torch.zeros(*shift.shape[:-1], 8).to(self.goal)
        parameters[..., 4:6] = centre
        return torchops.motion_matrix(parameters, "homography")

    def error(self, matrix: Tensor) -> Tensor:
        """Return the mean distance of the four corners from where they should be, in pixels."""
        return (torchops.warp_points(self.corners, matrix) - self.goal).norm(dim=-1).mean(-1)


def _true_matrix(side: int) -> Tensor:
    """Place the template over face and collar: turned, larger, in perspective."""
    parameters = torch.tensor([0.06, 0.10, -0.08, 0.10, 160.0, 60.0, 4e-4, -2e-4])
    parameters[6:] *= 128 / side  # the same perspective across a template of another size
    return torchops.motion_matrix(parameters, "homography")


def section(sheet: Sheet) -> Section:
    """Find the template again from a rough guess."""
    scene = _Scene(sheet)
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
            f"with a known matrix and given noise ({255 * _NOISE:.0f} grey levels of 255), so the "
            "true corners are known."
        ),
        code(_align),
        Gallery(pictures[:3], width=280),
        Text(
            "In the overlays the template is red and the warped image cyan: gray is a match, "
            "coloured fringes are not."
        ),
        code(_overlay),
        Gallery(pictures[3:], width=280),
        Text(
            f"Status {status} after {int(result.iterations)} iterations in "
            f"{1e3 * seconds:.0f} ms; remaining brightness difference "
            f"{255 * float(result.error):.2f} grey levels (root mean square)."
        ),
        *_convergence(sheet, scene, guess),
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


def _pictures(sheet: Sheet, scene: _Scene, guess: Tensor, found: Tensor) -> list[Picture]:
    def place(matrix: Tensor, colour: tuple[int, int, int]) -> Tensor:
        return outline(scene.image, torchops.warp_points(scene.corners, matrix), colour)

    def overlay(matrix: Tensor) -> Tensor:
        return _overlay(scene.template, scene.image, matrix)

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
            overlay(guess),
            "4-overlay-before",
            "overlay **before**",
            alt="template and image on top of each other with red and cyan fringes",
        ),
        sheet.picture(
            overlay(found),
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


def _convergence(sheet: Sheet, scene: _Scene, guess: Tensor) -> list[Block]:
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
                iterations=iterations,
            )
            errors.append(float(scene.error(result.matrix)))
        series[algorithm.replace("_", " ")] = (steps, errors)
    return curves(
        sheet,
        "convergence",
        series,
        x="iterations",
        y="mean corner error (px)",
        log=True,
        caption="**Convergence**: `align(..., iterations=n)` for growing n. Noise and "
        "interpolation set the floor.",
        alt="falling curves: the corner error of three algorithms over the iterations",
    )


def _many(sheet: Sheet, scene: _Scene) -> list[Block]:
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
