"""The bilateral filter: smoothing that stops at edges, exact and by every fast method."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Picture, Section, Table, Text, code
from torchops.cli.demo.sheet import Sheet

Method = Literal["grid", "piecewise", "fourier"]

_NOISE = 0.04
_AMPLIFY = 50
_METHODS: dict[Method, str] = {
    "grid": "blurs a coarse histogram over position and value",
    "piecewise": "filters for a few values of the centre and interpolates",
    "fourier": "writes the range weight as a cosine series",
}


def _exact(noisy: Tensor, sigma_space: float) -> Tensor:
    return torchops.bilateral_filter(noisy, sigma_space, sigma_range=0.15)


def _fast(noisy: Tensor, sigma_space: float, method: Method) -> Tensor:
    return torchops.bilateral_filter(noisy, sigma_space, sigma_range=0.15, method=method)


def psnr(image: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels, for a peak of 1."""
    mean_square = float((image.double() - reference.double()).square().mean())
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def section(sheet: Sheet) -> Section:
    """Filter a noisy photograph by every method and show where they differ."""
    side = sheet.scaled(384, 48)
    sigma = side / 96
    clean = sheet.photograph("camera", (side, side))
    noise = torch.randn(clean.shape, generator=sheet.generator()).to(sheet.device)
    noisy = clean + _NOISE * noise
    exact, seconds = sheet.timed(lambda: _exact(noisy, sigma))
    rows = [["exact", f"{1e3 * seconds:.0f} ms", f"{psnr(exact, clean):.2f} dB", "-", "-"]]
    filtered = [_picture(sheet, noisy, clean, "1-noisy", "**the input**, with noise added")]
    filtered.append(_picture(sheet, exact, clean, "2-exact", "**exact**: every neighbour weighed"))
    differences = []
    headline = []
    for number, (method, words) in enumerate(_METHODS.items(), start=3):
        found, fast_seconds = sheet.timed(partial(_fast, noisy, sigma, method))
        difference = (found - exact).abs()
        agreement = f"{psnr(found, exact):.1f} dB"
        headline.append(f"{method} {agreement}")
        largest = f"{255 * float(difference.max()):.2g}"
        rows.append(
            [
                method,
                f"{1e3 * fast_seconds:.0f} ms",
                f"{psnr(found, clean):.2f} dB",
                agreement,
                largest,
            ]
        )
        filtered.append(_picture(sheet, found, clean, f"{number}-{method}", f"**{method}**"))
        differences.append(
            sheet.picture(
                difference * _AMPLIFY,
                f"{number}-{method}-difference",
                f"**|exact - {method}|**, {_AMPLIFY} times brighter",
                detail=f"{agreement} to exact; largest {largest} grey levels of 255. It {words}",
                alt=f"where exact and {method} differ",
            )
        )
    return Section(
        "bilateral",
        "Bilateral filter",
        ["bilateral_filter"],
        f"close to exact: {', '.join(headline)}; {side} x {side} px",
        _blocks(side, sigma, filtered, differences, rows),
    )


def _picture(sheet: Sheet, image: Tensor, clean: Tensor, name: str, caption: str) -> Picture:
    return sheet.picture(
        image,
        name,
        caption,
        detail=f"PSNR to the clean photograph {psnr(image, clean):.1f} dB",
        alt=f"the camera photograph: {caption.replace('*', '')}",
    )


def _blocks(
    side: int,
    sigma: float,
    filtered: list[Picture],
    differences: list[Picture],
    rows: list[list[str]],
) -> list[Block]:
    return [
        Text(
            "Every pixel becomes a weighted mean of its neighbours. The weight falls with the "
            f"distance in the image (sigma_space = {sigma:.3g} px) and with the difference in "
            "value (sigma_range = 0.15, where white is 1): noise is averaged away, while pixels "
            "on the other side of an edge have no say."
        ),
        code(_exact),
        code(_fast),
        Gallery(filtered, width=200),
        Gallery(differences, width=200),
        Table(
            f"{side} x {side} px; noise of standard deviation {_NOISE}; median of a few runs; "
            "largest difference to exact in grey levels of 255",
            ["method", "time", "PSNR to the clean photograph", "PSNR to exact", "largest"],
            rows,
        ),
        Text(
            "The fast methods replace the visit to every neighbour by plain blurs, so their time "
            "hardly depends on sigma_space, while that of exact grows with its square; look for "
            "their errors at edges. All are differentiable, with respect to the sigmas too."
        ),
    ]
