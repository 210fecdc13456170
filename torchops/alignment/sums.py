"""What one look at the images leaves of them, and how each objective weighs it.

Plain PyTorch and the kernels sum over the pixels each in its own way; what follows from the sums
is here.
"""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchops.alignment.steps import Problem
from torchops.alignment.system import solve_system
from torchops.alignment.template import Template

# Fewer visible pixels than this part of the template make a sample out of view: a sliver of a
# template fits almost anywhere.
VISIBLE_PART = 0.1

MAD = 1.4826  # a Gaussian's standard deviation in median absolute values
FALLING = 0.98  # a scale that falls below this part of the one before is still on its way


Fields = TypeVar("Fields", bound=tuple[Any, ...])


def each(function: Any, *tuples: Fields) -> Fields:
    """Apply a function to the tensors of (nested) named tuples."""
    first = tuples[0]
    return type(first)(
        *(
            each(function, *fields) if isinstance(fields[0], tuple) else function(*fields)
            for fields in zip(*tuples, strict=True)
        )
    )


class Sums(NamedTuple):
    """What one look at the images leaves of them, per sample (B,), all in float64.

    Attributes:
        matrix: H = sum w SD^T SD over the pixels that count, (B, P, P).
        vector: b, (B, P): H step = b is the next step.
        squares: Sum of squares of the residual (ecc: after the best gain and bias).
        freedom: How many pixel values count.
        error: Root mean square residual (ecc: after the best gain and bias), inf where too little
            of the template is seen.
        cost: What tells a better warp from a worse one: the error, or the robust standard
            deviation of the residual; inf as the error is.
        objective: What the step lowers, at the scale of these residuals.
        trial: The same at the scale of the sums before, so that the two can be compared.
        scale: The robust standard deviation; 0 where nothing is robust.
        far: Whether Tukey's function waits, and Huber's is used.
    """

    matrix: Tensor
    vector: Tensor
    squares: Tensor
    freedom: Tensor
    error: Tensor
    cost: Tensor
    objective: Tensor
    trial: Tensor
    scale: Tensor
    far: Tensor


def sum_of_squares(values: Tensor) -> Tensor:
    """Sum (B, C, h, w) squared over all but the batch: rows in its dtype, the rest in float64."""
    if torch.is_grad_enabled():
        rows = (values * values).sum(-1)
    else:  # in one pass over the memory; its second derivative is NaN where a row is 0
        rows = torch.linalg.vector_norm(values, dim=-1).square()
    return rows.sum((-2, -1), dtype=torch.float64)


def _unseen(number: Tensor, template: Template) -> Tensor:
    return number < (VISIBLE_PART * template.number).clamp(min=1)


def _root_mean_square(squares: Tensor, freedom: Tensor, unseen: Tensor) -> Tensor:
    mean = squares.detach() / freedom.clamp(min=1)
    return mean.sqrt().masked_fill(unseen, torch.inf)


def weigh_alike(
    template: Template, matrix: Tensor, vector: Tensor, squares: Tensor, number: Tensor
) -> Sums:
    """Return the sums of an objective that is the error itself."""
    freedom = number * template.values.shape[-3]
    error = _root_mean_square(squares, freedom, _unseen(number, template))
    scale, far = torch.zeros_like(error), torch.zeros_like(error, dtype=torch.bool)
    return Sums(matrix, vector, squares, freedom, error, error, error, error, scale, far)


# Robust: iteratively reweighted least squares


def _median(values: Tensor, counts: Tensor) -> Tensor:
    counted = torch.where(counts, values, torch.nan).flatten(1)
    return torch.nan_to_num(counted.nanmedian(1).values)


def robust_scale(template: Template, residual: Tensor, counts: Tensor) -> Tensor:
    """Return the standard deviation (B,) by the median of absolute residuals (B, C, h, w)."""
    floor = template.slack.clamp(min=torch.finfo(residual.dtype).tiny)
    return (MAD * _median(residual, counts).double()).maximum(floor)


def far_off(scale: Tensor, kind: str, begin: bool, before: Sums | None) -> Tensor:
    """Say which samples let Huber's function stand in for Tukey's; see objective.py."""
    if before is not None:
        return before.far & (scale.detach() < FALLING * before.scale)
    return torch.full_like(scale, begin and kind == "tukey", dtype=torch.bool)


