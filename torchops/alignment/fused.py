"""One look at the images by the kernels: what objective.py sums with plain PyTorch."""

import torch
from torch import Tensor

from torchops.alignment.steps import Problem
from torchops.alignment.sums import (
    Powers,
    Sums,
    far_off,
    robust_scale,
    rounding_power,
    sum_of_squares,
    weigh_alike,
    weigh_by_gain,
    weigh_robustly,
)


def evaluate_fused(problem: Problem, increment: Tensor, begin: bool, before: Sums | None) -> Sums:
    """Look through ``start @ increment`` and sum up; see objective.evaluate."""
    matrix = problem.start @ increment
    if problem.method.objective == "ecc":
        return _correlation_fused(problem, matrix)
    if problem.method.robust is not None:
        return _robust_fused(problem, matrix, begin, before)
    sums = _look_fused(problem, matrix, "ssd")
    number = sums[:, 0, -1]
    hessian, (vector,), squares = _unpack(problem, sums.sum(1), 1)
    return weigh_alike(problem.template, hessian, vector, squares[:, 0], number)


def _look_fused(
    problem: Problem,
    matrix: Tensor,
    objective: str,
    extra: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    template, method = problem.template, problem.method
    return torch.ops.torchops.alignment_sums(
        template.values,
        template.counts,
        template.gradient,
        problem.image,
        matrix,
        template.number,
        template.matrix,
        extra,
        residual,
        method.motion,
        method.algorithm,
        objective,
    )


def _unpack(
    problem: Problem, sums: Tensor, vectors: int
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Split sums (B, K) into H, some vectors (P) and the numbers that follow."""
    count = problem.template.basis.scale.numel()
    lengths = [count * count] + [count] * vectors
    hessian, *rest = sums.split([*lengths, sums.shape[-1] - sum(lengths)], -1)
    return hessian.unflatten(-1, (count, count)), tuple(rest[:-1]), rest[-1]


def _robust_fused(problem: Problem, matrix: Tensor, begin: bool, before: Sums | None) -> Sums:
    template, kind = problem.template, problem.method.robust
    assert kind is not None
    residual = torch.ops.torchops.alignment_residual(
        template.values, template.counts, problem.image, matrix
    )
    counts = ~residual[:, :1].isnan()
    scale = robust_scale(template, residual.abs(), counts)
    far = far_off(scale, kind, begin, before)
    last = (scale, far) if before is None else (before.scale, before.far)
    scales = torch.stack([scale, far.double(), last[0], last[1].double()], -1)
    sums = _look_fused(problem, matrix, kind, scales, residual)
    hessian, (vector,), _ = _unpack(problem, sums.sum(1), 1)
    loss, trial = sums[:, 0, -2:].unbind(-1)  # of a pixel, not of its channels
    squares = sum_of_squares(torch.where(counts, residual, 0))
    number = counts.sum((-3, -2, -1))
    return weigh_robustly(template, hessian, vector, squares, number, loss, trial, scale, far)


def _correlation_fused(problem: Problem, matrix: Tensor) -> Sums:
    template = problem.template
    inverse = problem.method.algorithm == "inverse_compositional"
    moments = torch.ops.torchops.alignment_moments(
        template.values, template.counts, problem.image, matrix
    )
    number = moments[:, 0, 0]
    count = number.clamp(min=1)[:, None]
    r, w, rr, ww, rw, base_r, base_w = moments.unbind(-1)[1:]
    power_r, power_w, common = (
        (product - one * other / count).sum(-1)
        for product, one, other in ((rr, r, r), (ww, w, w), (rw, r, w))
    )
    means = torch.stack([base_r + r / count, base_w + w / count], -1)
    least = rounding_power(means, number[:, None], template.values.dtype)
    textured = (power_r > least[:, 0]) & (power_w > least[:, 1])
    power = torch.where(textured, power_w if inverse else power_r, 1)
    gain = torch.where(textured, common, 0) / power
    # By rounding, less than nothing may be left of a constant.
    powers = Powers(power_r.clamp(min=0), power_w.clamp(min=0), textured, gain, gain)
    of_sample = torch.stack([powers.contrast.sqrt(), gain], -1)[:, None].expand(-1, r.shape[1], -1)
    sums = _look_fused(problem, matrix, "ecc", torch.cat([means, of_sample], -1))
    hessian, (to_fixed, to_rest, _), unexplained = _unpack(problem, sums.sum(1), 3)
    _, (_, _, gradients), _ = _unpack(problem, sums.flatten(0, 1), 3)
    gradients = gradients.unflatten(0, sums.shape[:2])
    hessian = hessian - gradients.mT @ gradients / count[..., None]
    hessian = torch.where(textured[:, None, None], hessian, 0)
    powers = powers._replace(unexplained=unexplained[:, 0])
    return weigh_by_gain(problem, hessian, to_fixed, to_rest, powers, number)
