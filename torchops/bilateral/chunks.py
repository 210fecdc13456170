"""Weighted means over all pairs of pixels, in place and chunk by chunk.

Pixels lie in one flat axis of padded rows, where every offset of the window is a shift by a
constant number of elements. Work proceeds in contiguous chunks of whole rows that stay in the
cache. A chunk holds the earlier pixels of its pairs; the later ones lie up to a reach behind it, so
sums are made in a window that covers both, and the reach is carried on to the next chunk. Only
the results are as large as the image.

Arrays and names are those of `pairs`, which has the definition and the derivatives.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Taps = tuple[tuple[int, tuple[int, ...]], ...]

CHUNK = 1 << 18  # elements per work array: fewer pay for dispatch, more for leaving the cache


class Layout(NamedTuple):
    """Padded rows in a flat axis. A signal is a column: its rows have one element."""

    planes: int
    height: int
    width: int
    margins: tuple[int, ...]  # of these three

    @classmethod
    def of(cls, padded: tuple[int, ...], radii: tuple[int, ...]) -> "Layout":
        """Describe arrays of the spatial size ``padded``."""
        if len(radii) == 1:
            padded, radii = (*padded, 1), (*radii, 0)
        planes = 1 if len(radii) == 2 else padded[0]
        return cls(planes, padded[-2], padded[-1], (0, *radii)[-3:])

    def shift(self, offset: tuple[int, ...]) -> int:
        """Return the distance in the flat axis of two pixels that are ``offset`` apart."""
        if len(offset) == 1:
            offset = (*offset, 0)
        strides = (1, self.width, self.height * self.width)
        return sum(o * s for o, s in zip(reversed(offset), strides, strict=False))

    @property
    def inner_size(self) -> tuple[int, int]:
        """Return the number of rows, of all planes together, and of columns within the margins."""
        planes, height, width = (
            size - 2 * margin for size, margin in zip(self[:3], self.margins, strict=True)
        )
        return planes * height, width

    def inner_runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield which rows of [first, last) are no margin: row, number among such, run length."""
        margin_z, margin_y, _ = self.margins
        inner = self.height - 2 * margin_y
        for plane in range(margin_z, self.planes - margin_z):
            top = plane * self.height + margin_y
            start, stop = max(first, top), min(last, top + inner)
            if start < stop:
                yield start, (plane - margin_z) * inner + start - top, stop - start

    def inner(self, flat: Tensor, row: int, length: int) -> Tensor:
        """View some rows of a flat array without their margins, (B, C, length, inner width)."""
        rows = flat[..., row * self.width : (row + length) * self.width]
        margin = self.margins[2]
        return rows.unflatten(-1, (length, self.width))[..., margin : self.width - margin]


