"""The bilateral grid (Paris and Durand 2006): one coarse blur in space and intensity together.

The range weight is a Gaussian in intensity, so the bilateral filter is an ordinary Gaussian blur
in the space (position, intensity), where a picture is a sheet: put every pixel into a coarse grid
over that space, blur the grid along each axis, read it back where the pixels are.

The layout follows from the radius and from the least and greatest guide value as tensors: nothing
is read from the device, and the op can be compiled, exported and mapped.
"""

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch
from torchops.bilateral.lattice import LEVELS, Lattice
from torchops.bilateral.subsampled import filter_in_cells, product


def grid_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    return filter_in_cells(batch, radii, border, _cell_sums, torch.lerp)


def _cell_sums(sources: Tensor, height: Tensor, sigma: Tensor, lattice: Lattice) -> Tensor:
    """Add the sources (B, S, *rows) to their cells, and blur the levels of each."""
    return product(lattice.splat(sources, height, LEVELS), _range_blur(sigma))


def _range_blur(sigma: Tensor) -> Tensor:
    """Return the Gaussian between levels as a matrix, (B, LEVELS, LEVELS); ``sigma`` in levels."""
    # Linear splitting and reading between levels blur by 1/6 level^2 each.
    variance = (sigma.double().square() - 1 / 3).clamp(min=0.05)
    level = torch.arange(LEVELS, dtype=torch.float64, device=sigma.device)
    squared = (level[:, None] - level[None, :]).square()
    return torch.exp(-0.5 * squared / variance[:, None, None])
