"""BiCGStab for a batch of images and planes, each with its own scalars."""

from collections.abc import Callable

import torch
from torch import Tensor

CHECK_EVERY = 8


def bicgstab(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    start: Tensor,
    finished: Callable[[Tensor, Tensor], Tensor],
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solve apply(x) = rhs for (B, P, H, W), every plane by itself.

    Args:
        apply: The matrix; it may couple pixels, not planes.
        rhs: Right-hand sides.
        start: First guess.
        finished: Given x and its true residual, which of the B items need no more iterations. Read
            every ``CHECK_EVERY`` iterations; a finished item stays as it is.
        max_iterations: At most so many, two products each.

    Returns:
        The solution, and the iterations that each item took, (B,).
    """
    x, residual = start, rhs - apply(start)
    iterations = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    active = ~finished(x, residual)
    shadow, direction, product = residual, torch.zeros_like(x), torch.zeros_like(x)
    rho = alpha = omega = torch.ones_like(dot(x, x))
    while bool(active.any()):
        for _ in range(min(CHECK_EVERY, max_iterations - int(iterations.max()))):
            rho, rho_before = dot(shadow, residual), rho
            beta = ratio(rho * alpha, rho_before * omega)
            direction = residual + beta * (direction - omega * product)
            product = apply(direction)
            alpha = ratio(rho, dot(shadow, product))
            half = residual - alpha * product
            second = apply(half)
            omega = ratio(dot(second, half), dot(second, second))
            step = alpha * direction + omega * half
            x = torch.where(active[:, None, None, None], x + step, x)
            residual = half - omega * second
            iterations += active
        active = active & ~finished(x, rhs - apply(x)) & (iterations < max_iterations)
    return x, iterations


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every plane, keeping the axes."""
    return (a * b).sum((-2, -1), keepdim=True)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Divide, and give 0 for 0 / 0: a plane that is solved already does not move."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)
