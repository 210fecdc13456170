"""The bilateral filter as a few linear ones (Durand and Dorsey 2002).

For one fixed intensity i the range weight of a neighbour depends on the neighbour alone, so that

    J_i = blur(range weight to i * image) / blur(range weight to i)

costs two Gaussian blurs, which are taken on coarse cells. The bilateral filter at a pixel of
intensity i is J_i there; it is taken from the two nearest of a number of levels, linearly.

The levels are spaced evenly between the least and the greatest guide value, which stay tensors:
nothing is read from the device, and the op can be compiled, exported and mapped.
"""

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch
from torchops.bilateral.lattice import LEVELS, Lattice
from torchops.bilateral.subsampled import filter_in_cells, product

FINER = 2  # values in the table of range weights for each level
NARROWEST = 0.5  # sigma_range, in levels: narrower ones would leave gaps between the levels


def piecewise_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    return filter_in_cells(batch, radii, border, _cell_sums, _between_levels)


def _cell_sums(sources: Tensor, height: Tensor, sigma: Tensor, lattice: Lattice) -> Tensor:
    """Weigh the sources (B, S, *rows) for every level, and add up the pixels of each cell."""
    counted = lattice.splat(sources, FINER * height, FINER * (LEVELS - 1) + 1)
    return product(counted, _range_weights(sigma))


def _range_weights(sigma: Tensor) -> Tensor:
    """Return the weights of the values of a table to the levels, (B, values, LEVELS)."""
    # Reading the table linearly blurs by a sixth of the squared distance of its values.
    variance = sigma.double().clamp(min=NARROWEST).square() - 1 / (6 * FINER**2)
    level = torch.arange(LEVELS, dtype=torch.float64, device=sigma.device)
    value = torch.arange(FINER * (LEVELS - 1) + 1, dtype=torch.float64, device=sigma.device) / FINER
    return torch.exp(-0.5 * (value[:, None] - level).square() / variance[:, None, None])


def _between_levels(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Interpolate the filtered values linearly, not the sums."""
    low, low_share = _quotient(low, 1 - share)
    high, high_share = _quotient(high, share)
    return torch.cat([low * low_share + high * high_share, low_share + high_share], 1)


def _quotient(sums: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the blurred values of a level, and its share, which is 0 where no source counts."""
    weighted, total = sums[:, :-1], sums[:, -1:]
    tiny = torch.finfo(total.dtype).tiny
    # A NaN total stays NaN.
    return weighted / total.clamp(min=tiny), torch.where(total < tiny, 0, share)
