"""Wrong arguments: each names itself, what it must be and what came."""

import re

import pytest
import torch

from torchops import (
    ColorizationLoss,
    colorization_loss,
    colorize,
    levin_weights,
    rgb_to_yiq,
    rgb_to_yuv,
    scribbles_from_marked,
    yiq_to_rgb,
    yuv_to_rgb,
)

pytestmark = pytest.mark.unhooked

LUMA = torch.rand(1, 6, 7)
CHROMA = torch.rand(2, 6, 7)
MASK = torch.ones(1, 6, 7, dtype=torch.bool)
INTEGERS = torch.zeros(1, 6, 7, dtype=torch.uint8)

CASES = {
    "luma list": (lambda: levin_weights([1]), TypeError, "luma must be a torch.Tensor"),
    "luma uint8": (lambda: levin_weights(INTEGERS), TypeError, "luma must be of dtype float16"),
    "luma rank": (lambda: levin_weights(LUMA[0]), ValueError, "luma must be of shape (*batch, C"),
    "luma channels": (lambda: levin_weights(CHROMA), ValueError, "luma must have 1 channel(s)"),
    "luma pixels": (
        lambda: levin_weights(LUMA[..., :0]),
        ValueError,
        "luma must have at least one channel and pixel",
    ),
    "radius": (lambda: levin_weights(LUMA, radius=0), ValueError, "radius must be an integer >= 1"),
    "radius float": (
        lambda: levin_weights(LUMA, radius=1.0),
        TypeError,
        "radius must be an integer >= 1, got 1.0",
    ),
    "weighting": (
        lambda: levin_weights(LUMA, weighting="paper"),
        ValueError,
        "weighting must be one of 'levin', 'gaussian', 'correlation', got 'paper'",
    ),
    "loss size": (
        lambda: colorization_loss(CHROMA, LUMA[..., 1:]),
        ValueError,
        "luma must have the height and width of chroma, (6, 7), got (6, 6)",
    ),
    "loss mask size": (
        lambda: colorization_loss(CHROMA, LUMA, mask=MASK[..., 1:]),
        ValueError,
        "mask must have the height and width of chroma",
    ),
    "loss mask dtype": (
        lambda: colorization_loss(CHROMA, LUMA, mask=INTEGERS),
        TypeError,
        "mask must be of dtype bool, float16",
    ),
    "loss mask channels": (
        lambda: colorization_loss(CHROMA, LUMA, mask=MASK.expand(2, 6, 7)),
        ValueError,
        "mask must have 1 channel(s)",
    ),
    "loss batch": (
        lambda: colorization_loss(CHROMA.expand(3, 2, 6, 7), LUMA.expand(2, 1, 6, 7)),
        ValueError,
        "chroma and luma must have batch dimensions that broadcast, got chroma (3,), luma (2,)",
    ),
    "loss device": (
        lambda: colorization_loss(CHROMA, LUMA.to("meta")),
        ValueError,
        "chroma and luma must be on one device, got chroma on cpu, luma on meta",
    ),
    "reduction": (
        lambda: colorization_loss(CHROMA, LUMA, reduction="max"),
        ValueError,
        "reduction must be one of 'mean', 'sum', 'none', got 'max'",
    ),
    "module reduction": (
        lambda: ColorizationLoss(reduction="max"),
        ValueError,
        "reduction must be one of",
    ),
    "module radius": (lambda: ColorizationLoss(radius=-1), ValueError, "radius must be an integer"),
    "mask float": (
        lambda: colorize(LUMA, CHROMA, MASK.float()),
        TypeError,
        "mask must be of dtype bool, got a float32 tensor of shape (1, 6, 7); "
        "soft hints go through confidence",
    ),
    "hints size": (
        lambda: colorize(LUMA, CHROMA[:, 1:], MASK),
        ValueError,
        "hints must have the height and width of luma, (6, 7), got (5, 7)",
    ),
    "mask size": (
        lambda: colorize(LUMA, CHROMA, MASK[:, 1:]),
        ValueError,
        "mask must have the height and width of luma",
    ),
    "confidence": (
        lambda: colorize(LUMA, CHROMA, MASK, confidence=CHROMA),
        ValueError,
        "confidence must have 1 channel(s)",
    ),
    "initial": (
        lambda: colorize(LUMA, CHROMA, MASK, initial=LUMA),
        ValueError,
        "initial must have the 2 channel(s) of hints, got 1",
    ),
    "correlation": (
        lambda: colorize(LUMA, CHROMA, MASK, weighting="correlation"),
        ValueError,
        "weighting must be 'levin' or 'gaussian', got 'correlation', whose negative weights",
    ),
    "tol": (
        lambda: colorize(LUMA, CHROMA, MASK, tol=0),
        ValueError,
        "tol must be a finite number > 0, got 0",
    ),
    "tol nan": (
        lambda: colorize(LUMA, CHROMA, MASK, tol=float("nan")),
        ValueError,
        "tol must be a finite number > 0, got nan",
    ),
    "max_iterations": (
        lambda: colorize(LUMA, CHROMA, MASK, max_iterations=0),
        ValueError,
        "max_iterations must be an integer >= 1, got 0",
    ),
    "colorize batch": (
        lambda: colorize(LUMA.expand(3, 1, 6, 7), CHROMA.expand(2, 2, 6, 7), MASK),
        ValueError,
        "must have batch dimensions that broadcast, got luma (3,), hints (2,), mask ()",
    ),
    "colorize device": (
        lambda: colorize(LUMA, CHROMA.to("meta"), MASK),
        ValueError,
        "must be on one device, got luma on cpu, hints on meta, mask on cpu",
    ),
    "scribbles": (
        lambda: scribbles_from_marked(LUMA, LUMA),
        ValueError,
        "gray must have 3 channel(s)",
    ),
    "scribbles size": (
        lambda: scribbles_from_marked(torch.rand(3, 6, 7), torch.rand(3, 6, 6)),
        ValueError,
        "marked must have the height and width of gray, (6, 7), got (6, 6)",
    ),
    "scribbles dtype": (
        lambda: scribbles_from_marked(torch.rand(3, 6, 7), INTEGERS.expand(3, 6, 7)),
        TypeError,
        "marked must be of dtype float16",
    ),
    "threshold": (
        lambda: scribbles_from_marked(torch.rand(3, 6, 7), torch.rand(3, 6, 7), threshold=-1),
        ValueError,
        "threshold must be a finite number >= 0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=re.escape(message)):
        call()


@pytest.mark.parametrize("convert", [rgb_to_yuv, yuv_to_rgb, rgb_to_yiq, yiq_to_rgb])
def test_colour_spaces_need_three_floating_channels(convert):
    with pytest.raises(ValueError, match=re.escape("image must have 3 channel(s)")):
        convert(CHROMA)
    with pytest.raises(TypeError, match="image must be of dtype float16"):
        convert(INTEGERS.expand(3, 6, 7))
