"""Triton kernels of the alignment: one look at the images in one launch, and the P x P systems.

A program owns one channel of one sample and a part of the template's pixels; it warps them, samples
the image, compares and sums up, without any image per parameter or per pixel in memory. Nothing is
atomic: the sums of the programs are added up in a fixed order, the result is the same bits in every
run.

Kernels know no autograd. A lane sums in the images' dtype over a few hundred pixels, lanes and
programs in float64.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # pixels that a program looks at together: one per thread
SAMPLES = 32  # systems that a program solves together: one per thread
PROGRAMS = 1024  # keep a GPU of 132 multiprocessors busy
LONGEST = 256  # numbers that a lane adds up before float64 takes over
PARAMETERS = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}

# In standard deviations, as in objective.py.
HUBER, TUKEY = tl.constexpr(1.345), tl.constexpr(4.685)


@triton.jit
def _zeros(COUNT: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.full([SIZE], 0.0, ACC),)
    return values


@triton.jit
def _split(value, ACC: tl.constexpr):
    """Return a float64 number as two of ``ACC``."""
    high = value.to(ACC)
    return high, (value - high.to(tl.float64)).to(ACC)


@triton.jit
def _read_warp(
    matrix_ptr, height, width, image_height, image_width, EPS: tl.constexpr, ACC: tl.constexpr
):
    """Prepare the warp of a sample for pixels (x, y) counted from the template's centre.

    Positions are relative to the whole pixel (u0, v0) at the template's centre, so that float32
    numbers hold them as well far from the image's origin as near it:
    u - u0 = ((a - u0 g) x + (b - u0 h) y + (c - u0 i)) / (g x + h y + i). A first-order entry is
    split in two, because its rounding would move all pixels alike.
    """
    longest = tl.maximum(tl.maximum(height, width) - 1, 1).to(tl.float64)
    a = tl.load(matrix_ptr) * 2.0 / longest
    b = tl.load(matrix_ptr + 1) * 2.0 / longest
    c = tl.load(matrix_ptr + 2)
    d = tl.load(matrix_ptr + 3) * 2.0 / longest
    e = tl.load(matrix_ptr + 4) * 2.0 / longest
    f = tl.load(matrix_ptr + 5)
    g = tl.load(matrix_ptr + 6) * 2.0 / longest
    h = tl.load(matrix_ptr + 7) * 2.0 / longest
    i = tl.load(matrix_ptr + 8)
    size = tl.abs(i)
    size = 1.0 / tl.where(size > 0, size, 1.0)
    a, b, c, d, e, f = a * size, b * size, c * size, d * size, e * size, f * size
    g, h, i = g * size, h * size, i * size
    # A centre far outside, or none at all, needs no pixel near it.
    u0 = tl.floor(c * i)
    v0 = tl.floor(f * i)
    u0 = tl.where(tl.abs(u0) < 16777216.0, u0, 0.0)
    v0 = tl.where(tl.abs(v0) < 16777216.0, v0, 0.0)
    a_high, a_low = _split(a - u0 * g, ACC)
    b_high, b_low = _split(b - u0 * h, ACC)
    d_high, d_low = _split(d - v0 * g, ACC)
    e_high, e_low = _split(e - v0 * h, ACC)
    # A warp may miss the centres of the border pixels by rounding, as in the plain path.
    slack = tl.maximum(image_height, image_width) - 1
    slack = tl.maximum(2.0 * EPS, 1e-6 / tl.maximum(slack, 1).to(tl.float64))
    right = image_width - 1 - u0
    bottom = image_height - 1 - v0
    slack_x = slack * tl.maximum(image_width - 1, 1)
    slack_y = slack * tl.maximum(image_height - 1, 1)
    return (
        (a_high, a_low, b_high, b_low, (c - u0 * i).to(ACC)),
        (d_high, d_low, e_high, e_low, (f - v0 * i).to(ACC)),
        (g.to(ACC), h.to(ACC), i.to(ACC)),
        ((-u0).to(ACC), right.to(ACC), (-u0 - slack_x).to(ACC), (right + slack_x).to(ACC)),
        ((-v0).to(ACC), bottom.to(ACC), (-v0 - slack_y).to(ACC), (bottom + slack_y).to(ACC)),
        (u0.to(tl.int32), v0.to(tl.int32)),
    )


@triton.jit
def _place(warp, x, y, image_height, image_width):
    """Warp template pixels.

    Returns:
        Four neighbours in a plane of the image and the fractions between them; the position
        relative to (u0, v0) and one over its depth; whether it is inside.
    """
    a_high, a_low, b_high, b_low, c = warp[0]
    d_high, d_low, e_high, e_low, f = warp[1]
    g, h, i = warp[2]
    left, right, least_u, most_u = warp[3]
    top, bottom, least_v, most_v = warp[4]
    depth = g * x + (h * y + i)
    before = depth > 0
    over = 1.0 / tl.where(before, depth, 1.0)
    u = (a_high * x + (b_high * y + (a_low * x + (b_low * y + c)))) * over
    v = (d_high * x + (e_high * y + (d_low * x + (e_low * y + f)))) * over
    inside = before & (u >= least_u) & (u <= most_u) & (v >= least_v) & (v <= most_v)
    near_u = tl.minimum(tl.maximum(tl.where(inside, u, left), left), right)
    near_v = tl.minimum(tl.maximum(tl.where(inside, v, top), top), bottom)
    floor_u, floor_v = tl.floor(near_u), tl.floor(near_v)
    column = floor_u.to(tl.int32) + warp[5][0]
    line = floor_v.to(tl.int32) + warp[5][1]
    across = (column < image_width - 1).to(tl.int32)
    down = tl.where(line < image_height - 1, image_width, 0)
    at = line * image_width + column, across, down, near_u - floor_u, near_v - floor_v
    return at, (u, v, over), inside


@triton.jit
def _interpolate(image_ptr, at):
    """Sample bilinearly; one NaN among the four neighbours makes NaN, whatever its weight."""
    here, across, down, s, t = at
    upper = image_ptr + here
    lower = upper + down
    a, b = tl.load(upper), tl.load(upper + across)
    c, d = tl.load(lower), tl.load(lower + across)
    first = a + s * (b - a)
    second = c + s * (d - c)
    return first + t * (second - first)


@triton.jit
def _step_to(
    image_ptr, counts_ptr, warp, own, seen, x, y, at, exists, DX: tl.constexpr, DY: tl.constexpr,
    width, image_height, image_width,
):  # fmt: skip
    """Return the warped image's step from a pixel to a neighbour, and whether both count."""
    where, _, inside = _place(warp, x + DX, y + DY, image_height, image_width)
    value = _interpolate(image_ptr, where)
    exists = seen & exists
    counts = tl.load(counts_ptr + at + DY * width + DX, mask=exists, other=0) != 0
    both = exists & counts & inside & (value == value)
    return tl.where(both, value - own, 0.0) * (DX + DY), both.to(value.dtype)