def weigh_robustly(
    template: Template,
    matrix: Tensor,
    vector: Tensor,
    squares: Tensor,
    number: Tensor,
    loss: Tensor,
    trial: Tensor,
    scale: Tensor,
    far: Tensor,
) -> Sums:
    """Return the sums of a robust objective; ``loss`` and ``trial`` are sums over the pixels."""
    unseen, count = _unseen(number, template), number.clamp(min=1)
    cost, own, trial = (
        value.masked_fill(unseen, torch.inf) for value in (scale, loss / count, trial / count)
    )
    freedom = number * template.values.shape[-3]
    error = _root_mean_square(squares, freedom, unseen)
    return Sums(matrix, vector, squares, freedom, error, cost, own, trial, scale, far)


# Enhanced correlation coefficient


def rounding_power(mean: Tensor, number: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what rounding leaves of constant channels (B, C, K): their power (B, K)."""
    return (8 * torch.finfo(dtype).eps) ** 2 * number * mean.square().sum(1)


class Powers(NamedTuple):
    """Per sample: the powers of template and warped image about their means, and what is left."""

    template: Tensor
    warped: Tensor
    textured: Tensor  # whether both are more than rounding
    gain: Tensor  # fixed to moving
    unexplained: Tensor  # the power of moving - gain * fixed

    @property
    def contrast(self) -> Tensor:
        """How many times the template's power the warped image has, 1 without texture."""
        return torch.where(self.textured, self.warped, 1) / torch.where(
            self.textured, self.template, 1
        )


def weigh_by_gain(
    problem: Problem,
    matrix: Tensor,
    to_fixed: Tensor,
    to_rest: Tensor,
    powers: Powers,
    number: Tensor,
) -> Sums:
    """Return the sums for the step that maximises the correlation.

    ``to_fixed`` and ``to_rest`` are the sums of SD^T fixed and SD^T (moving - gain fixed).
    """
    textured, gain = powers.textured, powers.gain
    inverse = problem.method.algorithm == "inverse_compositional"
    power, other = powers.template, powers.warped
    if inverse:
        power, other = other, power
    power = torch.where(textured, power, 1)
    excess = _gain_excess(problem, matrix, to_fixed, to_rest, gain, power, powers.unexplained)
    vector = to_rest - excess[:, None] * to_fixed
    if inverse:
        vector = -vector

    # The residual in units of the template, for no negative gain.
    left = torch.where(gain > 0, powers.unexplained, other)
    left = left if inverse else left / powers.contrast
    left = torch.where(textured, left, powers.template)
    return weigh_alike(problem.template, matrix, vector, left, number)


def _gain_excess(
    problem: Problem,
    matrix: Tensor,
    to_fixed: Tensor,
    to_rest: Tensor,
    gain: Tensor,
    power: Tensor,
    unexplained: Tensor,
) -> Tensor:
    """Return lambda - gain, with which ``G^T (moving - lambda fixed)`` gives the best step.

    lambda = (|m|^2 - m^T P m) / (f^T m - f^T P m), P the projection on the columns of G, with
    m = gain f + rest put in, so that nothing cancels where the rest is small.
    """
    basis, template = problem.template.basis, problem.template
    eps = torch.finfo(template.values.dtype).eps
    floor = template.floor.expand(len(gain))
    solved_fixed, solved_rest = (
        solve_system(matrix, vector, basis.scale, floor, eps, fused=problem.fused)[0]
        for vector in (to_fixed, to_rest)
    )
    ff = (to_fixed * solved_fixed).sum(-1)
    fr = (to_fixed * solved_rest).sum(-1)
    rr = (to_rest * solved_rest).sum(-1)
    along = gain * (power - ff) - fr  # f^T m - f^T P m
    positive = along > 0
    regular = (unexplained - rr - gain * fr) / torch.where(positive, along, 1)
    # Where no step makes the correlation positive, the step that makes it least negative.
    some = ff > 0
    ff = torch.where(some, ff, 1)
    moving = (gain.square() * ff + 2 * gain * fr + rr).clamp(min=torch.finfo(ff.dtype).tiny)
    other = torch.maximum((moving / ff).sqrt(), -along / ff)
    return torch.where(positive, regular, torch.where(some, other - gain, 0))
