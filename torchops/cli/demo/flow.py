"""Optical flow: where did every pixel go, and how sure is that?"""

import itertools

import torch
from torch import Tensor

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Note, Picture, Section, Table, Text, code
from torchops.cli.demo.drawing import flow_colours, flow_key, heat, smooth_flow
from torchops.cli.demo.sheet import Sheet

_NOISE = 2 / 255
_WORST = 1.0  # px: the endpoint error that is drawn brightest
_BINS = (0.0, 0.1, 0.5, 0.9, 1.0)


def _pair(photograph: Tensor, true_flow: Tensor) -> tuple[Tensor, Tensor]:
    moving = photograph
    reference = torchops.warp_by_flow(moving, true_flow, mode="bicubic")  # moving(x + flow(x))
    return reference, moving


def _estimate(reference: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    flow, confidence, _ = torchops.lucas_kanade(reference, moving)
    return flow, confidence


def section(sheet: Sheet) -> Section:
    """Estimate a known motion and compare."""
    side = sheet.scaled(384, 64)
    true = smooth_flow(side, side, side / 64).to(sheet.device)
    reference, moving = _pair(sheet.photograph("camera", (side, side)), true)
    noise = torch.randn(2, *moving.shape, generator=sheet.generator()).to(sheet.device)
    reference, moving = reference + _NOISE * noise[0], moving + _NOISE * noise[1]
    (flow, confidence), seconds = sheet.timed(lambda: _estimate(reference, moving), repeats=1)
    error = (flow - true).square().sum(-3, keepdim=True).sqrt()
    mean_error = float(torchops.endpoint_error(flow, true))
    sure = confidence > 0.9
    sure_error = float(torchops.endpoint_error(flow, true, mask=sure))
    largest = float(true.square().sum(0).sqrt().max())
    pictures = [
        sheet.picture(
            reference, "1-reference", "**frame 1**, `reference`", alt="first of the two frames"
        ),
        sheet.picture(moving, "2-moving", "**frame 2**, `moving`", alt="second frame"),
        sheet.picture(
            flow_colours(true, largest),
            "3-true",
            "**the true motion**",
            detail=f"largest {largest:.2f} px",
            alt="true flow, colour-coded",
        ),
        sheet.picture(
            flow_colours(flow, largest),
            "4-estimated",
            "**the estimated motion**",
            detail=f"mean endpoint error {mean_error:.3f} px",
            alt="estimated flow, colour-coded",
        ),
        sheet.picture(
            confidence,
            "5-confidence",
            "**confidence**: white is sure, black is not",
            detail=f"above 0.9 on {float(sure.float().mean()):.1%} of the pixels",
            alt="confidence map: bright on texture, dark on the even sky",
        ),
        sheet.picture(
            heat(error / _WORST),
            "6-error",
            f"**endpoint error**: black 0, bright {_WORST:g} px or more",
            detail=f"where confidence > 0.9: mean {sure_error:.3f} px",
            alt="map of the endpoint error: large where confidence is low",
        ),
    ]
    key = sheet.picture(
        flow_key(160),
        "key",
        "**Key.** The colour at a point of the disc means motion from its centre to that point; "
        f"the rim is {largest:.2f} px.",
        alt="colour wheel: hue is direction, saturation is speed",
    )
    return Section(
        "flow",
        "Optical flow",
        ["lucas_kanade", "warp_by_flow", "endpoint_error"],
        f"mean endpoint error {mean_error:.3f} px on a known motion of up to {largest:.1f} px; "
        f"{sure_error:.3f} px where the confidence is above 0.9",
        _blocks(
            side, seconds, pictures, key, _calibration(confidence, error), _sky(confidence, error)
        ),
    )


def _sky(confidence: Tensor, error: Tensor) -> str:
    """Compare the even sky with the rest of the picture."""
    rows = confidence.shape[-2] // 8
    values = [
        float(part.mean())
        for values in (confidence, error)
        for part in values.split([rows, values.shape[-2] - rows], dim=-2)
    ]
    return (
        f"the mean confidence is {values[0]:.2f} (elsewhere {values[1]:.2f}) and the mean "
        f"endpoint error {values[2]:.2f} px (elsewhere {values[3]:.2f} px)"
    )


def _calibration(confidence: Tensor, error: Tensor) -> Table:
    rows = []
    for low, high in itertools.pairwise(_BINS):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        if not inside.any():
            continue
        errors = error[inside]
        rows.append(
            [
                f"{low:.1f} to {high:.1f}",
                f"{float(inside.float().mean()):.1%}",
                f"{float(confidence[inside].mean()):.1%}",
                f"{float((errors < 0.5).float().mean()):.1%}",
                f"{float(errors.mean()):.3f} px",
            ]
        )
    return Table(
        "Is the confidence true? It is the estimated probability of an error below 0.5 px, so the "
        "third and the fourth column should agree.",
        ["confidence", "pixels", "mean confidence", "really below 0.5 px", "mean endpoint error"],
        rows,
    )


def _blocks(
    side: int, seconds: float, pictures: list[Picture], key: Picture, calibration: Table, sky: str
) -> list[Block]:
    return [
        Text(
            "Between two frames every pixel moves a little. Lucas and Kanade (1981) find the "
            "motion of a small window by least squares on the brightness differences; a pyramid "
            "of coarser images catches large motions first. Convention: `moving(x + flow(x)) = "
            "reference(x)`, x to the right and y down, in pixels."
        ),
        Note(
            "The two frames are not a film: frame 2 is the photograph camera.png (CC0), frame 1 is "
            "the same photograph warped by a known smooth motion, and each has its own noise "
            f"(standard deviation {255 * _NOISE:.0f} grey levels of 255). That is why the true "
            "motion is known at every pixel."
        ),
        code(_pair),
        code(_estimate),
        Gallery(pictures, width=290),
        Gallery([key], width=160),
        Text(
            f"{side} x {side} px in {seconds:.2f} s. Where the photograph has no texture, the "
            f"motion cannot be seen: in the sky, the top eighth of the picture, {sky}."
        ),
        calibration,
    ]
