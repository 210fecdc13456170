"""Triton kernels of the exact bilateral filter: forward, and a backward that recomputes weights.

For every pixel x of the output they visit the partners y = x + d of its window in arrays that were
padded by the border rule, so no window leaves its array. The weight of a pair is symmetric: one
visit in the backward serves both roles of x, as the centre whose sum gathers from y and as the
source that the sum of y gathers from. Everything is a gather, nothing is atomic; the result is the
same bits in every run.

Kernels know no autograd. Numbers are cast at load and accumulated in float32, or in float64 when
the rates are float64.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_Y, TILE_X = 8, 32
UNROLLED_UP_TO = 8  # radius_x; longer rows take the compiler long
LOG2_E = tl.constexpr(1.4426950408889634)
GROUP = 4  # channels whose sums one launch holds in registers


@triton.jit
def _pointers(ptr, offset, plane, COUNT: tl.constexpr):
    pointers = ()
    for c in tl.static_range(COUNT):
        pointers = pointers + (ptr + c * plane + offset,)
    return pointers


@triton.jit
def _load_row(pointers, dx, COUNT: tl.constexpr, ACC: tl.constexpr):
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(pointers[c] + dx).to(ACC),)
    return values


@triton.jit
def _load_channels(ptr, offset, plane, inside, COUNT: tl.constexpr, ACC: tl.constexpr):
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(ptr + c * plane + offset, mask=inside, other=0.0).to(ACC),)
    return values


@triton.jit
def _zeros(COUNT: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.zeros([SIZE], ACC),)
    return values


@triton.jit
def _length(own, other, COUNT: tl.constexpr, L1: tl.constexpr):
    """Distance of two guide values held in registers: squared for l2, the plain sum for l1."""
    total = own[0] - other[0]
    total = tl.abs(total) if L1 else total * total
    for c in tl.static_range(1, COUNT):
        step = own[c] - other[c]
        total += tl.abs(step) if L1 else step * step
    return total


@triton.jit
def _length_of_many(
    guide_ptr, here, there, plane, inside, COUNT: tl.constexpr, L1: tl.constexpr, ACC: tl.constexpr
):
    """The same for more channels than registers hold: both values are read as they are needed."""
    total = tl.zeros(there.shape, ACC)
    for c in range(COUNT):
        mine = tl.load(guide_ptr + c * plane + here, mask=inside, other=0.0).to(ACC)
        other = tl.load(guide_ptr + c * plane + there, mask=inside, other=0.0).to(ACC)
        step = mine - other
        total += tl.abs(step) if L1 else step * step
    return total


@triton.jit
def _forward_tap(
    values, counts_ptr, guide, guide_ptr, own, sums, total, here, there, dx, plane, space,
    rate_range, COUNT: tl.constexpr, GUIDE: tl.constexpr, HELD: tl.constexpr, SELF: tl.constexpr,
    COUNTED: tl.constexpr, L1: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add the partner ``dx`` after the row pointers. ``space``, ``rate_range``: exponents of 2."""
    source = _load_row(values, dx, COUNT, ACC)
    if SELF:
        length = _length(own, source, GUIDE, L1)
    elif HELD:
        length = _length(own, _load_row(guide, dx, GUIDE, ACC), GUIDE, L1)
    else:
        length = _length_of_many(guide_ptr, here, there + dx, plane, here >= 0, GUIDE, L1, ACC)
    squared = length * length if L1 else length
    weight = tl.exp2(space - squared * rate_range)
    if COUNTED:
        total += weight * tl.load(counts_ptr + there + dx).to(ACC)
    else:
        total += weight
    added = ()
    for c in tl.static_range(COUNT):
        added = added + (sums[c] + weight * source[c],)
    return added, total


