"""Colorization by optimisation: a few strokes of colour spread over a gray photograph."""

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Section, Text, code
from torchops.cli.demo.drawing import stroke
from torchops.cli.demo.sheet import Sheet

# Where a person would draw on astronaut.png, in its 512 x 512 pixels: one line, one colour.
STROKES: list[list[tuple[float, float]]] = [
    [(70, 300), (60, 400), (70, 490)],  # suit, left arm
    [(110, 250), (120, 330), (200, 330), (215, 480)],  # suit, chest
    [(310, 250), (330, 320), (285, 350)],  # suit, right arm
    [(290, 420), (262, 470)],  # suit, beside the helmet
    [(195, 110), (225, 170), (262, 110)],  # face
    [(165, 80), (200, 40), (270, 50), (290, 100)],  # hair
    [(200, 215), (240, 215)],  # collar lining
    [(120, 200), (150, 160), (180, 155)],  # ring of the suit, top
    [(135, 240), (200, 285), (280, 270), (300, 230)],  # ring of the suit, bottom
    [(150, 380), (170, 365), (195, 385)],  # patch
    [(285, 350), (320, 368)],  # name plate
    [(243, 320), (240, 400), (262, 360), (270, 480)],  # straps
    [(320, 470), (370, 400), (430, 440), (470, 500)],  # helmet, black
    [(395, 355), (450, 370), (490, 430)],  # helmet, white rim
    [(400, 290), (500, 300), (500, 350)],  # table
    [(410, 30), (420, 120), (425, 170)],  # tank
    [(443, 60), (445, 170)],  # booster, right
    [(387, 60), (388, 95)],  # booster, left
    [(395, 130), (400, 230)],  # shuttle
    [(110, 30), (130, 100), (110, 150)],  # wall, left
    [(310, 30), (330, 130), (345, 200)],  # wall, middle
    [(480, 30), (495, 130), (490, 230)],  # wall, right
    [(40, 60), (60, 90)],  # flag, blue
    [(10, 130), (20, 70)],  # flag, blue
    [(45, 150), (80, 205)],  # flag, red stripe
    [(20, 170), (60, 220)],  # flag, white stripe
    [(8, 240), (30, 290)],  # flag, red stripe
    [(5, 350), (15, 380)],  # flag, white stripe
    [(5, 420), (15, 470)],  # flag, red stripe
    [(165, 478), (182, 490)],  # connector
]


def scribbles(chroma: Tensor, *, width: float) -> tuple[Tensor, Tensor]:
    """Draw the strokes: each in one colour, the mean of the true chroma under it."""
    size = (chroma.shape[-2], chroma.shape[-1])
    hints = torch.zeros_like(chroma)
    mask = torch.zeros(1, *size, dtype=torch.bool, device=chroma.device)
    for points in STROKES:
        scaled = [(x * size[1] / 512, y * size[0] / 512) for x, y in points]
        drawn = stroke(scaled, width, size).to(chroma.device)
        colour = chroma[:, drawn[0]].mean(-1)
        hints = torch.where(drawn, colour[:, None, None], hints)
        mask = mask | drawn
    return hints, mask


def _colorize(luma: Tensor, hints: Tensor, mask: Tensor) -> tuple[Tensor, torchops.Colorization]:
    result = torchops.colorize(luma, hints, mask, tol=1e-3)
    photograph = torchops.yuv_to_rgb(torch.cat([luma, result.chroma], dim=-3))
    return photograph, result


def chroma_error(chroma: Tensor, true: Tensor) -> float:
    """Return the root mean square difference of two chroma images, over pixels and channels."""
    return float((chroma - true).square().mean().sqrt())


def section(sheet: Sheet) -> Section:
    """Colour a gray photograph from strokes and compare it with the true colours."""
    side = sheet.scaled(320, 64)
    true = sheet.photograph("astronaut", (side, side))
    luma, chroma = torchops.rgb_to_yuv(true).split([1, 2], dim=-3)
    hints, mask = scribbles(chroma, width=side / 80)
    coloured, result = _colorize(luma, hints, mask)
    error, zero = chroma_error(result.chroma, chroma), chroma_error(0 * chroma, chroma)
    drawn = torch.where(mask, torchops.yuv_to_rgb(torch.cat([luma, hints])), luma)
    share = float(mask.float().mean())
    state = "converged" if result.converged.all() else "stopped"
    pictures = [
        sheet.picture(
            luma,
            "1-gray",
            "**the input**: gray",
            detail=f"chroma error of no colour at all: {zero:.4f}",
            alt="the astronaut photograph in gray",
        ),
        sheet.picture(
            drawn,
            "2-scribbles",
            f"**the hints**: {len(STROKES)} strokes",
            detail=f"{share:.1%} of the pixels",
            alt="the gray photograph with strokes of colour",
        ),
        sheet.picture(
            coloured,
            "3-result",
            "**the result** of `colorize`",
            detail=f"chroma error {error:.4f}",
            alt="the photograph coloured from the strokes",
        ),
        sheet.picture(true, "4-true", "**the true photograph**", alt="the photograph in colour"),
    ]
    blocks: list[Block] = [
        Text(
            "Neighbouring pixels that are equally bright usually have the same colour (Levin, "
            "Lischinski and Weiss, 2004). `colorize` finds the chroma that is, at every pixel "
            "without a hint, the weighted mean of its neighbours' chroma, with large weights where "
            "the brightness is alike. Colours flow through even regions and stop at edges."
        ),
        code(_colorize),
        Gallery(pictures, width=220),
        Text(
            "The strokes imitate a person who knows the colours: each one is drawn in a single "
            "colour, the mean of the true photograph under it. Chroma error is the root mean "
            "square difference of U and V to the true photograph, on a scale where white has "
            f"luma 1. The solver {state} after {int(result.iterations.max())} iterations with an "
            f"estimated error of {float(result.error.max()):.1e} in the same units."
        ),
    ]
    return Section(
        "colorization",
        "Colour from scribbles",
        ["colorize", "rgb_to_yuv", "yuv_to_rgb"],
        f"{share:.1%} of the pixels hinted; chroma error {error:.4f}, without colour {zero:.4f}",
        blocks,
    )