class _Chunks:
    """The ranges of pixels of a problem, each with the shifts of its pairs."""

    def __init__(self, sources: Tensor, radii: tuple[int, ...], taps: Taps, elements: int) -> None:
        batch, channels, *padded = sources.shape
        self.layout = layout = Layout.of(tuple(padded), radii)
        self.taps = [(k, layout.shift(offset)) for k, offset in taps]
        self.reach = max((delta for _, delta in self.taps), default=0)
        self.ahead = -(-self.reach // layout.width)  # rows of the reach, the last one whole
        rows = layout.planes * layout.height
        self.rows = rows  # of a chunk; a GPU takes the whole image at once
        if sources.device.type == "cpu":
            wanted = max(elements // max(batch * channels, 1), 2048)
            self.rows = min(rows, -(-wanted // layout.width))
        # What has no partner in the array lies in the margin of the last rows.
        self.end = rows * layout.width - self.reach
        self.length = min(self.rows * layout.width, self.end)

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """Yield the first row of each chunk and its pixels."""
        width = self.layout.width
        for row in range(0, -(-self.end // width), self.rows):
            yield row, slice(row * width, min((row + self.rows) * width, self.end))


class _Weights:
    """The weights of pairs of ranges, computed in work arrays that every chunk uses again."""

    def __init__(
        self,
        guide: Tensor,
        sharpness: Tensor,
        exponents: Tensor,
        distance: str,
        length: int,
        *,
        gradients: bool = False,
    ) -> None:
        self.guide, self.distance = guide, distance
        self.exponents = exponents[..., None, None].unbind(1)
        self.blunt = -sharpness[:, None, None]
        # One number for all samples is multiplied in the same pass. A GPU would wait for it.
        shared = sharpness.device.type == "cpu" and (
            len(sharpness) == 1 or sharpness.stride(0) == 0
        )
        self.number = float(self.blunt[0]) if shared and len(sharpness) else None
        self.difference = guide.new_empty(*guide.shape[:2], length)
        self.pulls = self.difference
        if gradients and guide.shape[1] > 1:
            self.pulls = torch.empty_like(self.difference)
        self.weight = guide.new_empty(len(guide), 1, length)
        self.length = self.weight  # replaced where l1 needs a third work array
        if distance == "l1" and guide.shape[1] > 1:
            self.length = torch.empty_like(self.weight)

    def __call__(self, k: int, here: slice, there: slice) -> tuple[Tensor, Tensor]:
        """Return weights (B, 1, n) and guide differences (B, D, n); valid until the next call."""
        size = here.stop - here.start
        difference, weight = self.difference[..., :size], self.weight[..., :size]
        torch.sub(self.guide[..., there], self.guide[..., here], out=difference)
        parts = difference.split(1, 1)
        if self.length is not self.weight:
            length = self.length[..., :size]
            torch.abs(parts[0], out=length)
            for part in parts[1:]:
                length += torch.abs(part, out=weight)
            parts = (length,)
        exponent: Tensor = self.exponents[k]
        if self.number is not None:
            for part in parts:
                exponent = torch.addcmul(exponent, part, part, value=self.number, out=weight)
        else:
            torch.mul(parts[0], parts[0], out=weight)
            for part in parts[1:]:
                weight.addcmul_(part, part)
            torch.addcmul(exponent, weight, self.blunt, out=weight)
        return weight.exp2_(), difference

    def pull(self, shared: Tensor, difference: Tensor) -> Tensor:
        """Return shared * half the gradient of the squared distances of the last call.

        It takes the place of the weights where the guide has one channel.
        """
        size = difference.shape[-1]
        into = self.weight if difference.shape[1] == 1 else self.pulls
        into = into[..., :size]
        if self.length is self.weight:
            return torch.mul(difference, shared, out=into)
        return torch.sign(difference, out=into).mul_(self.length[..., :size]).mul_(shared)


def chunked_means(
    sources: Tensor,
    guide: Tensor | None,
    finite: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    radii: tuple[int, ...],
    taps: Taps,
    distance: str,
    ones: bool,
) -> tuple[Tensor, Tensor]:
    """Return the means and the weight sums of `pairs.pair_means`."""
    batch, channels = sources.shape[:2]
    means = sources.new_empty(batch, channels - (not ones), *finite.shape[2:])
    total = sources.new_empty(finite.shape)
    chunks = _Chunks(sources, radii, taps, CHUNK)
    sources = sources.flatten(2)
    guide = sources if guide is None else guide.flatten(2)
    weights = _Weights(guide, sharpness, exponents, distance, chunks.length)
    reach = chunks.reach
    window = sources.new_empty(batch, channels + ones, chunks.rows * chunks.layout.width + reach)
    sums, counts = window.split([channels, int(ones)], 1)
    sums[..., :reach].copy_(sources[..., :reach])
    counts.fill_(1)
    for row, here in chunks:
        length = here.stop - here.start
        sums[..., reach : reach + length].copy_(
            sources[..., here.start + reach : here.stop + reach]
        )
        near, near_sums, near_counts = (x[..., :length] for x in (sources[..., here], sums, counts))
        for k, delta in chunks.taps:
            there, after = _partners(here, delta)
            weight, _ = weights(k, here, there)
            near_sums.addcmul_(weight, sources[..., there])
            sums[..., after].addcmul_(weight, near)
            if ones:
                near_counts += weight
                counts[..., after] += weight
        _store_means(window, row, length, chunks.layout, finite, means, total)
        _carry(window, length, reach)
        counts[..., reach:].fill_(1)
    return means, total


def _partners(here: slice, delta: int) -> tuple[slice, slice]:
    """Return where a chunk's partners lie in the image, and in a window that starts with it."""
    return (
        slice(here.start + delta, here.stop + delta),
        slice(delta, delta + here.stop - here.start),
    )


def _carry(window: Tensor, start: int, length: int) -> None:
    """Move ``length`` elements from ``start`` to the beginning."""
    carried = window[..., start : start + length]
    window[..., :length].copy_(carried.clone() if start < length else carried)


def _store_means(
    window: Tensor,
    row: int,
    length: int,
    layout: Layout,
    finite: Tensor,
    means: Tensor,
    total: Tensor,
) -> None:
    """Divide the sums of a chunk, which start at ``row``, and write them where they belong."""
    means, total, finite = (
        x.reshape(*x.shape[:2], *layout.inner_size) for x in (means, total, finite)
    )
    tiny = torch.finfo(total.dtype).tiny
    for first, number, count in layout.inner_runs(row, row - (-length // layout.width)):
        there = slice(number, number + count)
        sums, weight = layout.inner(window, first - row, count).split([means.shape[1], 1], 1)
        # Below the smallest normal number the sums have lost their digits. A NaN stays NaN.
        none = (weight < tiny).logical_or_(~finite[:, :, there])
        weight = torch.where(none, torch.inf, weight)
        total[:, :, there] = weight
        torch.div(sums, weight, out=means[:, :, there]).masked_fill_(none, 0)


class _Upstream:
    """The gradient by the sums that follows from those by means and weight sums, chunk by chunk."""

    def __init__(self, gradients: list[Tensor], chunks: _Chunks) -> None:
        self.chunks, layout = chunks, chunks.layout
        self.gradients = [x.reshape(*x.shape[:2], *layout.inner_size) for x in gradients]
        batch, channels = self.gradients[0].shape[:2]
        length = (chunks.rows + chunks.ahead) * layout.width
        self.window = gradients[0].new_zeros(batch, channels + 1, length)
        self.done = 0  # rows of the window

    def advance(self, row: int, centres: Tensor) -> None:
        """Let ``window`` begin at ``row``; add what is new in it to ``centres``.

        Every pixel is a source of its own mean, with weight 1.
        """
        chunks, layout = self.chunks, self.chunks.layout
        if self.done:
            _carry(self.window, chunks.rows * layout.width, self.done * layout.width)
            self.window[..., self.done * layout.width :].zero_()
        last = row + chunks.rows + chunks.ahead
        for first, number, count in layout.inner_runs(row + self.done, last):
            there = slice(number, number + count)
            gradient, means, total, *further = (x[:, :, there] for x in self.gradients)
            block = layout.inner(self.window, first - row, count)
            quotient, rest = block.split([means.shape[1], 1], 1)
            nothing = total == torch.inf
            torch.div(gradient, total, out=quotient).masked_fill_(nothing, 0)
            if means.shape[1] == 1:
                torch.mul(quotient, means, out=rest).neg_()
            else:
                torch.sum(quotient * means, 1, keepdim=True, out=rest).neg_()
            for gradient in further:
                rest += torch.where(nothing, 0, gradient)
            into = layout.inner(centres, first, count)
            into += block[:, : into.shape[1]]
        self.done = chunks.ahead


def chunked_gradients(
    upstream: list[Tensor],
    sources: Tensor,
    guide: Tensor | None,
    sharpness: Tensor,
    exponents: Tensor,
    radii: tuple[int, ...],
    taps: Taps,
    distance: str,
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Return the gradients of `pairs._PairGradients` that are needed."""
    # Twice as many work arrays as in the forward.
    chunks = _Chunks(sources, radii, taps, CHUNK // 2)
    channels = sources.shape[1]
    grad_sources = torch.zeros_like(sources, memory_format=torch.contiguous_format)
    # Where the sources are their own guide, both gradients are summed in one array.
    grad_guide = grad_sources
    if guide is not None:
        shape = guide.shape if needs[1] else (0, 0, 0)
        grad_guide = guide.new_zeros(shape)
    guided = needs[0] if guide is None else needs[1]
    into_sources, into_guide, sources = (x.flatten(2) for x in (grad_sources, grad_guide, sources))
    guide = sources if guide is None else guide.flatten(2)
    weights = _Weights(guide, sharpness, exponents, distance, chunks.length, gradients=True)
    slopes = (2 * math.log(2) * sharpness)[:, None, None]
    # One sum per offset and quantity; small tensors kept in a list would fragment the heap.
    grad_sharpness, grad_exponents = torch.zeros_like(exponents), torch.zeros_like(exponents)
    products = torch.empty_like(sources[..., : chunks.length])
    upstreams = _Upstream(upstream, chunks)
    up, up_total = upstreams.window.split([channels, int(ones)], 1)
    for row, here in chunks:
        upstreams.advance(row, into_sources)
        length = here.stop - here.start
        near, near_up, product = sources[..., here], up[..., :length], products[..., :length]
        for k, delta in chunks.taps:
            there, after = _partners(here, delta)
            weight, difference = weights(k, here, there)
            if needs[0]:
                into_sources[..., here].addcmul_(weight, up[..., after])
                into_sources[..., there].addcmul_(weight, near_up)
            if not (guided or any(needs[1:])):
                continue
            # The derivative of the loss by the logarithm of the pair's weight.
            torch.mul(up[..., after], near, out=product).addcmul_(near_up, sources[..., there])
            shared = product if channels == 1 else product.sum(1, keepdim=True)
            if ones:
                shared += up_total[..., :length]
                shared += up_total[..., after]
            shared *= weight
            if needs[3]:
                grad_exponents[:, k] += shared.sum((1, 2))
            if not (guided or needs[2]):
                continue
            pull = weights.pull(shared, difference)
            if needs[2]:
                grad_sharpness[:, k] -= difference.mul_(pull).sum((1, 2))
            if guided:
                pull *= slopes
                into_guide[..., here] += pull
                into_guide[..., there] -= pull
    found = (
        grad_sources,
        grad_guide,
        grad_sharpness.sum(1) * math.log(2),
        grad_exponents * math.log(2),
    )
    return tuple(g for g, need in zip(found, needs, strict=True) if need)
