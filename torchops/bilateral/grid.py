"""The bilateral grid (Paris and Durand 2006): one coarse blur in space and intensity together.

The range weight is a Gaussian in intensity, so the bilateral filter is an ordinary Gaussian blur
in the space (position, intensity), where a picture is a sheet: put every pixel into a coarse grid
over that space, blur the grid along each axis, read it back where the pixels are.

The layout follows from the radius and from the least and greatest guide value as tensors: nothing
is read from the device, and the op can be compiled, exported and mapped.
"""

import math

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import countable, normalised
from torchops.bilateral.lattice import LEVELS, Lattice, intensity_levels, level_below


def grid_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    values, counts, clean, finite = countable(batch.image, batch.guide, batch.mask)
    lattice = Lattice(values, radii, border)
    height, scale = intensity_levels(clean.flatten(1), finite.flatten(1))
    height = height.reshape(clean[:, 0].shape)
    sources = torch.cat([values, counts], 1) * lattice.entries(values.dtype)
    range_blur = _range_blur(batch.sigma_range * scale)

    def sums(rows: slice) -> Tensor:
        cells = _splat(sources[:, :, rows], height[:, rows], lattice)
        # In float64, so never in TF32.
        return (cells.double() @ range_blur[:, None, None]).to(cells.dtype)

    parts = []
    for rows, nodes in zip(lattice.strips(), lattice.blurred(sums, batch.sigma_space), strict=True):
        below, share = level_below(height[:, rows].flatten(1))
        low, high = lattice.read(rows, nodes, below), lattice.read(rows, nodes, below + 1)
        parts.append(torch.lerp(low, high, share[:, None]))
    whole = torch.cat(parts, 2).unflatten(2, values.shape[2:])
    return normalised(whole[:, :-1], whole[:, -1:], finite)


def _splat(sources: Tensor, height: Tensor, lattice: Lattice) -> Tensor:
    """Add every pixel to its cell, shared between two levels; returns (B, S, *cells, LEVELS)."""
    below, share = level_below(height.flatten(1))
    cell = torch.zeros((), dtype=torch.long, device=sources.device)
    shape = []
    for axis, length in zip(lattice.axes, sources.shape[2:], strict=True):
        shape.append(-(-length // axis.cell))
        cell = cell[..., None] * shape[-1]
        cell = cell + torch.arange(length, device=sources.device) // axis.cell
    index = (cell.flatten() * LEVELS + below)[:, None]
    sources = sources.flatten(2)
    index = index.expand(sources.shape)
    above = sources * share[:, None]
    grid = sources.new_zeros(*sources.shape[:2], math.prod(shape) * LEVELS)
    grid = grid.scatter_add(2, index, sources - above).scatter_add(2, index + 1, above)
    return grid.unflatten(2, [*shape, LEVELS])


def _range_blur(sigma: Tensor) -> Tensor:
    """Return the Gaussian between levels as a matrix, (B, LEVELS, LEVELS); ``sigma`` in levels."""
    # Linear splitting and reading between levels blur by 1/6 level^2 each.
    variance = (sigma.double().square() - 1 / 3).clamp(min=0.05)
    level = torch.arange(LEVELS, dtype=torch.float64, device=sigma.device)
    squared = (level[:, None] - level[None, :]).square()
    return torch.exp(-0.5 * squared / variance[:, None, None])
