"""The normal equations of Gauss-Newton on a motion group, as sums over the template's pixels.

At the identity the groups move the point (x, y) by J(x, y) p, where every entry of J is a monomial
in x and y. So b = sum J^T q and H = sum J^T G J, for the vectors q = gradient * residual and the
structure tensors G of the pixels, are combinations of the moments sum x^a y^b q (a, b <= 2) and
sum x^a y^b G (a, b <= 4). Moments are separable: two small float64 products a sample and no image
per parameter.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment import ops as _ops  # noqa: F401  registers them

CACHED_VALUES = 1 << 18

# (factor, exponent of x, exponent of y)
_ZERO, _ONE, _X, _Y = (0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1)
_MINUS_Y, _MINUS_XX, _MINUS_XY, _MINUS_YY = (-1, 0, 1), (-1, 2, 0), (-1, 1, 1), (-1, 0, 2)

# The columns of J at the identity, each as (how x moves, how y moves).
_TRANSLATION = [(_ONE, _ZERO), (_ZERO, _ONE)]
_AFFINE = [(_X, _ZERO), (_ZERO, _X), (_Y, _ZERO), (_ZERO, _Y), *_TRANSLATION]
_COLUMNS = {
    "translation": _TRANSLATION,
    "euclidean": [(_MINUS_Y, _X), *_TRANSLATION],
    "similarity": [(_X, _Y), (_MINUS_Y, _X), *_TRANSLATION],
    "affine": _AFFINE,
    "homography": [*_AFFINE, (_MINUS_XX, _MINUS_XY), (_MINUS_XY, _MINUS_YY)],
}


class Basis(NamedTuple):
    """Powers of the template's normalised coordinates, and how moments make H and b."""

    x_powers: Tensor  # (w, 5)
    y_powers: Tensor  # (h, 5)
    to_vector: Tensor  # (2 * 9, P)
    to_matrix: Tensor  # (3 * 25, P * P)
    scale: Tensor  # (P,): how far a unit of each parameter moves the pixels, root mean square


def _constant(
    entries: Mapping[tuple[int, int], int], shape: tuple[int, int], like: Tensor
) -> Tensor:
    # Filled where it lives: a copy from the host would wait for the device.
    result = torch.zeros(shape, dtype=torch.float64, device=like.device)
    for index, value in entries.items():
        result[index] = value
    return result


def motion_basis(motion: str, x: Tensor, y: Tensor) -> Basis:
    """Prepare the sums of a motion for normalised columns ``x`` (w,) and rows ``y`` (h,)."""
    columns = _COLUMNS[motion]
    count = len(columns)
    vector: dict[tuple[int, int], int] = {}
    matrix: dict[tuple[int, int], int] = {}
    for i, column in enumerate(columns):
        for axis, (factor, a, b) in enumerate(column):
            if factor:
                vector[9 * axis + 3 * b + a, i] = factor
        for j, other in enumerate(columns):
            for axis, (factor, a, b) in enumerate(column):
                for other_axis, (other_factor, other_a, other_b) in enumerate(other):
                    moment = 25 * (axis + other_axis) + 5 * (b + other_b) + a + other_a
                    entry = moment, count * i + j
                    if factor and other_factor:
                        matrix[entry] = matrix.get(entry, 0) + factor * other_factor
    exponents = torch.arange(5, device=x.device)
    x_powers, y_powers = x[:, None] ** exponents, y[:, None] ** exponents
    to_matrix = _constant(matrix, (75, count * count), x)
    # With the identity as structure tensor of every pixel, H holds the mean squared motions.
    mean = y_powers.mean(0)[:, None] * x_powers.mean(0)
    tensors = torch.stack([mean, torch.zeros_like(mean), mean]).flatten()
    squares = (tensors @ to_matrix).reshape(count, count).diagonal()
    return Basis(
        x_powers,
        y_powers,
        _constant(vector, (18, count), x),
        to_matrix,
        torch.where(squares > 0, squares, 1).sqrt(),
    )


