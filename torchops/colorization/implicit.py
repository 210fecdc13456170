"""The derivative of a linear solve: one more solve, with the transposed matrix."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchops.colorization.krylov import gcr
from torchops.colorization.multigrid import Multigrid
from torchops.colorization.system import System
from torchops.colorization.weights import neighbours

RELATIVE_ERROR = 1e-10
MAX_ITERATIONS = 200


class Adjoint(NamedTuple):
    """What solves with the transposed matrix: the system, its multigrid cycle and the walk z."""

    system: System
    cycle: Multigrid
    walk: Tensor

    def solve(self, rhs: Tensor, transposed: bool) -> Tensor:
        """Solve A^T y = rhs (or A y = rhs) to ``RELATIVE_ERROR``.

        The walk z of the forward solve bounds errors here too: with A z about 1, the error of y is
        at most sum z |residual| in the sum norm for A^T, and max z max |residual| for A.
        """
        walk = torch.where(self.walk.isfinite(), self.walk, 1)

        def finished(y: Tensor, residual: Tensor) -> Tensor:
            if transposed:
                error = (walk * residual.abs()).sum((-2, -1))
                size = (walk * rhs.abs()).sum((-2, -1))
            else:
                error = walk.amax((-2, -1)) * residual.abs().amax((-2, -1))
                size = y.abs().amax((-2, -1))
            return ((error <= RELATIVE_ERROR * size) | error.isnan()).all(1)

        def cycle(residual: Tensor) -> Tensor:
            return self.cycle(residual, transposed)

        # The rows of fixed pixels read x = rhs. So A has them solved from the start, and A^T, whose
        # columns they are, solves for the others first and then reads them off.
        fixed = self.system.fixed
        if not transposed:
            start = torch.where(fixed, rhs, 0)
            return gcr(self.system.apply, cycle, rhs, start, finished, MAX_ITERATIONS)[0]

        def apply(y: Tensor) -> Tensor:
            return torch.where(fixed, 0, self.system.apply_transposed(y))

        free = torch.where(fixed, 0, rhs)
        y, _ = gcr(apply, cycle, free, torch.zeros_like(rhs), finished, MAX_ITERATIONS)
        return torch.where(fixed, rhs - self.system.apply_transposed(y), y)


class Implicit(torch.autograd.Function):
    """The solution x of A x = b, or of A^T x = b, as a function of the entries of A and b.

    With the adjoint y, A^T y = grad, the gradient to b is y and to the entry A_rs it is -y_r x_s.
    The adjoint is attached in the same way, which makes the derivatives of every order.
    """

    @staticmethod
    def forward(
        coupling: Tensor, pull: Tensor, rhs: Tensor, x: Tensor, adjoint: Adjoint, transposed: bool
    ) -> Tensor:
        """Return the solution that was found."""
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivative needs."""
        coupling, pull, _, _, ctx.adjoint, ctx.transposed = inputs
        ctx.save_for_backward(coupling, pull, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, in differentiable operations."""
        coupling, pull, x = ctx.saved_tensors
        adjoint, transposed = ctx.adjoint, not ctx.transposed
        with torch.no_grad():
            y = adjoint.solve(grad, transposed)
        y = Implicit.apply(coupling, pull, grad, y, adjoint, transposed)
        left, right = (y, x) if transposed else (x, y)
        to_pull = -(left * right).sum(1, keepdim=True)
        if not ctx.needs_input_grad[0]:
            return None, to_pull, y, None, None, None
        planes = [
            -(left * (right - neighbour)).sum(1, keepdim=True)
            for neighbour in neighbours(right, adjoint.system.radius)
        ]
        return torch.cat(planes, 1), to_pull, y, None, None, None