@triton.jit
def _warped_gradient(
    image_ptr, counts_ptr, warp, own, seen, x, y, column, line, at, height, width,
    image_height, image_width,
):  # fmt: skip
    """Differentiate the warped image as template.image_gradient does: one-sided at holes."""
    after, number = _step_to(
        image_ptr, counts_ptr, warp, own, seen, x, y, at, column < width - 1, 1, 0, width,
        image_height, image_width,
    )  # fmt: skip
    before, other = _step_to(
        image_ptr, counts_ptr, warp, own, seen, x, y, at, column > 0, -1, 0, width,
        image_height, image_width,
    )  # fmt: skip
    gx = (after + before) * tl.where(number + other > 1.5, 0.5, 1.0)
    after, number = _step_to(
        image_ptr, counts_ptr, warp, own, seen, x, y, at, line < height - 1, 0, 1, width,
        image_height, image_width,
    )  # fmt: skip
    before, other = _step_to(
        image_ptr, counts_ptr, warp, own, seen, x, y, at, line > 0, 0, -1, width,
        image_height, image_width,
    )  # fmt: skip
    gy = (after + before) * tl.where(number + other > 1.5, 0.5, 1.0)
    return gx, gy


@triton.jit
def _steepest_descent(gx, gy, x, y, MOTION: tl.constexpr):
    """Return the gradient times the Jacobian of the motion at the identity."""
    along = x * gx + y * gy
    around = x * gy - y * gx
    if MOTION == "translation":
        return gx, gy
    if MOTION == "euclidean":
        return around, gx, gy
    if MOTION == "similarity":
        return along, around, gx, gy
    if MOTION == "affine":
        return x * gx, x * gy, y * gx, y * gy, gx, gy
    return x * gx, x * gy, y * gx, y * gy, gx, gy, -x * along, -y * along


@triton.constexpr_function
def _row(i, count):
    """Return where row ``i`` of an upper triangle begins."""
    return i * count - i * (i - 1) // 2


@triton.jit
def _add_vector(sums, vector, factor, COUNT: tl.constexpr):
    added = ()
    for i in tl.static_range(COUNT):
        added = added + (sums[i] + vector[i] * factor,)
    return added