@triton.jit
def _bilateral_forward_kernel(
    values_ptr, counts_ptr, guide_ptr, rates_ptr, sums_ptr, total_ptr,
    channels, first, depth, height, width, radius_z, radius_y, radius_x, reach,
    UNROLLED: tl.constexpr, COUNT: tl.constexpr, GUIDE: tl.constexpr, HELD: tl.constexpr,
    SELF: tl.constexpr, COUNTED: tl.constexpr, DISC: tl.constexpr, L1: tl.constexpr,
    ACC: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
):  # fmt: skip
    """Sum w_pq values_q over q for channels first ... first + COUNT, and w_pq counts_q.

    UNROLLED is radius_x where the taps of a row are laid out one after the other, else -1.
    """
    columns = tl.cdiv(width, TILE_X)
    rows = tl.cdiv(height, TILE_Y)
    program = tl.program_id(0)
    lane = tl.arange(0, TILE_Y * TILE_X)
    x = (program % columns) * TILE_X + lane % TILE_X
    y = (program // columns % rows) * TILE_Y + lane // TILE_X
    z = program // (columns * rows) % depth
    batch = (program // (columns * rows * depth)).to(tl.int64)
    live = (x < width) & (y < height)
    # Lanes beyond the edge repeat the last pixel: no load in the loop needs a mask.
    x = tl.minimum(x, width - 1)
    y = tl.minimum(y, height - 1)

    full_width = width + 2 * radius_x
    full_height = height + 2 * radius_y
    plane = tl.cast(depth + 2 * radius_z, tl.int64) * full_height * full_width
    values_ptr += (batch * channels + first) * plane
    counts_ptr += batch * plane
    guide_ptr += batch * GUIDE * plane
    here = ((z + radius_z) * full_height + y + radius_y) * full_width + x + radius_x
    own = _load_row(
        _pointers(guide_ptr, here, plane, GUIDE if HELD else 0), 0, GUIDE if HELD else 0, ACC
    )
    # exp(-t) as 2^(-t log2 e), which is one instruction.
    rate_z = tl.load(rates_ptr + batch * 4).to(ACC) * LOG2_E
    rate_y = tl.load(rates_ptr + batch * 4 + 1).to(ACC) * LOG2_E
    rate_x = tl.load(rates_ptr + batch * 4 + 2).to(ACC) * LOG2_E
    rate_range = tl.load(rates_ptr + batch * 4 + 3).to(ACC) * LOG2_E

    sums = _zeros(COUNT, TILE_Y * TILE_X, ACC)
    total = tl.zeros([TILE_Y * TILE_X], ACC)
    for dz in range(-radius_z, radius_z + 1):
        for dy in range(-radius_y, radius_y + 1):
            row = here + (dz * full_height + dy) * full_width
            row_space = -(dz * dz * rate_z + dy * dy * rate_y)
            # One pointer per channel and row: along the row the offset is part of the load.
            values = _pointers(values_ptr, row, plane, COUNT)
            guide = _pointers(guide_ptr, row, plane, GUIDE if HELD else 0)
            if UNROLLED >= 0:
                for dx in tl.static_range(-UNROLLED, UNROLLED + 1):
                    if (not DISC) or _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
                        space = row_space - dx * dx * rate_x
                        sums, total = _forward_tap(
                            values, counts_ptr, guide, guide_ptr, own, sums, total,
                            here, row, dx, plane, space, rate_range,
                            COUNT, GUIDE, HELD, SELF, COUNTED, L1, ACC,
                        )  # fmt: skip
            else:
                for dx in range(-radius_x, radius_x + 1):
                    if (not DISC) or _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
                        space = row_space - dx * dx * rate_x
                        sums, total = _forward_tap(
                            values, counts_ptr, guide, guide_ptr, own, sums, total,
                            here, row, dx, plane, space, rate_range,
                            COUNT, GUIDE, HELD, SELF, COUNTED, L1, ACC,
                        )  # fmt: skip

    size = tl.cast(depth, tl.int64) * height * width
    there = (z * height + y) * width + x
    for c in tl.static_range(COUNT):
        tl.store(sums_ptr + (batch * channels + first + c) * size + there, sums[c], mask=live)
    if first == 0:
        tl.store(total_ptr + batch * size + there, total, mask=live)


@triton.jit
def _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
    """Whether an offset lies in the ellipsoid of the radii, in integers: reach = their product.

    An axis of radius 0 is passed as 1: its only offset is 0.
    """
    a = dz * tl.maximum(radius_y, 1) * tl.maximum(radius_x, 1)
    b = dy * tl.maximum(radius_z, 1) * tl.maximum(radius_x, 1)
    c = dx * tl.maximum(radius_z, 1) * tl.maximum(radius_y, 1)
    return a * a + b * b + c * c <= reach * reach


@triton.jit
def _bilateral_backward_kernel(
    values_ptr, counts_ptr, guide_ptr, rates_ptr, grad_sums_ptr, grad_total_ptr,
    grad_values_ptr, grad_counts_ptr, grad_guide_ptr, grad_rates_ptr,
    channels, first, depth, height, width, radius_z, radius_y, radius_x, reach,
    COUNT: tl.constexpr, GUIDE: tl.constexpr, HELD: tl.constexpr, SELF: tl.constexpr,
    GUIDE_FIRST: tl.constexpr, GUIDE_COUNT: tl.constexpr,
    COUNTED: tl.constexpr, DISC: tl.constexpr, L1: tl.constexpr, ACC: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
):  # fmt: skip
    """Gradients at every pixel of the padded arrays, for one group of image and guide channels.

    The weight of centre p and source q has the gradient
    sum_c grad_sums_pc values_qc + grad_total_p counts_q; grad_total counts in the first group only.
    """
    full_width = width + 2 * radius_x
    full_height = height + 2 * radius_y
    full_depth = depth + 2 * radius_z
    columns = tl.cdiv(full_width, TILE_X)
    rows = tl.cdiv(full_height, TILE_Y)
    program = tl.program_id(0)
    lane = tl.arange(0, TILE_Y * TILE_X)
    x = (program % columns) * TILE_X + lane % TILE_X
    y = (program // columns % rows) * TILE_Y + lane // TILE_X
    # A vector like x and y, since what it is compared with is one.
    z = program // (columns * rows) % full_depth + 0 * lane
    batch = (program // (columns * rows * full_depth)).to(tl.int64)
    live = (x < full_width) & (y < full_height)

    plane = tl.cast(full_depth, tl.int64) * full_height * full_width
    size = tl.cast(depth, tl.int64) * height * width
    values_ptr += (batch * channels + first) * plane
    counts_ptr += batch * plane
    guide_ptr += batch * GUIDE * plane
    grad_sums_ptr += (batch * channels + first) * size
    grad_total_ptr += batch * size
    here = (z * full_height + y) * full_width + x
    own_values = _load_channels(values_ptr, here, plane, live, COUNT, ACC)
    own = _load_channels(guide_ptr, here, plane, live, GUIDE if HELD else 0, ACC)
    own_counts = tl.full([TILE_Y * TILE_X], 1.0, ACC)
    if COUNTED:
        own_counts = tl.load(counts_ptr + here, mask=live, other=0.0).to(ACC)
    rate_z = tl.load(rates_ptr + batch * 4).to(ACC)
    rate_y = tl.load(rates_ptr + batch * 4 + 1).to(ACC)
    rate_x = tl.load(rates_ptr + batch * 4 + 2).to(ACC)
    rate_range = tl.load(rates_ptr + batch * 4 + 3).to(ACC)

    # As a centre x counts only where it is a pixel of the output.
    cx, cy, cz = x - radius_x, y - radius_y, z - radius_z
    centre = live & (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
    centre &= (cz >= 0) & (cz < depth)
    centre_at = (cz * height + cy) * width + cx
    own_sums = _load_channels(grad_sums_ptr, centre_at, size, centre, COUNT, ACC)
    own_total = tl.zeros([TILE_Y * TILE_X], ACC)
    if first == 0:
        own_total = tl.load(grad_total_ptr + centre_at, mask=centre, other=0.0).to(ACC)

    grad_values = _zeros(COUNT, TILE_Y * TILE_X, ACC)
    grad_guide = _zeros(GUIDE_COUNT, TILE_Y * TILE_X, ACC)
    grad_counts = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_z = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_y = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_x = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_range = tl.zeros([TILE_Y * TILE_X], ACC)
    for dz in range(-radius_z, radius_z + 1):
        for dy in range(-radius_y, radius_y + 1):
            for dx in range(-radius_x, radius_x + 1):
                if (not DISC) or _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
                    there = here + (dz * full_height + dy) * full_width + dx
                    inside = live & (x + dx >= 0) & (x + dx < full_width)
                    inside &= (y + dy >= 0) & (y + dy < full_height)
                    inside &= (z + dz >= 0) & (z + dz < full_depth)
                    output = inside & (cx + dx >= 0) & (cx + dx < width)
                    output &= (cy + dy >= 0) & (cy + dy < height)
                    output &= (cz + dz >= 0) & (cz + dz < depth)
                    output_at = centre_at + (dz * height + dy) * width + dx

                    source = _load_channels(values_ptr, there, plane, inside, COUNT, ACC)
                    if SELF:
                        length = _length(own, source, GUIDE, L1)
                    elif HELD:
                        other = _load_channels(guide_ptr, there, plane, inside, GUIDE, ACC)
                        length = _length(own, other, GUIDE, L1)
                    else:
                        length = _length_of_many(
                            guide_ptr, here, there, plane, inside, GUIDE, L1, ACC
                        )
                    squared = length * length if L1 else length
                    space = dz * dz * rate_z + dy * dy * rate_y + dx * dx * rate_x
                    weight = tl.where(inside, tl.exp(-(space + squared * rate_range)), 0.0)

                    their_sums = _load_channels(grad_sums_ptr, output_at, size, output, COUNT, ACC)
                    gathers = own_total
                    gives = tl.zeros([TILE_Y * TILE_X], ACC)
                    if first == 0:
                        gives = tl.load(grad_total_ptr + output_at, mask=output, other=0.0).to(ACC)
                    if COUNTED:
                        grad_counts += weight * gives
                        gathers *= tl.load(counts_ptr + there, mask=inside, other=0.0).to(ACC)
                        gives *= own_counts
                    added = ()
                    for c in tl.static_range(COUNT):
                        gathers += own_sums[c] * source[c]
                        gives += their_sums[c] * own_values[c]
                        added = added + (grad_values[c] + weight * their_sums[c],)
                    grad_values = added

                    # d weight = -weight (offset^2 d rate_space + d (rate_range length^2)); the
                    # rates take their share in the role of the centre, so each pair counts once.
                    as_centre = weight * gathers
                    grad_z -= as_centre * (dz * dz)
                    grad_y -= as_centre * (dy * dy)
                    grad_x -= as_centre * (dx * dx)
                    grad_range -= as_centre * squared
                    pull = -2.0 * rate_range * weight * (gathers + gives)
                    pulled = ()
                    for c in tl.static_range(GUIDE_COUNT):
                        if HELD:
                            step = own[c] - (source[c] if SELF else other[c])
                        else:
                            at = (GUIDE_FIRST + c) * plane
                            mine = tl.load(guide_ptr + at + here, mask=live, other=0.0).to(ACC)
                            theirs = tl.load(guide_ptr + at + there, mask=inside, other=0.0)
                            step = mine - theirs.to(ACC)
                        if L1:
                            step = tl.where(step > 0, length, tl.where(step < 0, -length, 0.0))
                        pulled = pulled + (grad_guide[c] + pull * step,)
                    grad_guide = pulled

    for c in tl.static_range(COUNT):
        at = (batch * channels + first + c) * plane + here
        if SELF:
            tl.store(grad_values_ptr + at, grad_values[c] + grad_guide[c], mask=live)
        else:
            tl.store(grad_values_ptr + at, grad_values[c], mask=live)
    if not SELF:
        for c in tl.static_range(GUIDE_COUNT):
            at = (batch * GUIDE + GUIDE_FIRST + c) * plane + here
            tl.store(grad_guide_ptr + at, grad_guide[c], mask=live)
    if COUNTED:
        tl.store(grad_counts_ptr + batch * plane + here, grad_counts, mask=live)
    part = tl.cast(program, tl.int64) * 4
    tl.store(grad_rates_ptr + part, tl.sum(grad_z))
    tl.store(grad_rates_ptr + part + 1, tl.sum(grad_y))
    tl.store(grad_rates_ptr + part + 2, tl.sum(grad_x))
    tl.store(grad_rates_ptr + part + 3, tl.sum(grad_range))


def launch_forward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    radii: list[int],
    disc: bool,
    l1: bool,
) -> tuple[Tensor, Tensor]:
    """Return sum_q w_pq values_q (B, C, D, H, W) and sum_q w_pq counts_q (B, 1, D, H, W).

    Args:
        values: (B, C, D + 2 rz, H + 2 ry, W + 2 rx), padded by the radii.
        counts: (B, 1, ...), padded alike, or None for ones.
        guide: (B, G, ...), padded alike, or None where values are their own guide.
        rates: (B, 4), float32 or float64: 1 / (2 sigma^2) of the axes z, y, x and of the range.
        radii: Half-widths of the window along z, y, x.
        disc: Keep the ellipsoid of the radii instead of the box.
        l1: Sum of absolute differences over the guide's channels instead of the Euclidean length.
    """
    values, counts, guide, rates = _contiguous(values, counts, guide, rates)
    batch, channels, *padded = values.shape
    size = [n - 2 * r for n, r in zip(padded, radii, strict=True)]
    sums = torch.empty((batch, channels, *size), dtype=rates.dtype, device=values.device)
    total = torch.empty((batch, 1, *size), dtype=rates.dtype, device=values.device)
    programs = batch * size[0] * triton.cdiv(size[1], TILE_Y) * triton.cdiv(size[2], TILE_X)
    if programs == 0:
        return sums, total
    for first, options in _groups(values, counts, guide, rates, disc, l1):
        _bilateral_forward_kernel[(programs,)](
            values,
            values if counts is None else counts,
            values if guide is None else guide,
            rates,
            sums,
            total,
            channels,
            first,
            *size,
            *radii,
            _reach(radii),
            UNROLLED=radii[2] if radii[2] <= UNROLLED_UP_TO else -1,
            **options,
        )
    return sums, total


def launch_backward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    grad_sums: Tensor,
    grad_total: Tensor,
    radii: list[int],
    disc: bool,
    l1: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of values, counts, guide and rates; empty for what is None."""
    values, counts, guide, rates = _contiguous(values, counts, guide, rates)
    grad_sums, grad_total = grad_sums.contiguous(), grad_total.contiguous()
    batch, channels, *padded = values.shape
    if guide is None and channels > GROUP:
        gradients = launch_backward(
            values, counts, values, rates, grad_sums, grad_total, radii, disc, l1
        )
        return gradients[0] + gradients[2], gradients[1], rates.new_empty(0), gradients[3]
    size = [n - 2 * r for n, r in zip(padded, radii, strict=True)]

    def new(like: Tensor | None) -> Tensor:
        return rates.new_empty((0,) if like is None else like.shape)

    tiles = padded[0] * triton.cdiv(padded[1], TILE_Y) * triton.cdiv(padded[2], TILE_X)
    grad_values, grad_guide, grad_counts = new(values), new(guide), new(counts)
    grad_rates = torch.zeros_like(rates)
    if batch * tiles == 0:
        return grad_values, grad_counts, grad_guide, grad_rates
    for first, options in _groups(values, counts, guide, rates, disc, l1):
        # Guide, counts and rates sum over the groups of channels: later groups add a part.
        parts = (grad_guide, grad_counts) if first == 0 else (new(guide), new(counts))
        rates_part = rates.new_empty(batch, tiles, 4)
        for guide_first in range(0, options["GUIDE"], GROUP):
            _bilateral_backward_kernel[(batch * tiles,)](
                values,
                values if counts is None else counts,
                values if guide is None else guide,
                rates,
                grad_sums,
                grad_total,
                grad_values,
                parts[1],
                parts[0],
                rates_part,
                channels,
                first,
                *size,
                *radii,
                _reach(radii),
                GUIDE_FIRST=guide_first,
                GUIDE_COUNT=min(GROUP, options["GUIDE"] - guide_first),
                **options,
            )
        grad_rates += rates_part.sum(1)
        if first > 0:
            grad_guide += parts[0]
            grad_counts += parts[1]
    return grad_values, grad_counts, grad_guide, grad_rates


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _reach(radii: list[int]) -> int:
    return math.prod(max(radius, 1) for radius in radii)


def _groups(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    disc: bool,
    l1: bool,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first channel and the constants of each launch."""
    channels = values.shape[1]
    own_guide = guide is None and channels <= GROUP
    for first in range(0, channels, GROUP):
        yield (
            first,
            {
                "COUNT": min(GROUP, channels - first),
                "GUIDE": channels if guide is None else guide.shape[1],
                "HELD": (channels if guide is None else guide.shape[1]) <= GROUP,
                "SELF": own_guide,
                "COUNTED": counts is not None,
                "DISC": disc,
                "L1": l1,
                "ACC": tl.float64 if rates.dtype == torch.float64 else tl.float32,
                "TILE_Y": TILE_Y,
                "TILE_X": TILE_X,
            },
        )
