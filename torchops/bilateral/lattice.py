"""Images cut into cells: the coarse lattice on which "grid" and "piecewise" smooth in space.

Both methods add up the pixels of every cell, at several intensity levels, blur these sums along
the axes and read them back at the pixels. Adding up and reading back blur a little by themselves;
the Gaussian in between is narrower by that much, so that the variances add up to the wanted ones.

The image is filtered part by part, and each part strip by strip, so that what is as large as the
pixels times the levels stays in the cache. A part and a strip are ranges of rows (of the first
axis) made of whole cells. The layout follows from the size and the radius alone.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

LEVELS = 32  # intensities between the guide's least and greatest value
BLOCK = 1 << 17  # pixels per strip on a CPU
GPU_BLOCK = 1 << 21


def cell_size(radius: int) -> int:
    """Return the side of the cells in pixels, for a Gaussian whose radius is three sigmas.

    Two thirds of a sigma, but not under 4 pixels, where there would be more cells at all levels
    than pixels, unless a sigma is less; and not over 7, where cells cost nothing any more.
    """
    sigma = radius / 3
    return int(max(1.0, min(max(2 / 3 * sigma, 4.0), sigma, 7.0)))


class Axis:
    """How one spatial axis is cut into cells.

    A pixel counts in one cell, whose centre is the mean position of its pixels. The blurred sums
    are taken at the nodes, which are the centres and both ends, and read back linearly between.
    """

    def __init__(self, length: int, radius: int) -> None:
        self.length, self.radius, self.cell = length, radius, cell_size(radius)
        self.cells = -(-length // self.cell)
        self.nodes = self.cells + 2
        # How many cells away a cell still counts at a node.
        self.reach = min(int((radius + 1) / self.cell + 0.5) + 1, self.cells + 1)
        # Cells blur by the variance of a box, linear reading by twice that, in pixels^2.
        self.own_variance = (self.cell**2 - 1) / 4

    def position(self, node: Tensor) -> Tensor:
        """Return the positions of nodes in pixels; node k + 1 is the centre of cell k."""
        first = self.cell * (node - 1)
        last = (first + self.cell - 1).clamp(max=self.length - 1)
        return ((first + last).double() / 2).clamp(0, self.length - 1)

    def reading(self, rows: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the node below some pixels, and the share of the node above in them."""
        pixel = torch.arange(rows.start, rows.stop, device=device)
        below = pixel // self.cell
        below = (below + (pixel >= self.position(below + 1))).clamp(max=self.cells)
        low, high = self.position(below), self.position(below + 1)
        return below, (pixel - low) / (high - low).clamp(min=0.5)

    def node_below(self, pixel: int) -> int:
        """Return the node below one pixel."""
        k = pixel // self.cell
        centre = (2 * k * self.cell + min(self.cell, self.length - k * self.cell) - 1) / 2
        return min(k + (pixel >= centre), self.cells)

    def weights(self, sigma: Tensor, border: str) -> Tensor:
        """Return the weights of the cells around every node, (B, 2 reach + 1, nodes)."""
        near = torch.arange(-self.reach, self.reach + 1, device=sigma.device)
        cell = torch.arange(-1, self.cells + 1, device=sigma.device) + near[:, None]
        there = (cell >= 0) & (cell < self.cells)
        centre = self.position(cell.clamp(0, self.cells - 1) + 1)
        position = self.position(torch.arange(self.nodes, device=sigma.device))
        # What the cells and the reading blur already is taken off, but a little always remains.
        variance = sigma.double().square() - self.own_variance
        variance = variance.clamp(min=0.05 * self.cell**2)[:, None, None, None]
        distance = (position - self._copies(centre, border)).abs()  # (copies, taps, nodes)
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

    def entries(self, border: str, rows: slice, like: Tensor) -> Tensor:
        """Return how much of some pixels one copy holds: an edge pixel is its own mirror image."""
        pixel = torch.arange(rows.start, rows.stop, device=like.device)
        edge = pixel % max(self.length - 1, 1) == 0
        mirrored = border == "reflect" and self.length > 1
        return torch.where(edge & mirrored, 0.5, 1.0).to(like.dtype)


