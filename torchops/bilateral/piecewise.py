"""The bilateral filter as a few linear ones (Durand and Dorsey 2002).

For one fixed intensity i the range weight of a neighbour depends on the neighbour alone, so that

    J_i = blur(range weight to i * image) / blur(range weight to i)

costs two Gaussian blurs, which are taken on coarse cells. The bilateral filter at a pixel of
intensity i is J_i there; it is taken from the two nearest of a number of levels, linearly.

The levels are spaced evenly between the least and the greatest guide value, which stay tensors:
nothing is read from the device, and the op can be compiled, exported and mapped.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import countable, normalised
from torchops.bilateral.lattice import LEVELS, Lattice, intensity_levels, level_below

NARROWEST = 0.5  # sigma_range, in levels: narrower ones would leave gaps between the levels


def piecewise_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    values, counts, clean, finite = countable(batch.image, batch.guide, batch.mask)
    lattice = Lattice(values, radii, border)
    height, scale = intensity_levels(clean.flatten(1), finite.flatten(1))
    height = height.reshape(clean[:, 0].shape)
    sources = torch.cat([values, counts], 1) * lattice.entries(values.dtype)
    sigma = (batch.sigma_range * scale).clamp(min=NARROWEST)

    def sums(rows: slice) -> Tensor:
        # There are as many weights to a pixel as levels: the cache holds fewer rows of them.
        parts = [
            _range_sums(sources[:, :, part], height[:, part], sigma, lattice)
            for part in lattice.cell_rows(rows)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    results = []
    for rows, nodes in zip(lattice.strips(), lattice.blurred(sums, batch.sigma_space), strict=True):
        below, share = level_below(height[:, rows].flatten(1))
        share = share[:, None]
        low, low_exists = _quotient(lattice.read(rows, nodes, below))
        high, high_exists = _quotient(lattice.read(rows, nodes, below + 1))
        low_share, high_share = (1 - share) * low_exists, share * high_exists
        results.append(torch.cat([low * low_share + high * high_share, low_share + high_share], 1))
    whole = torch.cat(results, 2).unflatten(2, values.shape[2:])
    return normalised(whole[:, :-1], whole[:, -1:], finite)


def _range_sums(sources: Tensor, height: Tensor, sigma: Tensor, lattice: Lattice) -> Tensor:
    """Weigh the sources (B, S, *pixels) for every level, and add up the pixels of each cell."""
    margins: list[int] = []
    shape: list[int] = []
    for axis, length in zip(lattice.axes, sources.shape[2:], strict=True):
        cells = -(-length // axis.cell)
        margins = [0, cells * axis.cell - length, *margins]
        shape += [cells, axis.cell]
    sources, height = pad(sources, margins), pad(height, margins)
    level = torch.arange(LEVELS, dtype=height.dtype, device=height.device)
    away = height[..., None] - level
    # A power of two takes half the time of an exponential.
    rate = -0.5 / math.log(2) / sigma.square()
    weight = torch.exp2(away.square() * rate.reshape(-1, *[1] * (away.ndim - 1)))
    weighted = sources[..., None] * weight[:, None]
    sums = weighted.reshape(*sources.shape[:2], *shape, LEVELS)
    for dim in range(3, 3 + len(lattice.axes)):  # one by one is many times faster
        sums = sums.sum(dim)
    return sums


def _quotient(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the blurred values of a level, and where any source counts at it (1 or 0)."""
    weighted, total = sums[:, :-1], sums[:, -1:]
    exists = ~(total < torch.finfo(total.dtype).tiny)
    values = torch.where(exists, weighted / torch.where(exists, total, 1), 0)
    return values, exists.to(total.dtype)
