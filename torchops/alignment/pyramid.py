"""Coarse to fine: find the large motions on small images first.

A pixel of level l covers 2 x 2 of level l - 1, also at the end of an odd side: one factor for both
axes, without which a rotation would not stay one. Masked pixels are NaN and leave the blur, so a
hole stays a hole of its size.
"""

import torch
from torch import Tensor

from torchops._common.smoothing import gaussian_blur
from torchops.alignment.iteration import AlignmentStatus, iterate
from torchops.alignment.objective import evaluate
from torchops.alignment.steps import Problem, adjugate, scaled_to_one
from torchops.alignment.template import (
    Template,
    finite_pixels,
    prepare_image,
    prepare_template,
    surely_all,
)

SMALLEST_SIDE = 24


def default_levels(height: int, width: int) -> int:
    """Return as many levels as leave the shorter side of the template at least 24 pixels."""
    levels = 1
    while min(height, width) >= SMALLEST_SIDE * 2**levels:
        levels += 1
    return levels


def _mean_of_pairs(values: Tensor, dim: int) -> Tensor:
    if values.shape[dim] % 2:
        values = torch.cat([values, values.narrow(dim, values.shape[dim] - 1, 1)], dim)
    return values.unflatten(dim, (-1, 2)).mean(dim)


def _halve(values: Tensor) -> Tensor:
    counts = finite_pixels(values)

    def smaller(values: Tensor) -> Tensor:
        return _mean_of_pairs(_mean_of_pairs(gaussian_blur(values, 1.0), -1), -2)

    weight = smaller(counts.to(values.dtype))
    total = smaller(torch.where(counts, values, 0))
    seen = weight > 0.5
    return torch.where(seen, total / torch.where(seen, weight, 1), torch.nan)


def smaller(values: Tensor, mask: Tensor | None, levels: int) -> list[Tensor]:
    """Return levels 1 to ``levels - 1`` of images (B, C, H, W), NaN where nothing counts."""
    if mask is not None:
        values = torch.where(mask, values, torch.nan)
    pyramid = [values]
    for _ in range(levels - 1):
        pyramid.append(_halve(pyramid[-1]))
    return pyramid[1:]


def smaller_templates(
    values: Tensor, mask: Tensor | None, motion: str, levels: int
) -> list[Template]:
    """Return the terms of a template at levels 1 to ``levels - 1``, and those of a translation.

    At the coarsest level a translation goes first: with few pixels and a start far off, the other
    parameters explain the shift by a distortion.
    """
    pyramid = smaller(values, mask, levels)
    templates = [prepare_template(level, None, motion) for level in pyramid]
    if levels > 1:
        templates.append(prepare_template(pyramid[-1], None, "translation"))
    return templates


def _rescale(matrix: Tensor, scale: float) -> Tensor:
    """Make a warp act on template and image both ``scale`` times as large."""
    # x' = (x + 0.5) * scale - 0.5 on either side
    shift = (scale - 1) / 2
    a, b, c = matrix.unbind(-1)
    a, b = a / scale, b / scale
    u, v, w = torch.stack([a, b, c - (a + b) * shift], -1).unbind(-2)
    return torch.stack([u * scale + w * shift, v * scale + w * shift, w], -2)


def coarse_increment(
    problem: Problem, templates: list[Template], images: list[Tensor], iterations: int, tol: float
) -> Tensor:
    """Align from the coarsest level to level 1, from the start of ``problem``, level 0.

    A level's result is dropped where it raises the error of the next finer level.

    Returns:
        (B, 3, 3) acting on template pixels, to go after the start; the identity where no level
        helped.
    """
    start = problem.template.grid.to_pixels(problem.start)
    best = start
    slopes = problem.method.algorithm == "forward_additive"
    images = [prepare_image(i, None, gradients=slopes) for i in [*images, images[-1]]]
    methods = [problem.method] * (len(images) - 1)
    methods.append(problem.method._replace(motion="translation"))
    levels = [problem] + [
        Problem(t, i, problem.start, m, surely_all(t.counts), surely_all(~i.isnan()), problem.fused)
        for t, i, m in zip(templates, images, methods, strict=True)
    ]

    scales = [0.5**k for k in range(len(levels) - 1)]
    scales.append(scales[-1])  # the coarsest is gone through twice

    def at(k: int, matrix: Tensor) -> Problem:
        level = levels[k]
        return level._replace(start=level.template.grid.from_pixels(_rescale(matrix, scales[k])))

    identity = torch.eye(3, dtype=torch.float64, device=start.device).expand_as(start)
    for k in range(len(levels) - 1, 0, -1):
        coarse = at(k, best)
        state = iterate(coarse, iterations, tol)
        moved = coarse.template.grid.to_pixels(coarse.start @ state.best)
        moved = scaled_to_one(_rescale(moved, 1 / scales[k]))
        before, after = (evaluate(at(k - 1, matrix), identity).cost for matrix in (best, moved))
        lower = (state.status <= int(AlignmentStatus.ITERATION_LIMIT)) & (after < before)
        best = torch.where(lower[:, None, None], moved, best)
    inverse = adjugate(start)
    determinant = (inverse[:, 2] * start[:, :, 2]).sum(-1)
    moved = (best != start).flatten(-2).any(-1) & (determinant.abs() > 1e-9)
    return torch.where(moved[:, None, None], scaled_to_one(inverse @ best), identity)
