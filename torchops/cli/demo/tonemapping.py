"""Tone mapping: a scene with more contrast than a screen can show."""

import math

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Picture, Section, Text, code
from torchops.cli.demo.sheet import Sheet

_REC709 = (0.2126, 0.7152, 0.0722)


def _tonemap(radiance: Tensor) -> Tensor:
    display = torchops.durand_tonemap(radiance, contrast=5.0)
    return display.clamp(0, 1) ** (1 / 2.2)


def _expose(radiance: Tensor, exposure: float) -> Tensor:
    return (radiance * exposure).clamp(0, 1) ** (1 / 2.2)


def luminance(rgb: Tensor) -> Tensor:
    """Return the Rec. 709 luminance of linear RGB, (1, H, W)."""
    weights = torch.tensor(_REC709, dtype=rgb.dtype, device=rgb.device)[:, None, None]
    return (rgb * weights).sum(-3, keepdim=True)


def section(sheet: Sheet) -> Section:
    """Show an environment at three fixed exposures and tone mapped."""
    radiance = sheet.environment()
    light = luminance(radiance)
    shares = torch.tensor([0.01, 0.1, 0.5, 0.98, 0.99], device=light.device)
    low, dark, middle, bright, high = light.flatten().quantile(shares).tolist()
    stops = math.log2(high / max(low, 1e-12))
    exposures = [
        ("1-bright", "exposed for **the sky**", 0.8 / bright),
        ("2-middle", "exposed for **the middle**", 0.18 / middle),
        ("3-dark", "exposed for **the shadows**", 0.18 / max(dark, 1e-6)),
    ]
    naive = [_expose(radiance, exposure) for *_, exposure in exposures]
    mapped = _tonemap(radiance)
    pictures = [
        _picture(sheet, name, caption, image)
        for (name, caption, _), image in zip(exposures, naive, strict=True)
    ]
    pictures.append(_picture(sheet, "4-durand", "**tone mapped** by `durand_tonemap`", mapped))
    best = max(_visible(image) for image in naive)
    return Section(
        "tonemapping",
        "High dynamic range on a screen",
        ["durand_tonemap"],
        f"{stops:.1f} stops of contrast; {_visible(mapped):.1%} of the pixels neither dark nor "
        f"white, at best {best:.1%} with a fixed exposure",
        _blocks(radiance, stops, pictures),
    )


def _blocks(radiance: Tensor, stops: float, pictures: list[Picture]) -> list[Block]:
    return [
        Text(
            "A camera or a screen shows about 8 stops (factors of two) of brightness at once; this "
            f"courtyard has {stops:.1f} between its darkest and its brightest 1 % of pixels. "
            "Whatever exposure is chosen, much is too dark to see or white. `durand_tonemap` "
            "(Durand and Dorsey, 2002) splits the logarithm of the luminance with a bilateral "
            "filter into large regions of light and fine detail, compresses only the first, and "
            "keeps the second as it was."
        ),
        code(_expose),
        code(_tonemap),
        Gallery(pictures, width=400),
        Text(
            f"Radiance of {radiance.shape[-1]} x {radiance.shape[-2]} px. Dark: all "
            "channels at most at level 25 of 255; white: all channels at 255."
        ),
    ]


def _picture(sheet: Sheet, name: str, caption: str, image: Tensor) -> Picture:
    return sheet.picture(
        image,
        name,
        caption,
        detail=f"dark {float(_dark(image).mean()):.1%}, white {float(_white(image).mean()):.1%} "
        "of the pixels",
        alt="a shaded courtyard under a sunlit sky",
    )


def _dark(image: Tensor) -> Tensor:
    return (image.amax(-3) <= 25 / 255).float()


def _white(image: Tensor) -> Tensor:
    return (image.amin(-3) >= 254.5 / 255).float()


def _visible(image: Tensor) -> float:
    return 1 - float((_dark(image) + _white(image)).mean())
