"""Boxes of one image from its random numbers, in plain integers.

The same steps as :mod:`torchops.erase.batched`, which says what they mean, in the same order and
with the same results bit for bit; here a candidate is made only if the one before it failed. For
one image this takes microseconds where a hundred tensor operations take a millisecond.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .plan import BITS, CANDIDATES, NUDGES, RATIO_BITS, Plan
from .rectangles import HEIGHT_BITS

Rectangle = tuple[int, int, int, int]  # x, y, width, height


def draw_one(numbers: Sequence[int] | memoryview, plan: Plan) -> list[int]:
    """Boxes of one image, flat, zeros up to the highest count, from its random numbers."""
    K = plan.count[1]
    *_, starts, choices, choice_counts = plan.views
    low, high = plan.fraction
    fraction = low + (high - low) * (numbers[0] * 2.0**-BITS)
    area = math.floor(fraction * (plan.height * plan.width) + 0.5)
    area = min(max(area, plan.area_low), plan.area_high)
    run = bisect_right(starts, area) - 1
    choice = (numbers[1] * choice_counts[run]) >> BITS
    count = choices[run * (plan.count[1] - plan.count[0] + 1) + choice]
    if count == 1:
        area = plan.nearest(area)

    for candidate in range(CANDIDATES):
        start = 3 + 2 * K + candidate * plan.candidate_numbers
        prefix = _share_prefix(numbers, start, area, count)
        cells = _cut(numbers, start + K, prefix, count, plan)
        sizes = _fill_cells(numbers, start + K + 4 * (K - 1), cells, prefix, plan) if cells else []
        if sizes:
            break
    else:
        cells, sizes = _certain_layout(numbers[2], area, count, plan)

    boxes: list[int] = []
    for i, ((x, y, cell_w, cell_h), (h, w)) in enumerate(zip(cells, sizes, strict=True)):
        x += (numbers[3 + i] * (cell_w - w + 1)) >> BITS
        y += (numbers[3 + K + i] * (cell_h - h + 1)) >> BITS
        boxes += (x, y, x + w, y + h)
    return boxes + [0] * (4 * (K - count))


def _share_prefix(
    numbers: Sequence[int] | memoryview, start: int, area: int, count: int
) -> list[int]:
    weights = [0]
    for number in numbers[start : start + count]:
        weights.append(weights[-1] + (number >> 15) + 9362)
    return [area * weight // weights[-1] for weight in weights]


def _cut(
    numbers: Sequence[int] | memoryview, start: int, prefix: list[int], count: int, plan: Plan
) -> list[Rectangle]:
    """The cells of the guillotine cuts; empty when a side had no room for its shares."""
    cells: list[Rectangle] = [(0, 0, plan.width, plan.height)] * count
    leaves = [count] + [0] * (count - 1)
    slot = 0
    for i in range(start, start + 4 * (count - 1), 4):
        while leaves[slot] == 1:
            slot += 1
        held = leaves[slot]
        left = 1 + ((numbers[i] * (held - 1)) >> BITS)
        middle = prefix[slot + left]
        left_area, right_area = middle - prefix[slot], prefix[slot + held] - middle
        x, y, w, h = cells[slot]
        across = (numbers[i + 1] * (w * w + h * h)) >> BITS < w * w
        side, other = (w, h) if across else (h, w)
        least = max(-(-left_area // other), 1)
        most = min(side + (-right_area // other), side - 1)
        if least > most:
            return []
        place = (numbers[i + 2] + numbers[i + 3]) >> 1
        cut = least + ((place * (most - least + 1)) >> BITS)
        if across:
            cells[slot], cells[slot + left] = (x, y, cut, h), (x + cut, y, w - cut, h)
        else:
            cells[slot], cells[slot + left] = (x, y, w, cut), (x, y + cut, w, h - cut)
        leaves[slot], leaves[slot + left] = left, held - left
    return cells


def _fill_cells(
    numbers: Sequence[int] | memoryview,
    start: int,
    cells: list[Rectangle],
    prefix: list[int],
    plan: Plan,
) -> list[tuple[int, int]]:
    """Heights and widths that sum to the area; empty when a cell cannot hold its part."""
    width_min, width_max, rectangles, ratios, *_ = plan.views
    last = len(cells) - 1
    sizes: list[tuple[int, int]] = []
    carry = h = w = least = most = 0
    for i in range(last):
        due = prefix[i + 1] - prefix[i] + carry
        share = max(due, 1)
        _, _, cell_w, cell_h = cells[i]
        low = bisect_left(ratios, -(-(share << RATIO_BITS) // (cell_w * cell_w)))
        high = bisect_right(ratios, (cell_h * cell_h << RATIO_BITS) // share)
        if low >= high:
            return []
        ratio = ratios[low + ((numbers[start + i] * (high - low)) >> BITS)]
        h = (math.isqrt(4 * (share * ratio >> RATIO_BITS)) + 1) >> 1
        h = min(max(h, 1), cell_h)
        least, most = width_min[h], min(width_max[h], cell_w)
        if least > most:
            return []
        w = max(min((share + (h >> 1)) // h, most), least)
        carry = due - h * w
        sizes.append((h, w))

    area = prefix[last + 1] - prefix[last] + carry
    _, _, cell_w, cell_h = cells[last]
    for nudge in NUDGES:
        if last and not least <= w + nudge <= most:
            continue
        rest = area - h * nudge
        if rest <= 0:
            continue
        key = rest << HEIGHT_BITS
        low = bisect_left(rectangles, key + -(-rest // cell_w))
        if low < len(rectangles) and rectangles[low] <= key + cell_h:
            high = bisect_right(rectangles, key + cell_h, low)
            index = low + ((numbers[start + plan.count[1] - 1] * (high - low)) >> BITS)
            height = rectangles[index] & ((1 << HEIGHT_BITS) - 1)
            if last:
                sizes[-1] = (h, w + nudge)
            return [*sizes, (height, rest // height)]
    return []


def _certain_layout(
    number: int, area: int, count: int, plan: Plan
) -> tuple[list[Rectangle], list[tuple[int, int]]]:
    (rows, columns), equal, *pair = plan.certain_layout(area, count)
    height, width = plan.height // rows, plan.width // columns
    first = (number * rows * columns) >> BITS
    indices = [(first + i) % (rows * columns) for i in range(count)]
    cells = [(i % columns * width, i // columns * height, width, height) for i in indices]
    return cells, [(h, w) for h, w in [equal] * (count - 2) + pair]
