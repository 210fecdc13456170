"""What "grid" and "piecewise" share: add up pixels in cells, blur these sums, read them back.

All of it is computed again in the backward, part by part and strip by strip, so that with
gradients too the memory is that of a few images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import countable, normalised
from torchops.bilateral.finite_range import extremes
from torchops.bilateral.lattice import LEVELS, Lattice, level_below
from torchops.bilateral.recompute import differentiated, joined, recomputed

# (sources (B, S, *rows), guide in levels (B, *rows), sigma_range in levels (B,), the lattice)
# -> the sums of the cells at every level
CellSums = Callable[[Tensor, Tensor, Tensor, Lattice], Tensor]
# (blurred sums (B, S, *rows) of the level below, those of the level above, share of the latter)
# -> sums
BetweenLevels = Callable[[Tensor, Tensor, Tensor], Tensor]


def filter_in_cells(
    batch: Batch,
    radii: tuple[int, ...],
    border: str,
    cell_sums: CellSums,
    between_levels: BetweenLevels,
) -> Tensor:
    """Filter a batch whose guide has one channel."""
    if batch.image.numel() == 0:
        return batch.image
    arrays = [batch.image]
    arrays += [] if batch.guide is batch.image else [batch.guide]
    arrays += [] if batch.mask is None else [batch.mask]
    tensors = [*arrays, batch.sigma_space, batch.sigma_range]
    lattice = Lattice(batch.image, radii, border, differentiated(*tensors))
    filtering = _Filtering(
        lattice, batch.guide is batch.image, batch.mask is not None, cell_sums, between_levels
    )
    low, high = extremes(batch.guide)
    # The lowest level, and how many make a unit of the guide.
    levels = torch.stack([low, (LEVELS - 1) / torch.where(high > low, high - low, 1)], 1)
    numbers = [levels, batch.sigma_range * levels[:, 1], *lattice.taps(batch.sigma_space)]
    parts = []
    for rows in lattice.parts():
        around = lattice.around(rows)
        own = [array[:, :, around] for array in arrays]
        parts.append(recomputed(filtering.stages(rows, around.start), *numbers, *own))
    return joined(parts)


class _Filtering:
    """The stages of the filter. ``arrays`` are image, guide if it is another, and mask if any."""

    def __init__(
        self,
        lattice: Lattice,
        own_guide: bool,
        masked: bool,
        cell_sums: CellSums,
        between_levels: BetweenLevels,
    ) -> None:
        self.lattice, self.own_guide, self.masked = lattice, own_guide, masked
        self.cell_sums, self.between_levels = cell_sums, between_levels

    def stages(self, rows: slice, start: int) -> list[list[Callable[..., Tensor]]]:
        """Return what to do to filter some rows; the arrays hold those from ``start`` on."""
        around = self.lattice.strips(self.lattice.around(rows))
        return [
            [partial(self.splat, start, strip) for strip in around],
            [partial(self.read, start, strip) for strip in self.lattice.strips(rows)],
        ]

    def splat(
        self, start: int, rows: slice, levels: Tensor, sigma: Tensor, *others: Tensor
    ) -> Tensor:
        """Add up the pixels of each cell at every level; blur along all axes but the first."""
        lattice = self.lattice
        taps, arrays = self._parted(others, start, rows)
        mask = arrays[-1] if self.masked else None
        values, counts, clean, _ = countable(arrays[0], self._guide(arrays), mask)
        sources = lattice.enter(torch.cat([values, counts], 1), rows)
        sums = self.cell_sums(sources, self._height(clean, levels), sigma, lattice)
        return lattice.blur_other_axes(sums, taps)

    def read(
        self,
        start: int,
        rows: slice,
        sums: Tensor,
        levels: Tensor,
        sigma: Tensor,
        *others: Tensor,
    ) -> Tensor:
        """Blur along the first axis, read at the pixels, and divide."""
        taps, arrays = self._parted(others, start, rows)
        nodes = self.lattice.blur_first_axis(sums, taps, start, rows)
        guide = self._guide(arrays)
        finite = guide.isfinite()
        height = self._height(torch.where(finite, guide, 0), levels)
        below, share = level_below(height, LEVELS)
        low, high = self.lattice.read(rows, nodes, below)
        sums = self.between_levels(low, high, share[:, None])
        return normalised(sums[:, :-1], sums[:, -1:], finite)

    def _parted(
        self, others: Sequence[Tensor], start: int, rows: slice
    ) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Return the taps, and some rows of the arrays."""
        axes = len(self.lattice.axes)
        own = slice(rows.start - start, rows.stop - start)
        return others[:axes], [array[:, :, own] for array in others[axes:]]

    def _guide(self, arrays: Sequence[Tensor]) -> Tensor:
        return arrays[0 if self.own_guide else 1]

    def _height(self, clean: Tensor, levels: Tensor) -> Tensor:
        """Return a guide (B, 1, *rows) in levels, (B, *rows)."""
        low, scale = (x.reshape(-1, *[1] * (clean.ndim - 2)) for x in levels.unbind(1))
        return ((clean[:, 0] - low) * scale).clamp(0, LEVELS - 1)


def product(sums: Tensor, matrices: Tensor) -> Tensor:
    """Multiply the levels of sums (B, S, *cells, N) by (B or 1, N, M), in float64: no TF32."""
    matrices = matrices.double()
    return (sums.flatten(1, -2).double() @ matrices).to(sums.dtype).unflatten(1, sums.shape[1:-1])