def structure_products(gradient: Tensor) -> Tensor:
    """Return gx gx, gx gy and gy gy summed over channels: (B, 2, C, h, w) to (B, 3, h, w)."""
    gx, gy = gradient.unbind(1)
    return channel_sum(torch.stack([gx * gx, gx * gy, gy * gy], 1))


def gauss_newton_matrix(products: Tensor, basis: Basis) -> Tensor:
    """Sum J^T G J over the pixels, in float64: (B, 3, h, w) to (B, P, P)."""
    if products.device.type == "cpu":  # a few samples at a time, whose copies stay in the cache
        parts = products.split(max(1, CACHED_VALUES // products.shape[1:].numel()))
    else:
        parts = (products,)
    rows = torch.cat([basis.y_powers.mT @ part.double() for part in parts])
    count = basis.scale.numel()
    moments = (rows @ basis.x_powers).flatten(-3)
    return (moments @ basis.to_matrix).unflatten(-1, (count, count))


def motion_vector(fields: Tensor, basis: Basis) -> Tensor:
    """Sum J^T field over the pixels: vector fields (B, *, 2, h, w) to (B, *, P) in float64.

    A column is summed up in the precision of the fields.
    """
    rows = basis.y_powers[:, :3].mT.to(fields.dtype) @ fields
    return (rows.double() @ basis.x_powers[:, :3]).flatten(-3) @ basis.to_vector


def steepest_descent_vector(gradient: Tensor, residual: Tensor, basis: Basis) -> Tensor:
    """Sum J^T gradient * residual: (B, 2, C, h, w) and (B, C, h, w) to (B, P)."""
    return motion_vector(channel_sum(gradient * residual.unsqueeze(1)), basis)


def channel_sum(values: Tensor) -> Tensor:
    """Sum (B, K, C, h, w) over the channels."""
    return values.squeeze(-3) if values.shape[-3] == 1 else values.sum(-3)


def solve_system(
    matrix: Tensor,
    vector: Tensor,
    scale: Tensor,
    floor: Tensor,
    eps: float,
    *,
    damping: Tensor | None = None,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """Solve (H + damping diag H) step = b by Cholesky in float64; for a singular H the step is 0.

    H is singular if the image leaves a direction of motion undetermined: if, in units of pixels
    moved (``scale``), its largest diagonal entry is not above ``floor``, or a pivot is not above
    32 ``eps`` of that entry. ``fused`` solves by the kernel.

    Returns:
        The step (B, P), and which samples are singular (B,).
    """
    if fused:
        return torch.ops.torchops.alignment_solve(matrix, vector, damping, scale, floor, eps)
    if damping is not None:
        diagonal = torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
        matrix = matrix + damping[:, None, None] * diagonal
    scaled = matrix / (scale[:, None] * scale)
    largest = scaled.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    finite = scaled.detach().abs().amax((-2, -1)) < torch.inf  # a NaN is not
    singular = ~((largest > floor) & finite)
    largest = largest.masked_fill(singular, 1)[:, None]
    scaled = scaled / largest[..., None]
    factor, info = torch.linalg.cholesky_ex(scaled.detach())
    least = factor.diagonal(dim1=-2, dim2=-1).amin(-1)
    singular = singular | (info != 0) | ~(least > (32 * eps) ** 0.5)
    bad = singular[:, None]
    if torch.is_grad_enabled():
        # Made safe in front of the factorisation, so that no gradient meets a bad factor.
        identity = torch.eye(scale.numel(), dtype=torch.float64, device=scale.device)
        factor, _ = torch.linalg.cholesky_ex(torch.where(bad[..., None], identity, scaled))
        vector = vector.masked_fill(bad, 0)
    step = torch.cholesky_solve((vector / (largest * scale))[..., None], factor)[..., 0] / scale
    return step.masked_fill(bad, 0), singular
