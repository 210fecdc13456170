"""The averaging window: a separable Gaussian that does not reach across edges of a guide image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

EDGE = (
    0.2  # guide units (a guide's standard deviation is 0.2): a step of this size weakens by e^-1/2
)
TRUNCATE = 2.0  # window radius in sigmas; 2.5 changes no error figure


class AxisWeights(NamedTuple):
    """Weights between the pixels of each line along one axis.

    Weights are symmetric, so ``pairs[d - 1]`` holds the weight of every pair (x, x + d) once. It
    has d zeros on either side: read from index d on, it is the weight that x gives to x + d, and
    read from index 0 on, the weight that x gives to x - d, zero where that neighbour is outside.
    """

    dim: int
    pairs: list[Tensor]
    total: Tensor

    def average(self, maps: Tensor) -> Tensor:
        """Average ``maps`` (B, K, H, W) along the axis; weights sum to 1 at every pixel."""
        dim, size, radius = self.dim, maps.shape[self.dim], len(self.pairs)
        padded = _pad(maps, dim, radius)
        result = maps
        for d, pair in enumerate(self.pairs, start=1):
            after, before = (
                padded.narrow(dim, radius + d, size),
                padded.narrow(dim, radius - d, size),
            )
            result = torch.addcmul(result, after, pair.narrow(dim, d, size))
            result = torch.addcmul(result, before, pair.narrow(dim, 0, size))
        return result / self.total


class Window(NamedTuple):
    """The two-dimensional window, made of its weights along rows and along columns."""

    rows: AxisWeights
    columns: AxisWeights

    def average(self, maps: Tensor) -> Tensor:
        """Return the weighted mean of ``maps`` (B, K, H, W) around every pixel.

        An edge-aware window depends on which axis comes first. The mean of both orders makes the
        result the same for transposed images.
        """
        return 0.5 * (
            self.columns.average(self.rows.average(maps))
            + self.rows.average(self.columns.average(maps))
        )


def edge_aware_window(guide: Tensor, sigma: float) -> Window:
    """Make the window of every pixel of ``guide`` (B, C, H, W).

    Along a row, k(x, x') = exp(-(x - x')^2 / 2 sigma^2 - c(x, x')^2 / 2 EDGE^2), where c is the sum
    of the absolute differences met on the way from x to x' (a geodesic distance: the window cannot
    jump over an edge to a like-coloured object behind it). The same along columns.
    """
    return Window(_axis_weights(guide, sigma, -1), _axis_weights(guide, sigma, -2))


def _axis_weights(guide: Tensor, sigma: float, dim: int) -> AxisWeights:
    size = guide.shape[dim]
    radius = min(math.ceil(TRUNCATE * sigma), size - 1)
    step = guide.diff(dim=dim).abs().mean(-3, keepdim=True)
    distance = torch.zeros_like(guide[..., :1, :, :])
    pairs = []
    total = torch.ones_like(distance)
    for d in range(1, radius + 1):
        distance = distance.narrow(dim, 0, size - d) + step.narrow(dim, d - 1, size - d)
        weight = torch.exp(distance.square() / (-2 * EDGE**2) - d**2 / (2 * sigma**2))
        pair = _pad(weight, dim, d)
        total = total + pair.narrow(dim, d, size) + pair.narrow(dim, 0, size)
        pairs.append(pair)
    return AxisWeights(dim, pairs, total)


def _pad(maps: Tensor, dim: int, amount: int) -> Tensor:
    return pad(maps, [amount, amount] if dim == -1 else [0, 0, amount, amount])
