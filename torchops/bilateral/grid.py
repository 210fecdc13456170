"""The bilateral grid (Paris and Durand 2006): one coarse blur in space and intensity together.

The range weight is a Gaussian in intensity, so the bilateral filter is an ordinary Gaussian blur
in the space (position, intensity), where a picture is a sheet: put every pixel into a coarse grid
over that space, blur the grid along each axis, read it back where the pixels are. Putting in and
reading back blur a little by themselves; the Gaussian in between is narrower by that much, so that
the variances add up to the wanted ones.

The layout follows from the radius and from the least and greatest guide value as tensors: nothing
is read from the device, and the op can be compiled, exported and mapped.
"""

import math

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import countable, normalised

BINS = 32  # intensity levels between the guide's least and greatest value
CELLS_PER_SIGMA = 1.5  # of a Gaussian whose radius is three sigmas
SMALLEST_CELL = 4.0  # pixels, but not more than one sigma: finer grids outgrow the image


class _Axis:
    """How one spatial axis is cut into cells.

    A pixel goes into one cell, whose centre is the mean position of its pixels. The blurred grid
    is evaluated at ``nodes``, the centres and both ends, and read back linearly between them.
    """

    def __init__(self, length: int, radius: int, device: torch.device) -> None:
        self.length, self.radius = length, radius
        sigma = radius / 3
        wanted = max(1.0, sigma / CELLS_PER_SIGMA, min(SMALLEST_CELL, sigma))
        self.cells = -int(-length // wanted)
        self.step = length / self.cells
        pixels = torch.arange(length, device=device)
        self.cell = pixels * self.cells // length
        first = -(-torch.arange(self.cells + 1, device=device) * length // self.cells)
        self.centre = (first[:-1] + first[1:] - 1).double() / 2
        self.nodes = torch.cat([self.centre.new_zeros(1), self.centre, pixels[-1:].double()])
        self.below = torch.searchsorted(self.nodes, pixels.double(), right=True) - 1
        self.below = self.below.clamp(0, self.cells)
        low, high = self.nodes[self.below], self.nodes[self.below + 1]
        self.share = (pixels - low) / (high - low).clamp(min=0.5)  # of the node above
        # Pixels in cells and linear reading at pixels blur by themselves, in pixels^2.
        self.own_variance = (self.step**2 - 1) / 12 + (self.step**2 - 1) / 6

    def blur_matrix(self, sigma: Tensor, border: str) -> Tensor:
        """Return Gaussian weights of cells at nodes, cut at the radius: (B, cells + 2, cells)."""
        sigma = sigma.double()
        # What splitting and reading blur already is taken off, but a little always remains.
        variance = (sigma.square() - self.own_variance).clamp(min=0.05 * self.step**2)
        matrix = torch.zeros((), dtype=torch.float64, device=sigma.device)
        for centre in self._copies(border):
            distance = (self.nodes[:, None] - centre[None, :]).abs()
            inside = ((self.radius + 0.5 - distance) / self.step + 0.5).clamp(0, 1)
            matrix = matrix + inside * torch.exp(-0.5 * distance.square() / variance[:, None, None])
        return matrix

    def _copies(self, border: str) -> list[Tensor]:
        """Return where the cells lie, and where the mirrored picture repeats them."""
        if border == "valid_only" or self.length == 1:
            return [self.centre]
        period = 2 * (self.length - 1)
        reach = 1 + (self.radius + self.length) // period
        return [
            sign * self.centre + k * period for k in range(-reach, reach + 1) for sign in (1, -1)
        ]

    def entries(self, border: str) -> Tensor:
        """Return how much of each pixel one copy holds: an edge pixel is its own mirror image."""
        entries = torch.ones_like(self.share)
        if border == "reflect" and self.length > 1:
            edge = torch.arange(self.length, device=entries.device) % max(self.length - 1, 1) == 0
            entries = torch.where(edge, 0.5, entries)
        return entries


def grid_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    values, counts, clean, finite = countable(batch.image, batch.guide, batch.mask)
    size = values.shape[2:]
    axes = [_Axis(n, radius, values.device) for n, radius in zip(size, radii, strict=True)]
    height, scale = _intensity_bins(clean.flatten(1), finite.flatten(1))
    bin_below = height.detach().floor().clamp(0, BINS - 2)
    bin_share = height - bin_below
    bin_below = bin_below.long()

    sources = torch.cat([values, counts], 1).flatten(2)
    grid = _splat(sources, axes, bin_below, bin_share, border)
    grid = _blur(grid, axes, batch, scale, border)
    sums = _slice(grid.to(values.dtype), axes, bin_below, bin_share)
    sums = sums.unflatten(2, size)
    return normalised(sums[:, :-1], sums[:, -1:], finite)


def _intensity_bins(guide: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return the guide (B, N) in bins, 0 to BINS - 1, and how many bins one unit of guide is."""
    if guide.numel() == 0:
        return guide, guide.new_ones(len(guide))
    low = torch.where(finite, guide, torch.inf).amin(1, keepdim=True)
    high = torch.where(finite, guide, -torch.inf).amax(1, keepdim=True)
    span = torch.where(high > low, high - low, 1)
    scale = (BINS - 1) / span
    # The rows without a finite pixel have an infinite low, those that are not finite a guide of 0.
    height = (guide - torch.where(low.isfinite(), low, 0)) * scale
    return height.clamp(0, BINS - 1), scale[:, 0]


def _splat(
    sources: Tensor, axes: list[_Axis], bin_below: Tensor, bin_share: Tensor, border: str
) -> Tensor:
    """Add every pixel to its cell, shared between two bins; returns (B, S, *cells, BINS)."""
    cell = torch.zeros((), dtype=torch.long, device=sources.device)
    entries = torch.ones((), dtype=torch.float64, device=sources.device)
    for axis in axes:
        cell = cell[..., None] * axis.cells + axis.cell
        entries = entries[..., None] * axis.entries(border)
    shape = [axis.cells for axis in axes] + [BINS]
    index = (cell.flatten() * BINS + bin_below)[:, None].expand(sources.shape)
    sources = sources * entries.flatten().to(sources.dtype)
    above = sources * bin_share[:, None]
    grid = sources.new_zeros(*sources.shape[:2], math.prod(shape))
    grid = grid.scatter_add(2, index, sources - above).scatter_add(2, index + 1, above)
    return grid.unflatten(2, shape)


def _blur(grid: Tensor, axes: list[_Axis], batch: Batch, scale: Tensor, border: str) -> Tensor:
    """Blur along every axis by a matrix, from cells to nodes; in float64, so never in TF32."""
    grid = grid.double()
    sigma = (batch.sigma_range * scale).double()
    # Linear splitting and reading between bins blur by 1/6 bin^2 each.
    variance = (sigma.square() - 1 / 3).clamp(min=0.05)
    level = torch.arange(BINS, dtype=torch.float64, device=grid.device)
    squared = (level[:, None] - level[None, :]).square()
    matrices = [torch.exp(-0.5 * squared / variance[:, None, None])]
    for axis, sigma in zip(reversed(axes), batch.sigma_space.unbind(-1)[::-1], strict=True):
        matrices.append(axis.blur_matrix(sigma, border))
    for matrix in matrices:  # each blurs the last axis and brings the one before it to the end
        rows = grid.flatten(1, -2) @ matrix.transpose(1, 2)
        grid = rows.unflatten(1, grid.shape[1:-1]).movedim(-1, 2)
    return grid


def _slice(grid: Tensor, axes: list[_Axis], bin_below: Tensor, bin_share: Tensor) -> Tensor:
    """Read the grid at every pixel's position and intensity, linearly; returns (B, S, N)."""
    *leading, last = axes
    for dim, axis in enumerate(leading, start=2):
        share = axis.share.to(grid.dtype).reshape(-1, *[1] * (grid.ndim - dim - 1))
        low, high = grid.index_select(dim, axis.below), grid.index_select(dim, axis.below + 1)
        grid = torch.lerp(low, high, share)
    lines = math.prod(grid.shape[2:-2])
    first = torch.arange(lines, device=grid.device)[:, None] * len(last.nodes)
    flat = grid.flatten(2)

    def at(node: Tensor) -> Tensor:
        index = ((first + node).flatten() * BINS + bin_below)[:, None].expand(*grid.shape[:2], -1)
        return torch.lerp(flat.gather(2, index), flat.gather(2, index + 1), bin_share[:, None])

    share = last.share.to(grid.dtype).repeat(lines)
    return torch.lerp(at(last.below), at(last.below + 1), share)