class Lattice:
    """The cells of an image or volume.

    Sums over cells are laid out as (B, S, *cells, LEVELS), blurred ones as (B, S, *nodes, LEVELS).
    """

    def __init__(
        self, image: Tensor, radii: tuple[int, ...], border: str, differentiated: bool
    ) -> None:
        samples, channels, *self.size = image.shape
        self.border = border
        self.axes = [Axis(length, radius) for length, radius in zip(self.size, radii, strict=True)]
        # The backward holds more of a strip than the forward; the forward need not come in parts.
        self.in_parts = differentiated
        block = BLOCK if image.device.type == "cpu" else GPU_BLOCK
        self.block = max(block // 3, 1) if differentiated else block
        self.pixels = samples * math.prod(self.size)
        self.sums = (
            samples * (channels + 1) * math.prod([axis.cells for axis in self.axes]) * LEVELS
        )

    def parts(self) -> list[slice]:
        """Return the ranges of rows to filter one by one.

        The neighbours of a part are added up once more, so that there are no more parts than it
        takes to have the sums of one be a third of the image.
        """
        rows = slice(0, self.size[0])
        if torch.compiler.is_compiling() or not self.in_parts:
            return [rows]
        number = min(3 * self.sums // self.pixels, self.pixels // self.block)
        return self._cut(rows, -(-self.axes[0].cells // max(number, 1)))

    def strips(self, rows: slice) -> list[slice]:
        """Cut a range into ranges of about ``block`` pixels, or single rows of cells."""
        if torch.compiler.is_compiling():
            return [rows]
        return self._cut(rows, self.block * self.axes[0].cells // self.pixels)

    def _cut(self, rows: slice, cells: int) -> list[slice]:
        step = max(cells, 1) * self.axes[0].cell
        return [slice(k, min(k + step, rows.stop)) for k in range(rows.start, rows.stop, step)]

    def _pixels(self, rows: slice) -> list[slice]:
        """Return the ranges of pixels that some rows span, along each axis."""
        return [rows, *(slice(0, length) for length in self.size[1:])]

    def enter(self, sources: Tensor, rows: slice) -> Tensor:
        """Weigh the pixels of some rows by how often they enter the sums."""
        for k, (axis, pixels) in enumerate(zip(self.axes, self._pixels(rows), strict=True)):
            entries = axis.entries(self.border, pixels, sources)
            sources = sources * entries.reshape(-1, *[1] * (len(self.axes) - 1 - k))
        return sources

    def splat(self, sources: Tensor, height: Tensor, levels: int) -> Tensor:
        """Add the sources (B, S, *rows) to their cells; returns (B, S, *cells, levels).

        A source is shared between the two levels about its ``height`` (B, *rows).
        """
        below, share = level_below(height.flatten(1), levels)
        shape = [-(-n // axis.cell) for n, axis in zip(sources.shape[2:], self.axes, strict=True)]
        cell = torch.zeros((), dtype=torch.long, device=sources.device)
        for n, axis, cells in zip(sources.shape[2:], self.axes, shape, strict=True):
            pixel = torch.arange(n, device=sources.device)
            cell = (cell * cells)[..., None] + pixel // axis.cell
        index = (cell.flatten() * levels + below)[:, None]
        sources = sources.flatten(2)
        index = index.expand(sources.shape)
        above = sources * share[:, None]
        grid = sources.new_zeros(*sources.shape[:2], math.prod(shape) * levels)
        grid = grid.scatter_add(2, index, sources - above)
        grid = grid.scatter_add(2, index + 1, above)
        return grid.unflatten(2, [*shape, levels])

    def nodes_of(self, rows: slice) -> tuple[int, int]:
        """Return the range of nodes of the first axis between which some rows lie."""
        axis = self.axes[0]
        return axis.node_below(rows.start), axis.node_below(rows.stop - 1) + 2

    def around(self, rows: slice) -> slice:
        """Return the rows that count at the nodes of some rows."""
        axis = self.axes[0]
        low, high = self.nodes_of(rows)
        first, stop = max(low - 1 - axis.reach, 0), min(high - 1 + axis.reach, axis.cells)
        return slice(first * axis.cell, min(stop * axis.cell, axis.length))

    def taps(self, sigma_space: Tensor) -> list[Tensor]:
        """Return the weights of the Gaussian between cells and nodes, one tensor for each axis."""
        return [
            axis.weights(sigma, self.border)
            for axis, sigma in zip(self.axes, sigma_space.unbind(-1), strict=True)
        ]

    def blur_other_axes(self, sums: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Blur sums over cells along all axes but the first."""
        for dim, weights in enumerate(taps[1:], start=3):
            sums = _blur(sums, weights, dim, 0, (0, weights.shape[-1]))
        return sums

    def blur_first_axis(
        self, sums: Tensor, taps: Sequence[Tensor], start: int, rows: slice
    ) -> Tensor:
        """Blur the sums of the cells from pixel ``start`` on, at the nodes of some rows."""
        return _blur(sums, taps[0], 2, start // self.axes[0].cell, self.nodes_of(rows))

    def read(self, rows: slice, nodes: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Read the blurred sums at the nodes of some rows linearly at their pixels.

        ``level`` (B, *rows) is the number of an intensity level for each pixel. Returns the sums
        (B, S, *rows) of this level and those of the next.
        """
        index = torch.zeros((), dtype=torch.long, device=level.device)
        shares = []
        for k, (axis, pixels) in enumerate(zip(self.axes, self._pixels(rows), strict=True)):
            below, share = axis.reading(pixels, level.device)
            below = below if k else below - self.nodes_of(rows)[0]
            index = (index * nodes.shape[2 + k])[..., None] + below
            shares.append(share.to(nodes.dtype))
        index = (index * LEVELS + level).flatten(1)[:, None].expand(-1, nodes.shape[1], -1)
        flat, shape = nodes.flatten(2), level.shape[1:]
        strides = [math.prod(nodes.shape[dim + 1 :]) for dim in range(2, nodes.ndim - 1)]
        found = []
        for above in (0, 1):
            corners = [
                flat[:, :, above + sum(steps) :].gather(2, index).unflatten(2, shape)
                for steps in itertools.product(*((0, stride) for stride in strides))
            ]
            for k, share in enumerate(reversed(shares)):
                share = share.reshape(-1, *[1] * k)
                pairs = zip(corners[::2], corners[1::2], strict=True)
                corners = [torch.lerp(low, high, share) for low, high in pairs]
            found.append(corners[0])
        return found[0], found[1]


def _blur(cells: Tensor, weights: Tensor, dim: int, first: int, nodes: tuple[int, int]) -> Tensor:
    """Blur one axis, of which the cells from ``first`` on are given, to a range of nodes."""
    start, stop = nodes
    taps = weights[..., start:stop].unbind(1)
    reach, number = len(taps) // 2, cells.shape[dim]
    # Node n has cell n - 1 in its middle.
    low, high = start - 1 - reach - first, stop - 1 + reach - first
    cells = cells.narrow(dim, max(low, 0), min(high, number) - max(low, 0))
    margins = [0, 0] * (cells.ndim - 1 - dim) + [max(-low, 0), max(high - number, 0)]
    cells = pad(cells, margins)
    shape = [1] * cells.ndim
    shape[0], shape[dim] = -1, stop - start
    total = cells.narrow(dim, 0, stop - start) * taps[0].reshape(shape)
    for k, tap in enumerate(taps[1:], start=1):
        total = torch.addcmul(total, cells.narrow(dim, k, stop - start), tap.reshape(shape))
    return total


def level_below(height: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the number of the level below, and the share of the one above it."""
    below = height.detach().floor().clamp(0, levels - 2)
    return below.long(), height - below
