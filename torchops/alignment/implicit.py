"""Gradients of the solution by the implicit function theorem.

At the end of an iteration the equation r(D; template, image, start) = sum SD^T (warped - template)
= 0 holds, with the steepest-descent images SD of the algorithm at hand: the fixed points of the
algorithms differ unless the residual is zero, and so do their derivatives. With A = dr / ddelta
for the warp D delta, exact for the piecewise bilinear image, the solution moves by
ddelta = -A^-1 dr. One P x P solve and one pass backwards
through one evaluation of r replace the graph of all iterations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from torchops.alignment.motion import build_matrix
from torchops.alignment.objective import evaluate
from torchops.alignment.steps import Problem, scaled_to_one


class _NoSecondOrder(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> Tensor:
        raise RuntimeError(
            "gradient must be 'unroll' for second derivatives, got 'implicit', whose gradient is "
            "of first order"
        )


class FirstOrder(Function):
    """The identity, for inputs whose gradient is right but must not be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Pass the gradient through a node that raises when differentiated."""
        return _NoSecondOrder.apply(gradient)


def batch_jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Differentiate (B, P) -> (B, P), sample by sample, into (B, P, P): one pass per row."""
    pull_back = torch.func.vjp(function, point)[1]
    rows = torch.eye(point.shape[-1], dtype=point.dtype, device=point.device)
    return torch.stack([pull_back(row.expand_as(point))[0] for row in rows], -2)


def attach(problem: Problem, constant: Problem, increment: Tensor, found: Tensor) -> Tensor:
    """Return ``increment`` (B, 3, 3) with the gradient of the solution to the inputs.

    Args:
        problem: The batch, made of the arguments that gradients go to, not fused.
        constant: The same, detached.
        increment: The solution, detached.
        found: Samples that have one; the others get zero gradient.
    """
    scale = problem.template.basis.scale

    def moved_equation(delta: Tensor) -> Tensor:
        moved = increment @ build_matrix(delta, constant.method.motion)
        return evaluate(constant._replace(fused=False), moved).vector

    zero = increment.new_zeros(increment.shape[0], scale.numel())
    matrix = batch_jacobian(moved_equation, zero) / (scale[:, None] * scale)
    size = matrix.abs().amax((-2, -1))
    found = found & (size > 0) & torch.isfinite(size)
    size = torch.where(found, size, 1)[:, None, None]
    identity = torch.eye(scale.numel(), dtype=torch.float64, device=scale.device)
    matrix = torch.where(found[:, None, None], matrix / size, identity)
    inverse, info = torch.linalg.inv_ex(matrix)
    eps = torch.finfo(problem.template.values.dtype).eps
    found = found & (info == 0) & (inverse.abs().amax((-2, -1)) < 1 / (32 * eps))
    inverse = torch.where(found[:, None, None], inverse, 0) / size / (scale[:, None] * scale)

    equation = evaluate(problem, increment).vector
    change = equation - equation.detach()
    delta = -(inverse @ change[..., None])[..., 0]
    return scaled_to_one(increment @ build_matrix(delta, problem.method.motion))
