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

from torchops._common.smoothing import pad_axis
from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import countable, normalised

BINS = 32  # intensity levels between the guide's least and greatest value
CELLS_PER_SIGMA = 1.5  # of a Gaussian whose radius is three sigmas
SMALLEST_CELL = 4.0  # pixels, but not more than one sigma: finer grids outgrow the image


class _Axis:
    """How one spatial axis is cut into cells.

    The first and the last pixel are centres of cells, so that mirroring the image about them
    mirrors the grid. A pixel goes into the nearest cell and is read back linearly from two.
    """

    def __init__(self, length: int, radius: int, border: str, like: Tensor) -> None:
        self.radius = radius
        sigma = radius / 3
        wanted = max(1.0, sigma / CELLS_PER_SIGMA, min(SMALLEST_CELL, sigma))
        intervals = -int(-(length - 1) // wanted) if radius else length - 1
        self.cells = intervals + 1
        self.spacing = (length - 1) / max(intervals, 1) if length > 1 else 1.0
        pixel = torch.arange(length, dtype=torch.float64, device=like.device)
        position = pixel / self.spacing
        self.nearest = position.round().long()
        self.below = position.floor().clamp(max=max(intervals - 1, 0)).long()
        self.above = (self.below + 1).clamp(max=intervals)
        self.share = (position - self.below).to(like.dtype)  # of the cell above
        # How often a pixel enters its cell: mirror images of pixels beside the edge fall into the
        # edge's own cell.
        beside = ((self.nearest == 0) | (self.nearest == intervals)) & (
            (pixel > 0) & (pixel < length - 1)
        )
        self.entries = 1 + (beside & (border == "reflect")).to(like.dtype)

    def taps(self, sigma: Tensor) -> list[Tensor]:
        """Return Gaussian weights (B or 1,) at cell distances 0, 1, ... up to the radius."""
        # Pixels in cells: (h^2 - 1) / 12; linear reading at pixels: (h^2 - 1) / 6.
        variance = _narrowed(sigma, (self.spacing**2 - 1) / 4, self.spacing)
        reach = math.ceil((self.radius + 0.5) / self.spacing - 0.5)
        taps = [torch.exp(-0.5 * (k * self.spacing) ** 2 / variance) for k in range(reach + 1)]
        # The window ends half a pixel beyond its last pixel, inside the last cell.
        inside = (self.radius + 0.5) / self.spacing - (reach - 0.5)
        return [*taps[:-1], taps[-1] * min(1.0, inside)]


def _narrowed(sigma: Tensor, own_variance: float, spacing: float) -> Tensor:
    """Return the variance left to blur; never so little that neighbours vanish in rounding."""
    return (sigma.square() - own_variance).clamp(min=0.05 * spacing**2)


def grid_filter(batch: Batch, radii: tuple[int, ...], *, border: str) -> Tensor:
    """Filter a batch whose guide has one channel."""
    values, counts, guide, finite = countable(batch.image, batch.guide, batch.mask)
    sources = torch.cat([values, counts], 1)
    size = sources.shape[2:]
    axes = [_Axis(n, radius, border, sources) for n, radius in zip(size, radii, strict=True)]
    for k, axis in enumerate(axes):
        sources = sources * axis.entries.reshape(-1, *[1] * (len(axes) - 1 - k))

    height, bins_per_unit = _intensity_bins(guide.flatten(1), finite.flatten(1))
    below = height.detach().floor().clamp(0, BINS - 2)
    share = height - below
    below = below.long()
    grid = _splat(sources.flatten(2), axes, below, share)
    for dim, (axis, sigma) in enumerate(zip(axes, batch.sigma_space.unbind(-1), strict=True), 2):
        grid = _blur(grid, axis.taps(sigma), dim, border)
    grid = _blur_bins(grid, batch.sigma_range * bins_per_unit)
    sums = _slice(grid, axes, below, share).unflatten(2, size)
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


def _splat(sources: Tensor, axes: list[_Axis], below: Tensor, share: Tensor) -> Tensor:
    """Add every pixel to its cell, shared between two bins; returns (B, S, *cells, BINS)."""
    cell = torch.zeros((), dtype=torch.long, device=sources.device)
    for axis in axes:
        cell = cell[..., None] * axis.cells + axis.nearest
    shape = [axis.cells for axis in axes] + [BINS]
    index = (cell.flatten() * BINS + below)[:, None].expand(sources.shape)
    above = sources * share[:, None]
    grid = sources.new_zeros(*sources.shape[:2], math.prod(shape))
    grid = grid.scatter_add(2, index, sources - above).scatter_add(2, index + 1, above)
    return grid.unflatten(2, shape)


def _blur(grid: Tensor, taps: list[Tensor], dim: int, border: str) -> Tensor:
    """Correlate one axis with symmetric taps, by shifted sums: no matrix product, no TF32."""
    reach = len(taps) - 1
    cells = grid.shape[dim]
    padded = pad_axis(grid, dim, reach, reach, "reflect" if border == "reflect" else "zeros")
    total = grid
    for k, tap in enumerate(taps[1:], start=1):
        both = padded.narrow(dim, reach - k, cells) + padded.narrow(dim, reach + k, cells)
        total = total + both * tap.reshape(-1, *[1] * (grid.ndim - 1))
    return total


def _blur_bins(grid: Tensor, sigma: Tensor) -> Tensor:
    """Blur the last axis, all bins with all bins; ``sigma`` (B,) in bins."""
    variance = _narrowed(sigma, 1 / 3, 1.0)  # linear splitting and reading, 1/6 each
    level = torch.arange(BINS, dtype=grid.dtype, device=grid.device)
    weight = torch.exp(-0.5 * (level[:, None] - level).square() / variance[:, None, None])
    rows = grid.flatten(1, -2)
    # In float64: a float32 product might run in TF32.
    return (rows.double() @ weight.double()).to(grid.dtype).reshape(grid.shape)


def _slice(grid: Tensor, axes: list[_Axis], below: Tensor, share: Tensor) -> Tensor:
    """Read the grid at every pixel's position and intensity, linearly; returns (B, S, N)."""
    *leading, last = axes
    for dim, axis in enumerate(leading, start=2):
        weight = axis.share.reshape(-1, *[1] * (grid.ndim - dim - 1))
        low, high = grid.index_select(dim, axis.below), grid.index_select(dim, axis.above)
        grid = torch.lerp(low, high, weight)
    lines = math.prod(grid.shape[2:-2])
    first_cell = torch.arange(lines, device=grid.device)[:, None] * last.cells
    flat = grid.flatten(2)
    share = share[:, None]

    def at(cell: Tensor) -> Tensor:
        index = ((first_cell + cell).flatten() * BINS + below)[:, None].expand(*grid.shape[:2], -1)
        return torch.lerp(flat.gather(2, index), flat.gather(2, index + 1), share)

    return torch.lerp(at(last.below), at(last.above), last.share.repeat(lines))
