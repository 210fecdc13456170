"""Images cut into cells: the coarse lattice on which "grid" and "piecewise" smooth in space.

Both methods add up the pixels of every cell, at several intensity levels, blur these sums along
the axes and read them back at the pixels. Adding up and reading back blur a little by themselves;
the Gaussian in between is narrower by that much, so that the variances add up to the wanted ones.

The sums of strips of the image are made one after the other, so that everything of the size of
the image stays in the cache. The layout follows from the size and the radius alone.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

LEVELS = 32  # intensities between the guide's least and greatest value
BLOCK = 1 << 17  # pixels per strip on a CPU


def cell_size(radius: int) -> int:
    """Return the side of the cells in pixels, for a Gaussian whose radius is three sigmas.

    Two thirds of a sigma, but not under 4 pixels, where there would be more cells at all levels
    than pixels, unless a sigma is less; and not over 6, where cells cost nothing any more.
    """
    sigma = radius / 3
    return int(max(1.0, min(max(2 / 3 * sigma, 4.0), sigma, 6.0)))


class Axis:
    """How one spatial axis is cut into cells.

    A pixel counts in one cell, whose centre is the mean position of its pixels. The blurred sums
    are taken at the nodes, which are the centres and both ends, and read back linearly between.
    """

    def __init__(self, length: int, radius: int, device: torch.device) -> None:
        self.length, self.radius, self.cell = length, radius, cell_size(radius)
        self.cells = -(-length // self.cell)
        self.nodes = self.cells + 2
        # How many cells away a cell still counts at a node.
        self.reach = min(int((radius + 1) / self.cell + 0.5) + 1, self.cells + 1)
        first = self.cell * torch.arange(self.cells, device=device)
        last = (first + self.cell - 1).clamp(max=length - 1)
        self.centre = (first + last).double() / 2
        pixels = torch.arange(length, device=device, dtype=torch.float64)
        self.position = torch.cat([self.centre.new_zeros(1), self.centre, pixels[-1:]])
        self.below = torch.searchsorted(self.position, pixels, right=True) - 1
        self.below = self.below.clamp(0, self.cells)
        low, high = self.position[self.below], self.position[self.below + 1]
        self.share = (pixels - low) / (high - low).clamp(min=0.5)  # of the node above
        # Cells blur by the variance of a box, linear reading by twice that, in pixels^2.
        self.own_variance = (self.cell**2 - 1) / 4

    def node_below(self, pixel: int) -> int:
        """Return what ``below`` holds for a pixel."""
        k = pixel // self.cell
        centre = (2 * k * self.cell + min(self.cell, self.length - k * self.cell) - 1) / 2
        return min(k + (pixel >= centre), self.cells)

    def weights(self, sigma: Tensor, border: str) -> Tensor:
        """Return the weights of the cells around every node, (B, 2 reach + 1, nodes)."""
        near = torch.arange(-self.reach, self.reach + 1, device=sigma.device)
        cell = torch.arange(-1, self.cells + 1, device=sigma.device) + near[:, None]
        there = (cell >= 0) & (cell < self.cells)
        centre = self.centre[cell.clamp(0, self.cells - 1)]
        # What the cells and the reading blur already is taken off, but a little always remains.
        variance = sigma.double().square() - self.own_variance
        variance = variance.clamp(min=0.05 * self.cell**2)[:, None, None, None]
        distance = (self.position - self._copies(centre, border)).abs()  # (copies, taps, nodes)
        # The radius may cut through a cell.
        inside = ((self.radius + 0.5 - distance) / self.cell + 0.5).clamp(0, 1)
        weights = inside * torch.exp(-0.5 * distance.square() / variance)
        return torch.where(there, weights.sum(1), 0).to(sigma.dtype)

    def _copies(self, centre: Tensor, border: str) -> Tensor:
        """Return where the cells lie, and where the mirrored picture repeats them."""
        if border == "valid_only" or self.length == 1:
            return centre[None]
        period = 2 * (self.length - 1)
        reach = 1 + (self.radius + self.length) // period
        shift = period * torch.arange(-reach, reach + 1, device=centre.device)[:, None, None]
        return torch.cat([shift + centre, shift - centre])

    def entries(self, border: str) -> Tensor:
        """Return how much of each pixel one copy holds: an edge pixel is its own mirror image."""
        entries = torch.ones_like(self.share)
        if border == "reflect" and self.length > 1:
            edge = torch.arange(self.length, device=entries.device) % max(self.length - 1, 1) == 0
            entries = torch.where(edge, 0.5, entries)
        return entries


class Lattice:
    """The cells of an image or volume.

    Sums over cells are laid out as (B, S, *cells, LEVELS), blurred ones as (B, S, *nodes, LEVELS).
    """

    def __init__(self, image: Tensor, radii: tuple[int, ...], border: str) -> None:
        samples, _, *self.size = image.shape
        self.border = border
        self.axes = [
            Axis(length, radius, image.device)
            for length, radius in zip(self.size, radii, strict=True)
        ]
        self.in_strips = image.device.type == "cpu" and not torch.compiler.is_compiling()
        pixels = samples * math.prod(self.size[1:]) * self.axes[0].cell
        # How many rows of cells a strip has.
        self.strip = max(1, BLOCK // max(pixels, 1)) if self.in_strips else self.axes[0].cells

    def entries(self, dtype: torch.dtype) -> Tensor:
        """Return how often a pixel enters the sums, of the shape of the image."""
        entries = torch.ones((), dtype=torch.float64, device=self.axes[0].centre.device)
        for axis in self.axes:
            entries = entries[..., None] * axis.entries(self.border)
        return entries.to(dtype)

    def strips(self) -> list[slice]:
        """Return ranges of pixels of the first axis, each made of whole cells."""
        return _ranges(0, self.size[0], self.strip * self.axes[0].cell)

    def cell_rows(self, rows: slice) -> list[slice]:
        """Cut a strip into single rows of cells, where the image is cut into strips at all."""
        if not self.in_strips:
            return [rows]
        return _ranges(rows.start, rows.stop, self.axes[0].cell)

    def blurred(self, sums: Callable[[slice], Tensor], sigma_space: Tensor) -> list[Tensor]:
        """Blur what ``sums`` returns for the cells of a strip; returns one tensor for each strip.

        These hold the nodes between which the pixels of the strip lie.
        """
        first, *others = [
            axis.weights(sigma, self.border)
            for axis, sigma in zip(self.axes, sigma_space.unbind(-1), strict=True)
        ]
        strips = []
        for rows in self.strips():
            strip = sums(rows)
            for dim, weights in enumerate(others, start=3):
                strip = _blur(strip, weights, dim, 0, weights.shape[-1])
            strips.append(strip)
        whole = strips[0] if len(strips) == 1 else torch.cat(strips, 2)
        del strips
        axis = self.axes[0]
        return [
            _blur(whole, first, 2, axis.node_below(r.start), axis.node_below(r.stop - 1) + 2)
            for r in self.strips()
        ]

    def read(self, rows: slice, nodes: Tensor, level: Tensor) -> Tensor:
        """Read the blurred sums of a strip linearly at its pixels, (B, S, N).

        ``level`` (B, N) is the number of an intensity level for each pixel.
        """
        strides = [math.prod(nodes.shape[dim + 1 :]) for dim in range(2, nodes.ndim - 1)]
        index = torch.zeros((), dtype=torch.long, device=level.device)
        shares = []
        for k, (axis, stride) in enumerate(zip(self.axes, strides, strict=True)):
            below, share = axis.below, axis.share.to(nodes.dtype)
            if k == 0:
                below, share = below[rows] - axis.node_below(rows.start), share[rows]
            index = index[..., None] + stride * below
            shares.append(share.reshape(-1, *[1] * (len(self.axes) - k - 1)))
        index = (index.flatten() + level)[:, None]
        flat = nodes.flatten(2)
        shape = (*flat.shape[:2], index.shape[-1])
        corners = [
            flat.gather(2, (index + sum(steps)).expand(shape)).unflatten(2, self.shape_of(rows))
            for steps in itertools.product(*((0, stride) for stride in strides))
        ]
        for share in reversed(shares):
            pairs = zip(corners[::2], corners[1::2], strict=True)
            corners = [torch.lerp(low, high, share) for low, high in pairs]
        return corners[0].flatten(2)

    def shape_of(self, rows: slice) -> list[int]:
        """Return the spatial shape of a strip."""
        return [rows.stop - rows.start, *self.size[1:]]


def _ranges(start: int, stop: int, step: int) -> list[slice]:
    return [slice(k, min(k + step, stop)) for k in range(start, stop, step)]


def _blur(cells: Tensor, weights: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Blur one axis from cells to the nodes from ``start`` to ``stop``."""
    taps = weights[..., start:stop].unbind(1)
    reach, number = len(taps) // 2, cells.shape[dim]
    # Node n has cell n - 1 in its middle.
    low, high = start - 1 - reach, stop - 1 + reach
    cells = cells.narrow(dim, max(low, 0), min(high, number) - max(low, 0))
    margins = [0, 0] * (cells.ndim - 1 - dim) + [max(-low, 0), max(high - number, 0)]
    cells = pad(cells, margins)
    shape = [1] * cells.ndim
    shape[0], shape[dim] = -1, stop - start
    total = cells.narrow(dim, 0, stop - start) * taps[0].reshape(shape)
    for k, tap in enumerate(taps[1:], start=1):
        total = torch.addcmul(total, cells.narrow(dim, k, stop - start), tap.reshape(shape))
    return total


def intensity_levels(guide: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return the guide (B, N) in levels, 0 to LEVELS - 1, and how many make one unit of guide."""
    if guide.numel() == 0:
        return guide, guide.new_ones(len(guide))
    low = torch.where(finite, guide, torch.inf).amin(1, keepdim=True)
    high = torch.where(finite, guide, -torch.inf).amax(1, keepdim=True)
    span = torch.where(high > low, high - low, 1)
    scale = (LEVELS - 1) / span
    # The rows without a finite pixel have an infinite low, those that are not finite a guide of 0.
    height = (guide - torch.where(low.isfinite(), low, 0)) * scale
    return height.clamp(0, LEVELS - 1), scale[:, 0]


def level_below(height: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of the level below, and the share of the one above it."""
    below = height.detach().floor().clamp(0, LEVELS - 2)
    return below.long(), height - below
