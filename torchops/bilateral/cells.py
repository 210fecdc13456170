"""Sums over windows of a small grid, for every pixel of a large grid that covers the same area.

Pixel i of the small grid is a cell of the large one; a pixel belongs to the cell that holds its
centre, and sees the neighbours of that cell::

    sums_p = sum over q of w_pq sources_q
    w_pq = 2^(rows + columns - sharpness * distance(guide_p, low_guide_q)^2 - peak_p)

Work proceeds neighbour by neighbour on blocks of rows that stay in the cache; the backward computes
the weights again, so that memory does not grow with the window. Gradients of the small arrays
are gathered over the pixels of each cell, never scattered: the same bits in every run.

Arrays: ``sources`` (B, S, h, w) and ``low_guide`` (B, D, h, w), both with a margin of the radii;
``guide`` (B, D, H, W); ``sharpness`` (B,); ``rows`` (B, 2 r_y + 1, H) and ``columns``
(B, 2 r_x + 1, W), the spatial exponents; ``peak`` (B, 1, H, W), the largest exponent of a window,
which makes the largest weight 1 and cancels out of any quotient of sums.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 1 << 17  # pixels per work array on a CPU
STEEPEST = 64.0  # of the exponents, above the peak: pixels that do not count may lie there


def area_mean(guide: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean of the finite pixels over each cell, NaN where there is none.

    A pixel that two cells share counts in each by the area that lies there.
    """
    finite = guide.isfinite().all(-3, keepdim=True)
    totals = torch.cat([torch.where(finite, guide, 0), finite.to(guide.dtype)], -3)
    for dim, length in ((-2, size[0]), (-1, size[1])):
        totals = _overlap_sum(totals, dim, length)
    some = totals[..., -1:, :, :] > 0
    share = torch.where(some, totals[..., -1:, :, :], 1)
    return torch.where(some, totals[..., :-1, :, :] / share, torch.nan)


