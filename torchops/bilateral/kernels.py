"""Triton kernels of the exact bilateral filter: forward, and a backward that recomputes weights.

For every pixel x of the output they visit the partners y = x + d of its window in arrays that were
padded by the border rule, so no window leaves its array. The weight of a pair is symmetric: one
visit in the backward serves both roles of x, as the centre whose sum gathers from y and as the
source that the sum of y gathers from. Everything is a gather, nothing is atomic; the result is the
same bits in every run.

Kernels know no autograd; `kernels_launch` starts them. Numbers are cast at load and accumulated in
float32, or in float64 when the rates are float64.
"""

import triton
import triton.language as tl

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
def _load_masked(pointers, inside, COUNT: tl.constexpr, ACC: tl.constexpr):
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(pointers[c], mask=inside, other=0.0).to(ACC),)
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
    guide_ptr, here, there, plane, COUNT: tl.constexpr, L1: tl.constexpr, ACC: tl.constexpr
):
    """The same for more channels than registers hold: both values are read as they are needed."""
    total = tl.zeros(there.shape, ACC)
    for c in range(COUNT):
        at = guide_ptr + c * plane
        step = tl.load(at + here).to(ACC) - tl.load(at + there).to(ACC)
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
        length = _length_of_many(guide_ptr, here, there + dx, plane, GUIDE, L1, ACC)
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
                for dx in tl.range(-radius_x, radius_x + 1, loop_unroll_factor=4):
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
def _backward_tap(
    values, counts, guide, guide_ptr, grad_sums, grad_total, own, own_values, own_counts,
    own_sums, own_total, grad_values, grad_counts, grad_guide, grad_range, grad_x, grad_row,
    here, there, dx, plane, space, rate_range,
    COUNT: tl.constexpr, GUIDE: tl.constexpr, HELD: tl.constexpr, SELF: tl.constexpr,
    GUIDE_FIRST: tl.constexpr, GUIDE_COUNT: tl.constexpr, TOTAL: tl.constexpr,
    RATES: tl.constexpr, COUNTED: tl.constexpr, L1: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add one partner to the gradients, in both roles of a pixel: centre, and source of others."""
    source = _load_row(values, dx, COUNT, ACC)
    if SELF:
        other = source
        length = _length(own, other, GUIDE, L1)
    elif HELD:
        other = _load_row(guide, dx, GUIDE, ACC)
        length = _length(own, other, GUIDE, L1)
    else:
        length = _length_of_many(guide_ptr, here, there + dx, plane, GUIDE, L1, ACC)
    squared = length * length if L1 else length
    weight = tl.exp2(space - squared * rate_range)

    their_sums = _load_row(grad_sums, dx, COUNT, ACC)
    gathers = own_total
    gives = tl.zeros(weight.shape, ACC)
    if TOTAL:
        gives = tl.load(grad_total + dx).to(ACC)
    if COUNTED:
        grad_counts += weight * gives
        gathers *= tl.load(counts + dx).to(ACC)
        gives *= own_counts
    added = ()
    for c in tl.static_range(COUNT):
        gathers += own_sums[c] * source[c]
        gives += their_sums[c] * own_values[c]
        added = added + (grad_values[c] + weight * their_sums[c],)

    # d weight = -weight (offset^2 d rate_space + d (rate_range length^2)); the rates take their
    # share in the role of the centre, so each pair counts once.
    if RATES:
        as_centre = weight * gathers
        grad_range += as_centre * squared
        grad_x += as_centre * (dx * dx)
        grad_row += as_centre
    pull = weight * (gathers + gives)
    pulled = ()
    for c in tl.static_range(GUIDE_COUNT):
        if HELD:
            step = own[c] - other[c]
        else:
            at = guide_ptr + (GUIDE_FIRST + c) * plane
            step = tl.load(at + here).to(ACC) - tl.load(at + there + dx).to(ACC)
        if L1:
            step = tl.where(step > 0, length, tl.where(step < 0, -length, 0.0))
        pulled = pulled + (grad_guide[c] + pull * step,)
    return added, grad_counts, pulled, grad_range, grad_x, grad_row


@triton.jit
def _bilateral_backward_kernel(
    values_ptr, counts_ptr, guide_ptr, rates_ptr, grad_sums_ptr, grad_total_ptr,
    grad_values_ptr, grad_counts_ptr, grad_guide_ptr, grad_rates_ptr,
    channels, first, depth, height, width, radius_z, radius_y, radius_x, reach,
    UNROLLED: tl.constexpr, COUNT: tl.constexpr, GUIDE: tl.constexpr, HELD: tl.constexpr,
    SELF: tl.constexpr, GUIDE_FIRST: tl.constexpr, GUIDE_COUNT: tl.constexpr,
    TOTAL: tl.constexpr, RATES: tl.constexpr, COUNTED: tl.constexpr, DISC: tl.constexpr,
    L1: tl.constexpr, ACC: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
):  # fmt: skip
    """Gradients at every pixel of arrays with one margin, for a group of image and guide channels.

    The arrays that are read have two margins, the incoming gradients 0 in both, so no load leaves
    its array and what lies outside adds nothing. The weight of centre p and source q has the
    gradient sum_c grad_sums_pc values_qc + grad_total_p counts_q, the last term where TOTAL.
    """
    full_width = width + 2 * radius_x
    full_height = height + 2 * radius_y
    full_depth = depth + 2 * radius_z
    wide_width = full_width + 2 * radius_x
    wide_height = full_height + 2 * radius_y
    columns = tl.cdiv(full_width, TILE_X)
    rows = tl.cdiv(full_height, TILE_Y)
    program = tl.program_id(0)
    lane = tl.arange(0, TILE_Y * TILE_X)
    x = (program % columns) * TILE_X + lane % TILE_X
    y = (program // columns % rows) * TILE_Y + lane // TILE_X
    z = program // (columns * rows) % full_depth
    batch = (program // (columns * rows * full_depth)).to(tl.int64)
    live = (x < full_width) & (y < full_height)
    x = tl.minimum(x, full_width - 1)
    y = tl.minimum(y, full_height - 1)

    plane = tl.cast(full_depth + 2 * radius_z, tl.int64) * wide_height * wide_width
    values_ptr += (batch * channels + first) * plane
    counts_ptr += batch * plane
    guide_ptr += batch * GUIDE * plane
    grad_sums_ptr += (batch * channels + first) * plane
    grad_total_ptr += batch * plane
    here = ((z + radius_z) * wide_height + y + radius_y) * wide_width + x + radius_x
    own_values = _load_row(_pointers(values_ptr, here, plane, COUNT), 0, COUNT, ACC)
    own = _load_row(
        _pointers(guide_ptr, here, plane, GUIDE if HELD else 0), 0, GUIDE if HELD else 0, ACC
    )
    own_counts = tl.full([TILE_Y * TILE_X], 1.0, ACC)
    if COUNTED:
        own_counts = tl.load(counts_ptr + here).to(ACC)
    rate_z = tl.load(rates_ptr + batch * 4).to(ACC)
    rate_y = tl.load(rates_ptr + batch * 4 + 1).to(ACC)
    rate_x = tl.load(rates_ptr + batch * 4 + 2).to(ACC)
    rate_range = tl.load(rates_ptr + batch * 4 + 3).to(ACC)
    # A lane that repeats the last pixel must not add to the sums over the tile.
    own_sums = _load_masked(_pointers(grad_sums_ptr, here, plane, COUNT), live, COUNT, ACC)
    own_total = tl.zeros([TILE_Y * TILE_X], ACC)
    if TOTAL:
        own_total = tl.load(grad_total_ptr + here, mask=live, other=0.0).to(ACC)

    grad_values = _zeros(COUNT, TILE_Y * TILE_X, ACC)
    grad_guide = _zeros(GUIDE_COUNT, TILE_Y * TILE_X, ACC)
    grad_counts = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_z = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_y = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_x = tl.zeros([TILE_Y * TILE_X], ACC)
    grad_range = tl.zeros([TILE_Y * TILE_X], ACC)
    for dz in range(-radius_z, radius_z + 1):
        for dy in range(-radius_y, radius_y + 1):
            row = here + (dz * wide_height + dy) * wide_width
            row_space = -(dz * dz * rate_z + dy * dy * rate_y)
            values = _pointers(values_ptr, row, plane, COUNT)
            guide = _pointers(guide_ptr, row, plane, GUIDE if HELD else 0)
            grad_sums = _pointers(grad_sums_ptr, row, plane, COUNT)
            counts = counts_ptr + row
            grad_total = grad_total_ptr + row
            grad_row = tl.zeros([TILE_Y * TILE_X], ACC)
            if UNROLLED >= 0:
                for dx in tl.static_range(-UNROLLED, UNROLLED + 1):
                    if (not DISC) or _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
                        space = (row_space - dx * dx * rate_x) * LOG2_E
                        grad_values, grad_counts, grad_guide, grad_range, grad_x, grad_row = (
                            _backward_tap(
                                values, counts, guide, guide_ptr, grad_sums, grad_total, own,
                                own_values, own_counts, own_sums, own_total, grad_values,
                                grad_counts, grad_guide, grad_range, grad_x, grad_row,
                                here, row, dx, plane, space, rate_range * LOG2_E,
                                COUNT, GUIDE, HELD, SELF, GUIDE_FIRST, GUIDE_COUNT, TOTAL, RATES,
                                COUNTED, L1, ACC,
                            )
                        )  # fmt: skip
            else:
                for dx in tl.range(-radius_x, radius_x + 1, loop_unroll_factor=2):
                    if (not DISC) or _in_disc(dz, dy, dx, radius_z, radius_y, radius_x, reach):
                        space = (row_space - dx * dx * rate_x) * LOG2_E
                        grad_values, grad_counts, grad_guide, grad_range, grad_x, grad_row = (
                            _backward_tap(
                                values, counts, guide, guide_ptr, grad_sums, grad_total, own,
                                own_values, own_counts, own_sums, own_total, grad_values,
                                grad_counts, grad_guide, grad_range, grad_x, grad_row,
                                here, row, dx, plane, space, rate_range * LOG2_E,
                                COUNT, GUIDE, HELD, SELF, GUIDE_FIRST, GUIDE_COUNT, TOTAL, RATES,
                                COUNTED, L1, ACC,
                            )
                        )  # fmt: skip
            if RATES:
                grad_z += grad_row * (dz * dz)
                grad_y += grad_row * (dy * dy)

    full = tl.cast(full_depth, tl.int64) * full_height * full_width
    there = (z * full_height + y) * full_width + x
    for c in tl.static_range(COUNT):
        at = (batch * channels + first + c) * full + there
        if SELF:
            gradient = grad_values[c] - 2.0 * rate_range * grad_guide[c]
            tl.store(grad_values_ptr + at, gradient, mask=live)
        else:
            tl.store(grad_values_ptr + at, grad_values[c], mask=live)
    if not SELF:
        for c in tl.static_range(GUIDE_COUNT):
            at = (batch * GUIDE + GUIDE_FIRST + c) * full + there
            tl.store(grad_guide_ptr + at, -2.0 * rate_range * grad_guide[c], mask=live)
    if COUNTED:
        tl.store(grad_counts_ptr + batch * full + there, grad_counts, mask=live)
    if RATES:
        part = grad_rates_ptr + tl.cast(program, tl.int64) * 4
        tl.store(part, -tl.sum(grad_z))
        tl.store(part + 1, -tl.sum(grad_y))
        tl.store(part + 2, -tl.sum(grad_x))
        tl.store(part + 3, -tl.sum(grad_range))
