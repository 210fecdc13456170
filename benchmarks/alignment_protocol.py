"""Baker and Matthews' experiment: templates whose corners were moved by noise, on a photograph.

The corners of a rectangle of the image move by N(0, sigma^2) in x and y; the template is cut out
through the warp that takes the rectangle's corners there; the start is the unmoved rectangle, half
a pixel off so that the first warp interpolates too. Converged: corners within 1 px, root mean
square.
"""

import torch
from torch import Tensor

from torchops import warp_image, warp_points

SIDE = 100


def corners(side: int = SIDE) -> Tensor:
    """The corners' pixel centres (4, 2)."""
    last = side - 1.0
    return torch.tensor([[0, 0], [last, 0], [0, last], [last, last]], dtype=torch.float64)


def through_points(source: Tensor, target: Tensor, motion: str) -> Tensor:
    """The homography through four points, or the affine map through the first three."""
    x, y = source.expand_as(target).unbind(-1)
    u, v = target.unbind(-1)
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], -1)
    if motion == "affine":
        rows_u, rows_v, u, v = rows_u[..., :3, :6], rows_v[..., :3, :6], u[..., :3], v[..., :3]
    solution = torch.linalg.solve(torch.cat([rows_u, rows_v], -2), torch.cat([u, v], -1))
    last = torch.zeros(*solution.shape[:-1], 9 - solution.shape[-1], dtype=solution.dtype)
    last[..., -1] = 1
    return torch.cat([solution, last], -1).unflatten(-1, (3, 3))


def translation(x: float, y: float) -> Tensor:
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


def trials(
    image: Tensor,
    sigma: float,
    count: int = 100,
    *,
    motion: str = "homography",
    seed: int = 0,
    at: tuple[int, int] = (206, 206),
    side: int = SIDE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Templates (count, C, side, side), their true warps, and the common start."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 4, 2, generator=generator, dtype=torch.float64)
    place = corners(side) + torch.tensor(at, dtype=torch.float64)
    true = through_points(corners(side), place + sigma * noise, motion)
    return warp_image(image, true, (side, side)), true, translation(at[0] + 0.5, at[1] + 0.5)


def corner_error(matrix: Tensor, true: Tensor, side: int = SIDE) -> Tensor:
    """Root mean square distance of the warped corners, in pixels."""
    found, goal = (warp_points(corners(side), m.double().cpu()) for m in (matrix, true))
    return (found - goal).square().sum(-1).mean(-1).sqrt()