def _overlap_sum(image: Tensor, dim: int, cells: int) -> Tensor:
    """Sum one axis over cells of equal width, a pixel by the part of it that lies in the cell."""
    size = image.shape[dim]
    if size == cells:
        return image
    index = torch.arange(cells, device=image.device)
    first = index * size // cells
    total = None
    for k in range((size - 1) // cells + 2):
        # In units of 1 / cells of a pixel all positions are integers.
        start = torch.maximum((first + k) * cells, index * size)
        stop = torch.minimum((first + k + 1) * cells, (index + 1) * size)
        weight = (stop - start).clamp(min=0).to(image.dtype) / cells
        pixels = image.index_select(dim, (first + k).clamp(max=size - 1))
        term = pixels * (weight[:, None] if dim == -2 else weight)
        total = term if total is None else total + term
    assert total is not None
    return total


def window_sums(
    sources: Tensor,
    low_guide: Tensor,
    guide: Tensor,
    sigma_space: Tensor,
    sigma_range: Tensor,
    radii: tuple[int, int],
    distance: str,
) -> Tensor:
    """Return the weighted sums (B, S, H, W) of the sources, up to one factor per pixel.

    The last channel of ``sources``, none of which has a margin here, says what counts.
    """
    samples, _, *low_size = sources.shape
    radii = (min(radii[0], low_size[0] - 1), min(radii[1], low_size[1] - 1))
    margin = (radii[1], radii[1], radii[0], radii[0])
    sources, low_guide = pad(sources, margin), pad(low_guide, margin)
    sharpness = (1 / (2 * math.log(2) * sigma_range.square())).expand(samples)
    rows, columns = (
        _spatial_exponents(size, cells, radius, sigma).expand(samples, -1, -1)
        for size, cells, radius, sigma in zip(
            guide.shape[2:], low_size, radii, sigma_space.unbind(-1), strict=True
        )
    )
    arrays = (sources, low_guide, guide, sharpness, rows, columns)
    peak = _peaks(*(array.detach() for array in arrays), radii, distance)
    return _WindowSums.apply(*arrays, peak, radii, distance)


def _spatial_exponents(size: int, cells: int, radius: int, sigma: Tensor) -> Tensor:
    """Return log2 of the spatial weights of every pixel's neighbours, (B or 1, 2 radius + 1, N)."""
    pixel = torch.arange(size, device=sigma.device)
    # The pixel's position less that of its own cell, on the small grid, exact up to the division.
    offset = (2 * pixel + 1) * cells - (2 * _cell_of(pixel, size, cells) + 1) * size
    neighbour = torch.arange(-radius, radius + 1, device=sigma.device)
    away = offset.to(sigma.dtype) / (2 * size) - neighbour[:, None]
    return away.square() / (-2 * math.log(2) * sigma.square()[:, None, None])


def _cell_of(pixel: Tensor, size: int, cells: int) -> Tensor:
    """Return the cell that holds the centre of a pixel."""
    return (2 * pixel + 1) * cells // (2 * size)


def _first_of(cell: Any, size: int, cells: int) -> Any:
    """Return the first pixel whose centre lies in a cell, or behind it."""
    return -((cells - 2 * size * cell) // (2 * cells))


class _Block:
    """Some rows of cells, with what the arrays hold for them."""

    def __init__(
        self,
        arrays: tuple[Tensor, ...],
        radii: tuple[int, int],
        distance: str,
        cells: tuple[int, int],
    ) -> None:
        sources, low_guide, guide, self.sharpness, rows, columns, *others = arrays
        height, width = guide.shape[-2:]
        low_height = sources.shape[-2] - 2 * radii[0]
        low_width = sources.shape[-1] - 2 * radii[1]
        self.radii, self.distance = radii, distance
        self.first = _first_of(cells[0], height, low_height)
        self.stop = _first_of(cells[1], height, low_height)
        self.around = (cells[0], low_height - cells[1])
        self.low = torch.cat([sources, low_guide], 1)
        if self.around != (0, 0):
            self.low = self.low[..., cells[0] : cells[1] + 2 * radii[0], :]
            guide, rows = guide[..., self.first : self.stop, :], rows[..., self.first : self.stop]
            others = [other[..., self.first : self.stop, :] for other in others]
        self.sources = sources.shape[1]
        self.guide, self.rows, self.columns, self.others = guide, rows, columns, others
        device = guide.device
        pixel_y = torch.arange(self.first, self.stop, device=device)
        self.cell_y = _cell_of(pixel_y, height, low_height) - cells[0]
        self.cell_x = _cell_of(torch.arange(width, device=device), width, low_width)
        self.members_y = _members(height, low_height, cells, self.first, device)
        self.members_x = _members(width, low_width, (0, low_width), 0, device)

    def neighbours(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (ky, kx, the neighbour of every pixel: (B, S + D, H, W))."""
        for kx in range(2 * self.radii[1] + 1):
            column = self.low.index_select(-1, self.cell_x + kx)
            for ky in range(2 * self.radii[0] + 1):
                yield ky, kx, column.index_select(-2, self.cell_y + ky)

    def compare(self, low_guide: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared distance (B, 1, H, W) to the guide, and half its gradient."""
        difference = self.guide - low_guide
        if self.distance == "l2" or difference.shape[1] == 1:
            return difference.square().sum(1, keepdim=True), difference
        length = difference.abs().sum(1, keepdim=True)
        return length.square(), length * difference.sign()

    def exponent(self, ky: int, kx: int, squared: Tensor) -> Tensor:
        """Return log2 of the weights (B, 1, H, W)."""
        space = self.rows[:, ky, :, None] + self.columns[:, kx, None, :]
        return torch.addcmul(space[:, None], squared, self.sharpness[:, None, None, None], value=-1)

    def gather(self, image: Tensor) -> Tensor:
        """Sum (B, S, H, W) over the pixels of each cell."""
        for dim, members in ((-2, self.members_y), (-1, self.members_x)):
            if isinstance(members, int):
                image = image.unflatten(dim, (image.shape[dim] // members, members)).sum(dim)
            else:
                index, member = members
                parts = image.index_select(dim, index.flatten()).unflatten(dim, index.shape)
                member = member[..., None] if dim == -2 else member
                image = torch.where(member, parts, 0).sum(dim)
        return image


def _members(
    size: int, all_cells: int, cells: tuple[int, int], first: int, device: torch.device
) -> int | tuple[Tensor, Tensor]:
    """Return how many pixels a cell has where all have as many.

    Otherwise return the pixels of each cell, counted from ``first``, and which entries mean one.
    """
    if size % all_cells == 0:
        return size // all_cells
    cell = torch.arange(cells[0], cells[1] + 1, device=device)
    start = _first_of(cell, size, all_cells)
    index = start[:-1, None] + torch.arange((size - 1) // all_cells + 1, device=device)
    member = index < start[1:, None]
    return torch.where(member, index - first, 0), member


def _blocks(arrays: tuple[Tensor, ...], radii: tuple[int, int], distance: str) -> Iterator[_Block]:
    """Cut the work into rows of cells; a compiler and a GPU take it as a whole."""
    sources, _, guide, *_ = arrays
    low_height = sources.shape[-2] - 2 * radii[0]
    step = low_height
    if guide.device.type == "cpu" and not torch.compiler.is_compiling():
        pixels = guide.shape[0] * guide.shape[-1] * guide.shape[-2] / low_height
        step = max(1, int(BLOCK // max(pixels, 1)))
    for start in range(0, low_height, step):
        yield _Block(arrays, radii, distance, (start, min(start + step, low_height)))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def _peaks(*arguments: Any) -> Tensor:
    """Return the largest exponent among the neighbours that count; 0 where none does."""
    sources, *arrays, radii, distance = arguments
    bias = torch.zeros_like(sources[:, -1:]).masked_fill(sources[:, -1:] == 0, -torch.inf)
    parts = []
    for block in _blocks((bias, *arrays), radii, distance):
        largest = None
        for ky, kx, low in block.neighbours():
            squared, _ = block.compare(low[:, 1:])
            exponent = block.exponent(ky, kx, squared) + low[:, :1]
            largest = exponent if largest is None else torch.maximum(largest, exponent)
        assert largest is not None
        parts.append(torch.where(largest == -torch.inf, 0, largest))
    return _joined(parts)


def _weight(block: _Block, ky: int, kx: int, squared: Tensor, peak: Tensor) -> Tensor:
    return (block.exponent(ky, kx, squared) - peak).clamp(max=STEEPEST).exp2()


class _WindowSums(torch.autograd.Function):
    generate_vmap_rule = True

    # Arguments by name: compilers of some versions of PyTorch take the first of *arguments for
    # the context.
    @staticmethod
    def forward(
        sources: Tensor,
        low_guide: Tensor,
        guide: Tensor,
        sharpness: Tensor,
        rows: Tensor,
        columns: Tensor,
        peak: Tensor,
        radii: tuple[int, int],
        distance: str,
    ) -> Tensor:
        arrays = (sources, low_guide, guide, sharpness, rows, columns, peak)
        parts = []
        for block in _blocks(arrays, radii, distance):
            sums = None
            for ky, kx, low in block.neighbours():
                squared, _ = block.compare(low[:, block.sources :])
                weight = _weight(block, ky, kx, squared, block.others[0])
                term = weight * low[:, : block.sources]
                sums = term if sums is None else sums + term
            assert sums is not None
            parts.append(sums)
        return _joined(parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *arrays, ctx.radii, ctx.distance = inputs
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:6]
        arrays = (*ctx.saved_tensors, upstream)
        blocks = [_block_gradients(b, needs) for b in _blocks(arrays, ctx.radii, ctx.distance)]
        found: list[Tensor | None] = [None] * len(arrays)
        for k, parts in enumerate(zip(*blocks, strict=True)):
            if not needs[k]:
                continue
            # Blocks share all arrays but guide and rows.
            found[k] = torch.cat(parts, {2: -2, 4: -1}[k]) if k in (2, 4) else sum(parts)
        return (*found[:6], None, None, None)


def _block_gradients(block: _Block, needs: tuple[bool, ...]) -> list[Tensor]:
    """Return what the pixels of a block add to the gradients of all arrays but the peak."""
    peak, upstream = block.others
    number = block.sources
    small = torch.zeros_like(block.low)
    guide = torch.zeros_like(block.guide)
    sharpness = torch.zeros_like(block.sharpness)
    rows, columns = torch.zeros_like(block.rows), torch.zeros_like(block.columns)
    for ky, kx, low in block.neighbours():
        squared, slope = block.compare(low[:, number:])
        weight = _weight(block, ky, kx, squared, peak)
        parts = [weight * upstream] if needs[0] else []
        if any(needs[1:]):
            # The derivative of the loss by the exponent of the weight.
            shared = (upstream * low[:, :number]).sum(1, keepdim=True) * weight * math.log(2)
            pull = 2 * block.sharpness[:, None, None, None] * shared * slope
            if needs[1]:
                parts.append(pull)
            if needs[2]:
                guide = guide - pull
            if needs[3]:
                sharpness = sharpness - (shared * squared).sum((1, 2, 3))
            if needs[4]:
                rows = rows + _at(shared.sum((1, 3)), ky, rows.shape[1])
            if needs[5]:
                columns = columns + _at(shared.sum((1, 2)), kx, columns.shape[1])
        if parts:
            cells = block.gather(torch.cat(parts, 1))
            before = 0 if needs[0] else number
            after = 0 if needs[1] else small.shape[1] - number
            room_x, room_y = 2 * block.radii[1] - kx, 2 * block.radii[0] - ky
            small = small + pad(cells, (kx, room_x, ky, room_y, before, after))
    small = pad(small, (0, 0, *block.around))
    return [small[:, :number], small[:, number:], guide, sharpness, rows, columns]


def _at(values: Tensor, k: int, number: int) -> Tensor:
    """Place (B, N) as row ``k`` of zeros (B, number, N)."""
    return pad(values[:, None], (0, 0, k, number - 1 - k))
