"""The derivative of a linear solve: one more solve, with the transposed matrix."""

from typing import Any

import torch
from torch import Tensor

from torchops.colorization.krylov import bicgstab
from torchops.colorization.system import System
from torchops.colorization.weights import neighbours

RELATIVE_ERROR = 1e-10
MAX_ITERATIONS = 20_000


class Implicit(torch.autograd.Function):
    """The solution x of A x = b, or of A^T x = b, as a function of the entries of A and b.

    With the adjoint y, A^T y = grad, the gradient to b is y and to the entry A_rs it is -y_r x_s.
    The adjoint is attached in the same way, which makes the derivatives of every order.
    """

    @staticmethod
    def forward(
        coupling: Tensor, pull: Tensor, rhs: Tensor, x: Tensor, system: System, transposed: bool
    ) -> Tensor:
        """Return the solution that was found."""
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivative needs."""
        coupling, pull, _, _, ctx.system, ctx.transposed = inputs
        ctx.save_for_backward(coupling, pull, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, in differentiable operations."""
        coupling, pull, x = ctx.saved_tensors
        system, transposed = ctx.system, not ctx.transposed
        with torch.no_grad():
            y = solve_adjoint(system, grad, transposed)
        y = Implicit.apply(coupling, pull, grad, y, system, transposed)
        left, right = (y, x) if transposed else (x, y)
        to_pull = -(left * right).sum(1, keepdim=True)
        if not ctx.needs_input_grad[0]:
            return None, to_pull, y, None, None, None
        planes = [
            -(left * (right - neighbour)).sum(1, keepdim=True)
            for neighbour in neighbours(right, system.radius)
        ]
        return torch.cat(planes, 1), to_pull, y, None, None, None


def solve_adjoint(system: System, rhs: Tensor, transposed: bool) -> Tensor:
    """Solve A^T y = rhs (or A y = rhs) to ``RELATIVE_ERROR``.

    The walk z of the forward solve bounds errors here too: with A z about 1, the error of y is at
    most sum z |residual| in the sum norm for A^T, max z max |residual| in the maximum norm for A.
    """
    walk = torch.where(system.walk.isfinite(), system.walk, 1)

    def finished(y: Tensor, residual: Tensor) -> Tensor:
        if transposed:
            error = (walk * residual.abs()).sum((-2, -1))
            size = (walk * rhs.abs()).sum((-2, -1))
        else:
            error = walk.amax((-2, -1)) * residual.abs().amax((-2, -1))
            size = y.abs().amax((-2, -1))
        return ((error <= RELATIVE_ERROR * size) | error.isnan()).all(1)

    apply = system.apply_transposed if transposed else system.apply
    return bicgstab(apply, rhs, torch.zeros_like(rhs), finished, MAX_ITERATIONS)[0]
