"""Boxes of a whole batch from its random numbers.

The arithmetic is integer throughout (and one float64 square root of an integer, which is exact), so
:mod:`torchops.erase.single` gets the same boxes from the same numbers, bit for bit, and which of
the three ways below is taken shows in nothing but the time.
"""

from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import BITS, CANDIDATES, NUDGES, RATIO_BITS, Plan, Tables
from .rectangles import HEIGHT_BITS, nearest_areas
from .single import draw_one

# Up to this many images the some 400 tensor operations take longer than plain Python.
FEW = 128


class Cells(NamedTuple):
    """Cells of candidate layouts, each (B, C, K)."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


def pick(number: Tensor, size: Tensor) -> Tensor:
    """Uniform integer in [0, size) from a random number."""
    return (number * size) >> BITS


def draw_boxes(numbers: Tensor, plan: Plan) -> Tensor:
    """Boxes (B, K, 4) from random numbers (B, numbers_per_image), the quickest way here."""
    if numbers.device.type != "cpu":
        return draw_at_once(numbers, plan)
    return draw_one_by_one(numbers, plan) if len(numbers) <= FEW else draw_in_turns(numbers, plan)


def draw_one_by_one(numbers: Tensor, plan: Plan) -> Tensor:
    """In plain Python."""
    boxes = array("q")
    for row in numbers.numpy():  # a view reads only the numbers of the candidates that are made
        boxes.extend(draw_one(row.data, plan))
    return torch.frombuffer(boxes, dtype=torch.int64).view(len(numbers), plan.count[1], 4)


def draw_in_turns(numbers: Tensor, plan: Plan) -> Tensor:
    """With the further candidates only for the images that need them: for a CPU, which can say."""
    tables = plan.on(numbers.device)
    area, count = _requests(numbers, plan, tables)
    alone = torch.where(count == 1)[0]
    if len(alone):
        some, place = area[alone].unique(return_inverse=True)
        area[alone] = nearest_areas(some, tables.width_min, tables.width_max)[place]
    boxes, found = _random_layouts(numbers, area, count, 1, plan, tables)
    lost = torch.where(~found)[0]  # at the default ratio one in ten
    if len(lost) <= FEW:
        if len(lost):
            boxes[lost] = draw_one_by_one(numbers[lost], plan)
        return boxes
    numbers, area, count = numbers[lost], area[lost], count[lost]
    others, found = _random_layouts(numbers, area, count, CANDIDATES, plan, tables)
    last = torch.where(~found)[0]
    if len(last):
        layouts = plan.certain_layouts(area[last], count[last])
        others[last] = _certain_layouts(numbers[last], layouts, count[last], plan)
    boxes[lost] = others
    return boxes


def draw_at_once(numbers: Tensor, plan: Plan) -> Tensor:
    """Without reading anything back: all that an image may need is made for all of them."""
    tables = plan.on(numbers.device)
    area, count = _requests(numbers, plan, tables)
    layouts = plan.certain_on(area.device)[area - plan.area_low, count - plan.count[0]]
    nearest = nearest_areas(area, tables.width_min, tables.width_max)
    area = torch.where(count == 1, nearest, area)
    boxes, found = _random_layouts(numbers, area, count, CANDIDATES, plan, tables)
    certain = _certain_layouts(numbers, layouts.long(), count, plan)
    return torch.where(found[:, None, None], boxes, certain)


def _requests(numbers: Tensor, plan: Plan, tables: Tables) -> tuple[Tensor, Tensor]:
    """The area asked of each image, and its count, uniform over the feasible ones."""
    low, high = plan.fraction
    fraction = low + (high - low) * (numbers[:, 0].double() * 2.0**-BITS)
    area = (fraction * (plan.height * plan.width) + 0.5).floor().long()
    area = area.clamp(plan.area_low, plan.area_high)
    run = torch.searchsorted(tables.starts, area, right=True) - 1
    return area, tables.choices[run, pick(numbers[:, 1], tables.choice_counts[run])]


def _random_layouts(
    numbers: Tensor, area: Tensor, count: Tensor, candidates: int, plan: Plan, tables: Tables
) -> tuple[Tensor, Tensor]:
    """Boxes (B, K, 4) of the first candidate that keeps the promises, and whether one does (B,)."""
    batch, K = len(numbers), plan.count[1]
    first = 3 + 2 * K
    block = numbers[:, first : first + candidates * plan.candidate_numbers]
    block = block.reshape(batch, candidates, plan.candidate_numbers)
    shares, splits, ratios = block.split([K, 4 * (K - 1), K], dim=2)
    prefix = _share_prefix(shares, area, count)
    cells, cut_fits = _cut(splits, prefix, count, plan)
    h, w, size_fits = _fill_cells(ratios, cells, prefix, count, tables)

    valid = cut_fits & size_fits
    if candidates > 1:
        chosen = valid.long().argmax(1)[:, None, None].expand(batch, 1, K)
        cells = Cells(*(table.gather(1, chosen) for table in cells))
        h, w = h.gather(1, chosen), w.gather(1, chosen)
    cells = Cells(*(table[:, 0] for table in cells))
    return _place(numbers, cells, h[:, 0], w[:, 0], count), valid.any(1)


def _place(numbers: Tensor, cells: Cells, h: Tensor, w: Tensor, count: Tensor) -> Tensor:
    """Boxes (B, K, 4) of rectangles at uniform places in their cells, zero beyond the count."""
    K = h.shape[1]
    x = cells.x + pick(numbers[:, 3 : 3 + K], cells.width - w + 1)
    y = cells.y + pick(numbers[:, 3 + K : 3 + 2 * K], cells.height - h + 1)
    used = torch.arange(K, device=h.device) < count[:, None]
    return torch.stack([x, y, x + w, y + h], -1) * used[..., None]


def _share_prefix(numbers: Tensor, area: Tensor, count: Tensor) -> Tensor:
    """Cumulative areas (B, C, K + 1) of random shares, none above 8 times another."""
    used = torch.arange(numbers.shape[2], device=numbers.device) < count[:, None, None]
    weights = ((numbers >> 15) + 9362) * used  # 2**16 / 7 = 9362: weights in a ratio of 1 to 8
    prefix = torch.nn.functional.pad(weights.cumsum(2), (1, 0))
    return area[:, None, None] * prefix // prefix[..., -1:]


def _cut(numbers: Tensor, prefix: Tensor, count: Tensor, plan: Plan) -> tuple[Cells, Tensor]:
    """Guillotine cuts: a cell holding several rectangles is split until each holds one.

    The cell of rectangles [i, j) sits in slot i. Each step splits the first cell that still holds
    two or more: a random number of rectangles to either side, across the width with probability
    w^2 / (w^2 + h^2), at the mean of two uniform places out of those that leave both sides room
    for their shares (a single one leaves too many cells too thin).
    """
    batch, C, _ = prefix.shape
    K = plan.count[1]
    shape = (batch, C, K)
    x, y = numbers.new_zeros(shape), numbers.new_zeros(shape)
    w, h = torch.full_like(x, plan.width), torch.full_like(x, plan.height)
    leaves = torch.nn.functional.pad(count[:, None, None].expand(batch, C, 1), (0, K - 1), value=0)
    fits = torch.ones(shape[:2], dtype=torch.bool, device=numbers.device)
    for step in range(K - 1):
        split, direction, *place = numbers[..., 4 * step : 4 * step + 4, None].unbind(2)
        slot = (leaves > 1).long().argmax(2, keepdim=True)
        held = leaves.gather(2, slot)
        active = held > 1
        left = torch.where(active, 1 + pick(split, held - 1), 0)
        x0, y0, w0, h0 = (table.gather(2, slot) for table in (x, y, w, h))
        middle = prefix.gather(2, slot + left)
        left_area = middle - prefix.gather(2, slot)
        right_area = prefix.gather(2, slot + held) - middle

        across = pick(direction, w0 * w0 + h0 * h0) < w0 * w0
        side, other = torch.where(across, w0, h0), torch.where(across, h0, w0)
        least = (-(-left_area // other)).clamp(min=1)
        most = torch.minimum(side + (-right_area // other), side - 1)
        fits &= ((least <= most) | ~active)[..., 0]
        cut = least + pick((place[0] + place[1]) >> 1, (most - least + 1).clamp(min=1))
        # Where there is no room the candidate is lost; its cells stay positive all the same.
        cut = torch.where(active, torch.minimum(cut, side - 1).clamp(min=1), 0)

        # The second part goes to its own slot; without a cut both writes restore the first.
        target = torch.where(active, slot + left, slot)
        cut_x, cut_y = torch.where(across, cut, 0), torch.where(across, 0, cut)
        w = w.scatter(2, slot, torch.where(active & across, cut, w0))
        h = h.scatter(2, slot, torch.where(active & ~across, cut, h0))
        leaves = leaves.scatter(2, slot, torch.where(active, left, held))
        x, y = x.scatter(2, target, x0 + cut_x), y.scatter(2, target, y0 + cut_y)
        w = w.scatter(2, target, (w0 - cut_x).clamp(min=1))
        h = h.scatter(2, target, (h0 - cut_y).clamp(min=1))
        leaves = leaves.scatter(2, target, torch.where(active, held - left, held))
    return Cells(x, y, w, h), fits


def _fill_cells(
    numbers: Tensor, cells: Cells, prefix: Tensor, count: Tensor, tables: Tables
) -> tuple[Tensor, Tensor, Tensor]:
    """Heights and widths (B, C, K) of allowed ratio that sum to the area, and validity.

    All but the last come as near to their share as their height allows and hand the residue on;
    the last takes a rectangle of exactly what is left, for the first nudge that has one.
    """
    K = numbers.shape[2]
    carry = torch.zeros_like(prefix[..., 0])
    fits = torch.ones_like(carry, dtype=torch.bool)
    heights, widths = [], []
    for i in range(K - 1):
        due = prefix[..., i + 1] - prefix[..., i] + carry
        share = due.clamp(min=1)
        cell_w, cell_h = cells.width[..., i], cells.height[..., i]
        low = torch.searchsorted(tables.ratios, -(-(share << RATIO_BITS) // (cell_w * cell_w)))
        high = torch.searchsorted(
            tables.ratios, (cell_h * cell_h << RATIO_BITS) // share, right=True
        )
        index = (low + pick(numbers[..., i], (high - low).clamp(min=1))).clamp(
            max=len(tables.ratios) - 1
        )
        h = (_isqrt(4 * (share * tables.ratios[index] >> RATIO_BITS)) + 1) >> 1
        h = torch.minimum(h.clamp(min=1), cell_h)
        least = tables.width_min[h]
        most = torch.minimum(tables.width_max[h], cell_w)
        w = torch.maximum(torch.minimum((share + (h >> 1)) // h, most), least)
        active = i < count[:, None] - 1
        fits &= ~active | ((low < high) & (least <= most))
        carry = torch.where(active, due - h * w, carry)
        heights.append(torch.where(active, h, 0))
        widths.append(torch.where(active, w, 0))

    last = (count - 1)[:, None, None].expand(-1, prefix.shape[1], 1)
    area = (prefix.gather(2, last + 1) - prefix.gather(2, last)) + carry[..., None]
    h = torch.stack([*heights, torch.zeros_like(carry)], 2)
    w = torch.stack([*widths, torch.zeros_like(carry)], 2)
    return _complete(numbers[..., K - 1], h, w, area, fits, cells, last, tables)


def _complete(
    number: Tensor,
    h: Tensor,
    w: Tensor,
    area: Tensor,
    fits: Tensor,
    cells: Cells,
    last: Tensor,
    tables: Tables,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nudge the last but one width until the last cell holds a rectangle of what is then left."""
    before = (last - 1).clamp(min=0)
    nudge = torch.tensor(NUDGES, device=h.device)
    h1 = h.gather(2, before)  # 0 when there is only one rectangle: then nothing is nudged
    w1 = w.gather(2, before) + nudge
    most = torch.minimum(tables.width_max[h1], cells.width.gather(2, before))
    allowed = ((w1 >= tables.width_min[h1]) & (w1 <= most)) | (last == 0)
    rest = area - h1 * nudge
    cell_w, cell_h = cells.width.gather(2, last), cells.height.gather(2, last)
    key = rest << HEIGHT_BITS
    low = torch.searchsorted(tables.rectangles, key + -(-rest // cell_w))
    high = torch.searchsorted(tables.rectangles, key + cell_h, right=True)
    allowed &= (rest > 0) & (low < high) & fits[..., None]

    chosen = allowed.long().argmax(2, keepdim=True)
    low, high, rest = low.gather(2, chosen), high.gather(2, chosen), rest.gather(2, chosen)
    index = (low + pick(number[..., None], (high - low).clamp(min=1))).clamp(
        max=len(tables.rectangles) - 1
    )
    h_last = tables.rectangles[index] & ((1 << HEIGHT_BITS) - 1)
    w = w.scatter(2, before, w1.gather(2, chosen)).scatter(2, last, rest // h_last)
    return h.scatter(2, last, h_last), w, allowed.any(2)


def _certain_layouts(numbers: Tensor, layout: Tensor, count: Tensor, plan: Plan) -> Tensor:
    """Boxes (B, K, 4) of layouts (B, 4, 2): cells of a grid, from a random first one."""
    rows, columns = layout[:, 0].split(1, dim=1)
    height, width = plan.height // rows, plan.width // columns
    slot = torch.arange(plan.count[1], device=numbers.device)
    cell = (pick(numbers[:, 2:3], rows * columns) + slot) % (rows * columns)
    x, y = cell % columns * width, cell // columns * height
    kind = (slot - count[:, None] + 4).clamp(1, 3)  # the equal ones, then the other two
    h, w = layout.gather(1, kind[..., None].expand(-1, -1, 2)).unbind(2)
    return _place(numbers, Cells(x, y, width.expand_as(x), height.expand_as(x)), h, w, count)


def _isqrt(value: Tensor) -> Tensor:
    """Floor of the square root, exact for integers below 2**52."""
    return value.double().sqrt().long()