@triton.jit
def _add_outer(
    sums, vector, factor, COUNT: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr
):  # fmt: skip
    """Add factor * vector vector^T, of the upper triangle the rows FIRST to LAST - 1."""
    added = ()
    for i in tl.static_range(FIRST, LAST):
        for j in tl.static_range(i, COUNT):
            own = sums[_row(i, COUNT) + j - i - _row(FIRST, COUNT)]
            added = added + (own + (vector[i] * factor) * vector[j],)
    return added


@triton.jit
def _eight(sums, first, COUNT: tl.constexpr):
    values = ()
    for k in tl.static_range(first, first + 8):
        values = values + (sums[k if k < COUNT else 0],)
    return values


@triton.jit
def _store(
    sums_ptr, sums, known_ptr, known, KNOWN: tl.constexpr, P: tl.constexpr, FIRST: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """Write sums over the lanes, eight at a time: a symmetric (P, P) matrix and what follows.

    The matrix comes as its upper triangle; FIRST is how many sums went before. If KNOWN, add a
    matrix that is known already where ``known``.
    """
    for block in tl.static_range(0, COUNT, 8):
        a, b, c, d, e, f, g, h = _eight(sums, block, COUNT)
        even = tl.join(tl.join(a, e), tl.join(c, g))
        odd = tl.join(tl.join(b, f), tl.join(d, h))
        joined = tl.join(even, odd)
        total = tl.sum(tl.reshape(joined, [joined.shape[0], 8]).to(tl.float64), 0)
        k = block + tl.arange(0, 8)
        ours = k < COUNT
        k += FIRST
        if FIRST + block < _row(P, P):
            row = tl.full([8], 0, tl.int32)
            for i in tl.static_range(1, P):
                row += (k >= _row(i, P)).to(tl.int32)
            column = k - (row * P - row * (row - 1) // 2) + row
            within = ours & (k < _row(P, P))
            if KNOWN:
                total += tl.load(known_ptr + row * P + column, mask=within & known, other=0.0)
            tl.store(sums_ptr + row * P + column, total, mask=within)
            tl.store(sums_ptr + column * P + row, total, mask=within & (row != column))
        if FIRST + block + 8 > _row(P, P):
            beyond = ours & (k >= _row(P, P))
            tl.store(sums_ptr + P * P + k - _row(P, P), total, mask=beyond)


@triton.jit
def _loss(squared, far, ROBUST: tl.constexpr):
    """Return rho(r) of r^2, residuals in standard deviations; far off Huber's of Tukey's."""
    # In the dtype of the numbers: a bare constant would be rounded to float32.
    limit = tl.full(squared.shape, HUBER * HUBER, squared.dtype)
    r = tl.sqrt(tl.maximum(squared, limit))
    loss = tl.where(squared < limit, squared * 0.5, HUBER * r - limit * 0.5)
    if ROBUST == "tukey":
        inside = 1.0 - tl.minimum(squared / (TUKEY * TUKEY), 1.0)
        own = TUKEY * TUKEY / 6 * (1.0 - inside * inside * inside)
        loss = tl.where(far, loss, own)
    return loss


@triton.jit
def _weight(squared, far, ROBUST: tl.constexpr):
    """Return rho'(r) / r of r^2."""
    limit = tl.full(squared.shape, HUBER * HUBER, squared.dtype)
    weight = HUBER / tl.sqrt(tl.maximum(squared, limit))
    if ROBUST == "tukey":
        inside = 1.0 - tl.minimum(squared / (TUKEY * TUKEY), 1.0)
        weight = tl.where(far, weight, inside * inside)
    return weight


@triton.jit
def _look(
    template_ptr, counts_ptr, gradient_ptr, image_ptr, warp, column, line, live, contrast,
    channels, height, width, image_height, image_width, ALGORITHM: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Look at one template pixel per lane.

    Returns:
        The template's value, the warped image's, the gradient that the algorithm linearises with
        in normalised coordinates (0 where the pixel does not count), the pixel's normalised
        coordinates, and whether it counts.
    """
    at = line * width + column
    x = column.to(ACC) - 0.5 * (width - 1).to(ACC)
    y = line.to(ACC) - 0.5 * (height - 1).to(ACC)
    unit = 0.5 * tl.maximum(tl.maximum(height, width) - 1, 1).to(ACC)
    over_unit = 1.0 / unit
    where, position, inside = _place(warp, x, y, image_height, image_width)
    value = _interpolate(image_ptr, where)
    counts = tl.load(counts_ptr + at, mask=live, other=0) != 0
    seen = live & counts & inside & (value == value)
    own = tl.load(template_ptr + at, mask=live, other=0.0)
    plane = tl.cast(height, tl.int64) * width
    if ALGORITHM == "inverse_compositional" or ALGORITHM == "esm":
        gx = tl.load(gradient_ptr + at, mask=live, other=0.0)
        gy = tl.load(gradient_ptr + channels * plane + at, mask=live, other=0.0)
    if ALGORITHM == "forward_additive":
        # The image's slopes, and the chain rule of the warp.
        slope = tl.cast(image_height, tl.int64) * image_width * channels
        u, v, over = position
        du = _interpolate(image_ptr + slope, where) * over * unit
        dv = _interpolate(image_ptr + 2 * slope, where) * over * unit
        g, h, _ = warp[2]
        gx = du * (warp[0][0] - u * g) + dv * (warp[1][0] - v * g)
        gy = du * (warp[0][2] - u * h) + dv * (warp[1][2] - v * h)
    if ALGORITHM == "forward_compositional" or ALGORITHM == "esm":
        wx, wy = _warped_gradient(
            image_ptr, counts_ptr, warp, value, seen, x, y, column, line, at, height, width,
            image_height, image_width,
        )  # fmt: skip
        if ALGORITHM == "esm":
            gx = 0.5 * (wx * unit + contrast * gx)
            gy = 0.5 * (wy * unit + contrast * gy)
        else:
            gx, gy = wx * unit, wy * unit
    gx = tl.where(seen, gx, 0.0)
    gy = tl.where(seen, gy, 0.0)
    return own, value, gx, gy, x * over_unit, y * over_unit, seen


@triton.constexpr_function
def _rounds(count):
    return 1 if count <= 4 else 2 if count == 6 else 3


@triton.constexpr_function
def _border(n, count):
    """Return the first row of H that round ``n`` sums up: rounds of at most 15 sums."""
    return ((0, 2, 4, 8) if count == 8 else (0, 2, 6) if count == 6 else (0, count))[n]


@triton.jit
def _next(column, line, width, BLOCK: tl.constexpr):
    column += BLOCK % width
    line += BLOCK // width
    wraps = column >= width
    return tl.where(wraps, column - width, column), line + wraps.to(tl.int32)


@triton.jit
def _alignment_sums_kernel(
    template_ptr, counts_ptr, gradient_ptr, image_ptr, matrix_ptr, number_ptr, known_ptr,
    extra_ptr, residual_ptr, sums_ptr,
    channels, image_channels, height, width, image_height, image_width,
    template_step, image_step, splits, part,
    MOTION: tl.constexpr, ALGORITHM: tl.constexpr, OBJECTIVE: tl.constexpr, SKIP: tl.constexpr,
    P: tl.constexpr, SIZE: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum up for the Gauss-Newton system: H (P, P), b (P), and what the objective adds.

    OBJECTIVE "ssd": sum of squares, number of pixels. "huber", "tukey": the loss at the two scales
    of ``extra``, each followed by whether Tukey's function waits there. "ecc": a second vector, the
    sums of the gradient (P), the unexplained power; ``extra`` holds a channel's two means, the
    contrast's root and the gain.

    SKIP: where every pixel of the template is seen, H is the one of ``known``. Then one program
    owns all pixels of a channel, and looks a second time only where some are missing.
    """
    program = tl.program_id(0)
    split = program % splits
    channel = program // splits % channels
    sample = (program // (splits * channels)).to(tl.int64)
    plane = tl.cast(height, tl.int64) * width
    own_template = sample * template_step
    template_ptr += (own_template * channels + channel) * plane
    counts_ptr += own_template * plane
    gradient_ptr += (own_template * 2 * channels + channel) * plane
    image_plane = tl.cast(image_height, tl.int64) * image_width
    image_ptr += (sample * image_step * image_channels + channel) * image_plane
    warp = _read_warp(
        matrix_ptr + sample * 9, height, width, image_height, image_width, EPS, ACC
    )  # fmt: skip
    first = split * part
    last = tl.minimum(first + part, height * width)
    trips = tl.cdiv(last - first, BLOCK)
    at = first + tl.arange(0, BLOCK)
    column = at % width
    line = at // width

    contrast = 1.0
    if OBJECTIVE == "ecc":
        extra_ptr += (sample * channels + channel) * 4
        own_mean = tl.load(extra_ptr).to(ACC)
        mean = tl.load(extra_ptr + 1).to(ACC)
        contrast = tl.load(extra_ptr + 2).to(ACC)
        gain = tl.load(extra_ptr + 3).to(ACC)
    ROBUST: tl.constexpr = OBJECTIVE == "huber" or OBJECTIVE == "tukey"
    if ROBUST:
        extra_ptr += sample * 4
        scale = tl.load(extra_ptr).to(ACC)
        far = tl.load(extra_ptr + 1) != 0
        trial_scale = tl.load(extra_ptr + 2).to(ACC)
        trial_far = tl.load(extra_ptr + 3) != 0
        residual_ptr += sample * channels * plane

    outer = _zeros(0 if SKIP else _row(P, P), BLOCK, ACC)
    vector = _zeros(P, BLOCK, ACC)
    second = _zeros(P if OBJECTIVE == "ecc" else 0, BLOCK, ACC)
    means = _zeros(P if OBJECTIVE == "ecc" else 0, BLOCK, ACC)
    squares = tl.full([BLOCK], 0.0, ACC)
    trial = tl.full([BLOCK], 0.0, ACC)
    number = tl.full([BLOCK], 0.0, ACC)
    for _ in range(trips):
        live = at < last
        own, value, gx, gy, x, y, seen = _look(
            template_ptr, counts_ptr, gradient_ptr, image_ptr, warp, column, line, live, contrast,
            channels, height, width, image_height, image_width, ALGORITHM, ACC,
        )  # fmt: skip
        if ROBUST:
            # A pixel is an outlier with all its channels.
            residual = tl.load(residual_ptr + channel * plane + at, mask=live, other=0.0)
            seen = live & (residual == residual)
            squared = tl.full([BLOCK], 0.0, ACC)
            for c in range(channels):
                other = tl.load(residual_ptr + c * plane + at, mask=seen, other=0.0)
                squared += other * other
            squared = squared / channels
            gx = tl.where(seen, gx, 0.0)
            gy = tl.where(seen, gy, 0.0)
        descent = _steepest_descent(gx, gy, x, y, MOTION)
        if ROBUST:
            weight = _weight(squared / (scale * scale), far, OBJECTIVE)
            weight = tl.where(seen, weight, 0.0)
            loss = _loss(squared / (scale * scale), far, OBJECTIVE)
            squares += tl.where(seen, loss, 0.0)
            loss = _loss(squared / (trial_scale * trial_scale), trial_far, OBJECTIVE)
            trial += tl.where(seen, loss, 0.0)
            outer = _add_outer(outer, descent, weight, P, 0, P)
            vector = _add_vector(vector, descent, weight * tl.where(seen, residual, 0.0), P)
        elif OBJECTIVE == "ecc":
            if ALGORITHM == "inverse_compositional":
                fixed, moving = value - mean, own - own_mean
            else:
                fixed, moving = own - own_mean, value - mean
            fixed = tl.where(seen, fixed, 0.0)
            rest = tl.where(seen, moving - gain * fixed, 0.0)
            squares += rest * rest
            outer = _add_outer(outer, descent, 1.0, P, 0, P)
            vector = _add_vector(vector, descent, fixed, P)
            second = _add_vector(second, descent, rest, P)
            means = _add_vector(means, descent, 1.0, P)
        else:
            residual = tl.where(seen, value - own, 0.0)
            squares += residual * residual
            number += seen.to(ACC)
            vector = _add_vector(vector, descent, residual, P)
            if not SKIP:
                outer = _add_outer(outer, descent, 1.0, P, 0, P)
        at += BLOCK
        column, line = _next(column, line, width, BLOCK)

    sums = vector
    if OBJECTIVE == "ecc":
        sums = sums + second + means + (squares,)
    elif ROBUST:
        sums = sums + (squares, trial)
    else:
        sums = sums + (squares, number)
    sums_ptr += tl.cast(program, tl.int64) * SIZE
    if SKIP:
        _store(sums_ptr, sums, known_ptr, False, False, P, _row(P, P), SIZE - P * P)
        missing = tl.sum(number) != tl.load(number_ptr + own_template)
        trips = tl.where(missing, trips, 0)
        known = (channel == 0) & (missing == 0)
        known_ptr += own_template * (P * P)
        # A few rows of H at a time: all of them would take the registers that the first look needs
        # to wait for the memory with many threads.
        for n in tl.static_range(_rounds(P)):
            outer = _zeros(_row(_border(n + 1, P), P) - _row(_border(n, P), P), BLOCK, ACC)
            at = first + tl.arange(0, BLOCK)
            column = at % width
            line = at // width
            for _ in range(trips):
                live = at < last
                _, _, gx, gy, x, y, _ = _look(
                    template_ptr, counts_ptr, gradient_ptr, image_ptr, warp, column, line, live,
                    1.0, channels, height, width, image_height, image_width, ALGORITHM, ACC,
                )  # fmt: skip
                descent = _steepest_descent(gx, gy, x, y, MOTION)
                outer = _add_outer(outer, descent, 1.0, P, _border(n, P), _border(n + 1, P))
                at += BLOCK
                column, line = _next(column, line, width, BLOCK)
            _store(
                sums_ptr, outer, known_ptr, known, True, P, _row(_border(n, P), P),
                _row(_border(n + 1, P), P) - _row(_border(n, P), P),
            )  # fmt: skip
    else:
        COUNT: tl.constexpr = SIZE - P * P + _row(P, P)
        _store(sums_ptr, outer + sums, known_ptr, False, False, P, 0, COUNT)


@triton.jit
def _alignment_values_kernel(
    template_ptr, counts_ptr, image_ptr, matrix_ptr, residual_ptr, sums_ptr,
    channels, image_channels, height, width, image_height, image_width,
    template_step, image_step, splits, part,
    MOMENTS: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the residual, NaN where a pixel does not count, or sum up the moments of a channel.

    Moments: the number of pixels that count, and the sums of r, w, r r, w w and r w over them, r
    the template and w the warped image, each less a value of its own near its mean, so that the
    power of a constant is 0. Always in float64: powers about the mean are differences of these.
    """
    program = tl.program_id(0)
    split = program % splits
    channel = program // splits % channels
    sample = (program // (splits * channels)).to(tl.int64)
    plane = tl.cast(height, tl.int64) * width
    own_template = sample * template_step
    template_ptr += (own_template * channels + channel) * plane
    counts_ptr += own_template * plane
    residual_ptr += (sample * channels + channel) * plane
    image_plane = tl.cast(image_height, tl.int64) * image_width
    image_ptr += (sample * image_step * image_channels + channel) * image_plane
    warp = _read_warp(
        matrix_ptr + sample * 9, height, width, image_height, image_width, EPS, ACC
    )  # fmt: skip
    first = split * part
    last = tl.minimum(first + part, height * width)
    at = first + tl.arange(0, BLOCK)
    column = at % width
    line = at // width
    middle = tl.load(template_ptr + height // 2 * width + width // 2)
    centre = tl.load(image_ptr + image_height // 2 * image_width + image_width // 2)
    centre = tl.where(centre == centre, centre, 0.0)
    sums = _zeros(8, BLOCK, tl.float64)
    for _ in range(tl.cdiv(last - first, BLOCK)):
        live = at < last
        x = column.to(ACC) - 0.5 * (width - 1).to(ACC)
        y = line.to(ACC) - 0.5 * (height - 1).to(ACC)
        where, _, inside = _place(warp, x, y, image_height, image_width)
        value = _interpolate(image_ptr, where)
        counts = tl.load(counts_ptr + at, mask=live, other=0) != 0
        own = tl.load(template_ptr + at, mask=live, other=0.0)
        seen = live & counts & inside & (value == value)
        if MOMENTS:
            r = tl.where(seen, own - middle, 0.0).to(tl.float64)
            w = tl.where(seen, value - centre, 0.0).to(tl.float64)
            # What was taken off goes along, once.
            lead = ((at == 0) & live).to(tl.float64)
            terms = (
                seen.to(tl.float64), r, w, r * r, w * w, r * w,
                lead * middle.to(tl.float64), lead * centre.to(tl.float64),
            )  # fmt: skip
            sums = _add_vector(sums, terms, 1.0, 8)
        else:
            tl.store(residual_ptr + at, tl.where(seen, value - own, float("nan")), mask=live)
        at += BLOCK
        column, line = _next(column, line, width, BLOCK)
    if MOMENTS:
        sums_ptr += tl.cast(program, tl.int64) * 8
        _store(sums_ptr, sums, sums_ptr, False, False, 0, 0, 8)


@triton.jit
def _alignment_solve_kernel(
    matrix_ptr, vector_ptr, damping_ptr, scale_ptr, floor_ptr, step_ptr, singular_ptr,
    batch, floor_step, matrix_step, eps,
    DAMPED: tl.constexpr, P: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Solve (H + damping diag H) step = b as system.solve_system does, one system per lane."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    live = sample < batch
    sample = tl.where(live, sample, 0).to(tl.int64)
    matrix_ptr += sample * matrix_step
    factor = tl.full([SAMPLES], 1.0, tl.float64)
    if DAMPED:
        factor += tl.load(damping_ptr + sample)
    scales = ()
    largest = tl.full([SAMPLES], float("-inf"), tl.float64)
    total = tl.full([SAMPLES], 0.0, tl.float64)
    for i in tl.static_range(P):
        scales = scales + (1.0 / tl.load(scale_ptr + i),)
        diagonal = tl.load(matrix_ptr + i * P + i) * factor * (scales[i] * scales[i])
        largest = tl.maximum(largest, diagonal)
        for j in tl.static_range(P):
            total += tl.load(matrix_ptr + i * P + j) * 0.0  # NaN if any entry is not finite
    usable = (largest > tl.load(floor_ptr + sample * floor_step)) & (total == 0.0)
    over = 1.0 / tl.where(usable, largest, 1.0)

    # Left-looking Cholesky; the columns of the factor follow each other in one tuple, the
    # diagonal inverted.
    factors = ()
    for j in tl.static_range(P):
        for i in tl.static_range(j, P):
            entry = tl.load(matrix_ptr + i * P + j) * (scales[i] * scales[j]) * over
            if i == j:
                entry = entry * factor
            entry = tl.where(usable, entry, 1.0 if i == j else 0.0)
            for k in tl.static_range(j):
                entry -= (
                    factors[_row(k, P) + i - k]
                    * factors[_row(k, P) + j - k]
                )  # fmt: skip
            if i == j:
                positive = entry > 32 * eps
                usable = usable & positive
                factors = factors + (1.0 / tl.sqrt(tl.where(positive, entry, 1.0)),)
            else:
                factors = factors + (entry * factors[_row(j, P)],)

    forward = ()
    for i in tl.static_range(P):
        entry = tl.load(vector_ptr + sample * P + i) * scales[i] * over
        for k in tl.static_range(i):
            entry -= factors[_row(k, P) + i - k] * forward[k]
        forward = forward + (entry * factors[_row(i, P)],)
    backward = ()  # the last unknown first
    for n in tl.static_range(P):
        entry = forward[P - 1 - n]
        for k in tl.static_range(n):
            entry -= factors[_row(P - 1 - n, P) + n - k] * backward[k]
        backward = backward + (entry * factors[_row(P - 1 - n, P)],)
        step = tl.where(usable, backward[n] * scales[P - 1 - n], 0.0)
        tl.store(step_ptr + sample * P + P - 1 - n, step, mask=live)
    tl.store(singular_ptr + sample, (usable == 0).to(tl.int8), mask=live)


def _parts(programs: int, pixels: int) -> tuple[int, int]:
    """Cut a template: into how many parts of how many pixels, so that a GPU is busy with them."""
    wanted = max(1, PROGRAMS // max(programs, 1))
    splits = min(wanted, triton.cdiv(pixels, 4 * BLOCK))
    splits = max(splits, triton.cdiv(pixels, LONGEST * BLOCK))
    part = triton.cdiv(triton.cdiv(pixels, splits), BLOCK) * BLOCK
    return triton.cdiv(pixels, part), part


def _sizes(template: Tensor, image: Tensor, matrix: Tensor) -> tuple[list[int], int]:
    """Return the arguments that both kernels take after the tensors, and how many parts."""
    channels, height, width = template.shape[-3:]
    splits, part = _parts(matrix.shape[0] * channels, height * width)
    sizes = [channels, image.shape[1], height, width, *image.shape[-2:]]
    steps = [int(template.shape[0] > 1), int(image.shape[0] > 1)]
    return [*sizes, *steps, splits, part], splits


def _constants(template: Tensor) -> dict[str, Any]:
    double = template.dtype == torch.float64
    return {
        "EPS": torch.finfo(template.dtype).eps,
        "ACC": tl.float64 if double else tl.float32,
        "BLOCK": BLOCK,
    }


def options_of(motion: str, algorithm: str, objective: str, skip: bool) -> dict[str, Any]:
    """Return the constants of a launch of the sums that its arguments name."""
    count = PARAMETERS[motion]
    return {
        "MOTION": motion,
        "ALGORITHM": algorithm,
        "OBJECTIVE": objective,
        "SKIP": skip and objective == "ssd" and algorithm == "inverse_compositional",
        "P": count,
        "SIZE": count * count + (3 * count + 1 if objective == "ecc" else count + 2),
    }


def register_limit(options: dict[str, Any]) -> dict[str, int]:
    """Return how many registers a thread of the sums may take, as an option of the compiler.

    The cheapest look waits for the memory: 64 let eight programs be on their way together. 128 let
    four of the others. Neither costs a spilled register.
    """
    if options["ACC"] == tl.float64 or options["OBJECTIVE"] == "ecc":
        return {}
    return {"maxnreg": 64 if options["SKIP"] else 128}


def launch_sums(
    template: Tensor,
    counts: Tensor,
    gradient: Tensor,
    image: Tensor,
    matrix: Tensor,
    number: Tensor,
    known: Tensor,
    extra: Tensor | None,
    residual: Tensor | None,
    motion: str,
    algorithm: str,
    objective: str,
) -> Tensor:
    """Return the sums (B, C, K) of one look through ``matrix`` (B, 3, 3), in float64.

    K holds H (P, P), b (P) and two numbers more; for "ecc" three vectors (P) and one number: see
    the kernel. What a template or an image does not have for every sample it has once.

    Args:
        template: (1 or B, C, h, w).
        counts: (1 or B, 1, h, w), boolean.
        gradient: (1 or B, 2, C, h, w), by normalised coordinates.
        image: (1 or B, C, H, W), NaN where a pixel does not count; forward additive: 3 C channels.
        matrix: (B, 3, 3), float64, from normalised coordinates to image pixels.
        number: (1 or B), of template pixels that count.
        known: (1 or B, P, P), H of the template with all of them.
        extra: (B, 4) the scales of a robust function, (B, C, 4) for "ecc", float64.
        residual: (B, C, h, w) for a robust function, NaN where a pixel does not count.
        motion: One of the five.
        algorithm: One of the four.
        objective: "ssd", "huber", "tukey" or "ecc".
    """
    sizes, splits = _sizes(template, image, matrix)
    batch, channels = matrix.shape[0], sizes[0]
    options = options_of(motion, algorithm, objective, splits == 1) | _constants(template)
    sums = matrix.new_empty(batch, channels, splits, options["SIZE"])
    if batch == 0:
        return sums.sum(2)
    _alignment_sums_kernel[(batch * channels * splits,)](
        template.contiguous(),
        counts.contiguous().view(torch.uint8),
        gradient.contiguous(),
        image.contiguous(),
        matrix.contiguous(),
        number.contiguous(),
        known.contiguous(),
        matrix if extra is None else extra.contiguous(),
        template if residual is None else residual.contiguous(),
        sums,
        *sizes,
        **options,
        **register_limit(options),
    )
    return sums[:, :, 0] if splits == 1 else sums.sum(2)


def launch_residual(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    """Return the residual (B, C, h, w), NaN where a pixel does not count."""
    residual = template.new_empty(matrix.shape[0], *template.shape[1:])
    _launch_values(template, counts, image, matrix, residual, None)
    return residual


def launch_moments(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    """Return (B, C, 8): six moments of template and warped image, and what was taken off both."""
    sizes, splits = _sizes(template, image, matrix)
    moments = matrix.new_empty(matrix.shape[0], sizes[0], splits, 8)
    _launch_values(template, counts, image, matrix, None, moments)
    return moments[:, :, 0] if splits == 1 else moments.sum(2)


def _launch_values(
    template: Tensor,
    counts: Tensor,
    image: Tensor,
    matrix: Tensor,
    residual: Tensor | None,
    moments: Tensor | None,
) -> None:
    sizes, splits = _sizes(template, image, matrix)
    if matrix.shape[0] == 0:
        return
    _alignment_values_kernel[(matrix.shape[0] * sizes[0] * splits,)](
        template.contiguous(),
        counts.contiguous().view(torch.uint8),
        image.contiguous(),
        matrix.contiguous(),
        template if residual is None else residual,
        matrix if moments is None else moments,
        *sizes,
        MOMENTS=moments is not None,
        **_constants(template),
    )


def launch_solve(
    matrix: Tensor, vector: Tensor, damping: Tensor | None, scale: Tensor, floor: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the step (B, P) and which systems are singular (B,); see system.solve_system.

    Args:
        matrix: (1 or B, P, P), float64.
        vector: (B, P), float64.
        damping: (B,), what to add of the diagonal, or None.
        scale: (P,).
        floor: (1 or B,).
        eps: Rounding of the images' dtype.
    """
    batch, count = vector.shape
    step = torch.empty_like(vector, memory_format=torch.contiguous_format)
    singular = torch.empty(batch, dtype=torch.bool, device=vector.device)
    if batch == 0:
        return step, singular
    _alignment_solve_kernel[(triton.cdiv(batch, SAMPLES),)](
        matrix.contiguous(),
        vector.contiguous(),
        vector if damping is None else damping.contiguous(),
        scale.contiguous(),
        floor.contiguous(),
        step,
        singular.view(torch.int8),
        batch,
        int(floor.shape[0] > 1),
        count * count if matrix.shape[0] > 1 else 0,
        eps,
        DAMPED=damping is not None,
        P=count,
        SAMPLES=SAMPLES,
        num_warps=1,
    )
    return step, singular
