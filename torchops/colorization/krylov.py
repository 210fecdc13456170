"""Truncated GCR for a batch of images and planes, each with its own scalars."""

from collections.abc import Callable

import torch
from torch import Tensor

STALL = 0.03  # a step that takes less than this share off the residual is in vain
KEPT = 8  # directions that a new one is made orthogonal to


def gcr(
    apply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs: Tensor,
    start: Tensor,
    finished: Callable[[Tensor, Tensor], Tensor],
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solve apply(x) = rhs for (B, P, H, W), every plane by itself.

    The generalised conjugate residual method: among the directions made so far, the step that
    leaves the least residual.

    Args:
        apply: The matrix; it may couple pixels, not planes.
        precondition: An approximate inverse, not necessarily the same in every iteration.
        rhs: Right-hand sides.
        start: First guess.
        finished: Given x and its residual, which of the B items need no more iterations. A finished
            item stays as it is, whatever the others do.
        max_iterations: At most so many, with one product and one preconditioning each.

    Returns:
        The solution, and the iterations that each item took, (B,).
    """
    x, residual = start, rhs - apply(start)
    iterations = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    active = ~finished(x, residual)
    kept: list[tuple[Tensor, Tensor]] = []
    seed = residual
    for _ in range(max_iterations):
        if not bool(active.any()):
            break
        direction = precondition(seed)
        product = apply(direction)
        for old_direction, old_product in kept:
            overlap = dot(old_product, product)
            direction = direction - overlap * old_direction
            product = product - overlap * old_product
        inverse_norm = ratio(torch.ones_like(product[..., :1, :1]), dot(product, product).sqrt())
        direction, product = direction * inverse_norm, product * inverse_norm
        length = torch.where(active[:, None, None, None], dot(product, residual), 0)
        x = x + length * direction
        residual = residual - length * product
        kept = [*kept, (direction, product)][-KEPT:]
        iterations += active
        # Where a step was in vain the residual would only suggest the same direction again; the
        # last product, as in GMRES, suggests a new one.
        in_vain = length.abs() <= STALL * dot(residual, residual).sqrt()
        seed = torch.where(in_vain, product, residual)
        done = finished(x, residual)
        if bool((active & done).any()):
            residual = rhs - apply(x)  # not the updated one, which rounding has led astray
            done = finished(x, residual)
        active = active & ~done
    return x, iterations


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every plane, keeping the axes."""
    return (a * b).sum((-2, -1), keepdim=True)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Divide, and give 0 for division by 0: a plane that is solved already does not move."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)
