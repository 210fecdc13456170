"""The bilateral filter: smoothing that stops at edges, exact and on a grid."""

import math

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Section, Table, Text, code
from torchops.cli.demo.sheet import Sheet

_NOISE = 0.04
_AMPLIFY = 50


def _exact(noisy: Tensor, sigma_space: float) -> Tensor:
    return torchops.bilateral_filter(noisy, sigma_space, sigma_range=0.15)


def _grid(noisy: Tensor, sigma_space: float) -> Tensor:
    return torchops.bilateral_filter(noisy, sigma_space, sigma_range=0.15, method="grid")


def psnr(image: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels, for a peak of 1."""
    mean_square = float((image.double() - reference.double()).square().mean())
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def section(sheet: Sheet) -> Section:
    """Filter a noisy photograph both ways and show where they differ."""
    side = sheet.scaled(384, 48)
    sigma = side / 96
    clean = sheet.photograph("camera", (side, side))
    noise = torch.randn(clean.shape, generator=sheet.generator()).to(sheet.device)
    noisy = clean + _NOISE * noise
    exact, exact_seconds = sheet.timed(lambda: _exact(noisy, sigma))
    grid, grid_seconds = sheet.timed(lambda: _grid(noisy, sigma))
    difference = (exact - grid).abs()
    pictures = [
        sheet.picture(
            noisy,
            "1-noisy",
            "**the input**, with noise added",
            detail=f"PSNR to the clean photograph {psnr(noisy, clean):.1f} dB",
            alt="the camera photograph with noise",
        ),
        sheet.picture(
            exact,
            "2-exact",
            "**exact**: every neighbour weighed",
            detail=f"PSNR to the clean photograph {psnr(exact, clean):.1f} dB",
            alt="smooth photograph with sharp edges, exact filter",
        ),
        sheet.picture(
            grid,
            "3-grid",
            "**grid**: fast approximation",
            detail=f"PSNR to the clean photograph {psnr(grid, clean):.1f} dB",
            alt="smooth photograph with sharp edges, grid filter",
        ),
        sheet.picture(
            difference * _AMPLIFY,
            "4-difference",
            f"**|exact - grid|**, {_AMPLIFY} times brighter",
            detail=f"mean {255 * float(difference.mean()):.2f}, largest "
            f"{255 * float(difference.max()):.1f} grey levels of 255",
            alt="where the two results differ: mostly near edges",
        ),
    ]
    agreement = psnr(grid, exact)
    rows = [
        ["exact", f"{1e3 * exact_seconds:.0f} ms", f"{psnr(exact, clean):.2f} dB", "-"],
        [
            "grid",
            f"{1e3 * grid_seconds:.0f} ms",
            f"{psnr(grid, clean):.2f} dB",
            f"{agreement:.2f} dB",
        ],
    ]
    blocks: list[Block] = [
        Text(
            "Every pixel becomes a weighted mean of its neighbours. The weight falls with the "
            f"distance in the image (sigma_space = {sigma:.3g} px) and with the difference in "
            "value (sigma_range = 0.15, where white is 1): noise is averaged away, while pixels "
            "on the other side of an edge have no say."
        ),
        code(_exact),
        code(_grid),
        Gallery(pictures, width=220),
        Table(
            f"{side} x {side} px; noise of standard deviation {_NOISE}; median of a few runs",
            ["method", "time", "PSNR to the clean photograph", "PSNR to exact"],
            rows,
        ),
        Text(
            "The grid method (Paris and Durand, 2006) blurs a coarse three-dimensional histogram "
            "instead of visiting every neighbour, so its time hardly depends on sigma_space; look "
            "for its error at edges. Both are differentiable, with respect to the sigmas too."
        ),
    ]
    return Section(
        "bilateral",
        "Bilateral filter",
        ["bilateral_filter"],
        f"grid is {agreement:.1f} dB close to exact; {1e3 * exact_seconds:.0f} ms exact, "
        f"{1e3 * grid_seconds:.0f} ms grid, {side} x {side} px",
        blocks,
    )
