"""Rectangles of allowed ratio, and the layout that certainly exists for an area and a count.

A count of two or more is feasible when its rectangles fit one to a cell into a grid of equal cells:
that is a rule one can decide before drawing, for each area exactly. Everything here is integer
arithmetic on the host. The list of rectangles belongs to the ratio and serves images of all sizes;
what only a search needs is made when a search is.
"""

import math
from bisect import bisect_right
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

HEIGHT_BITS = 20  # a rectangle is stored as area << 20 | height, so that sorting sorts by area
SHARE_STEPS = 16  # how many areas next below area / count the certain layout tries

Range = tuple[float, float]


class Allowed(NamedTuple):
    """The rectangles of allowed ratio in an image, and others of that ratio that do not fit."""

    width_min: Tensor  # (H + 1,) least allowed width of each height
    width_max: Tensor  # (H + 1,) greatest; below width_min where there is none
    rectangles: Tensor  # sorted area << 20 | height, of any image, complete beyond the area limit


def allowed_rectangles(height: int, width: int, ratio: Range, area_high: int) -> Allowed:
    """List the rectangles with ``low <= h / w <= high`` for an image and areas up to a limit.

    A single rectangle takes the nearest area it can have, so that is within the limit too.
    """
    width_min, width_max = _limits_up_to(_power_above(height), ratio)
    width_min, width_max = width_min[: height + 1], width_max[: height + 1].clamp(max=width)
    alone = int(nearest_areas(torch.tensor([area_high]), width_min, width_max)[0])
    area_high = max(area_high, min(alone, height * width))
    # No rectangle here has a ratio outside of these; elsewhere there could be endlessly many.
    ratio = max(ratio[0], 1 / _power_above(width)), min(ratio[1], _power_above(height))
    return Allowed(width_min, width_max, rectangles_up_to(_power_above(area_high), ratio))


def _power_above(number: int) -> int:
    """Round up to a power of two, so that requests of similar sizes share their tables."""
    return int(2 ** number.bit_length())


@lru_cache(maxsize=8)
def rectangles_up_to(area: int, ratio: Range) -> Tensor:
    """Sorted ``area << 20 | height`` of all rectangles of allowed ratio up to an area."""
    highest = min(area, math.isqrt(math.ceil(area * ratio[1])) + 1)
    width_min, width_max = _limits_up_to(highest, ratio)
    h = torch.arange(highest + 1)
    widest = torch.minimum(width_max, area // h.clamp(min=1))
    number = (widest - width_min + 1).clamp(min=0)
    first = number.cumsum(0) - number
    hs = h.repeat_interleave(number)
    ws = torch.arange(len(hs)) + (width_min - first).repeat_interleave(number)
    return ((hs * ws << HEIGHT_BITS) + hs).sort().values


@lru_cache(maxsize=8)
def _limits_up_to(height: int, ratio: Range) -> tuple[Tensor, Tensor]:
    """Least and greatest allowed width of each height; allowed is ``low <= h / w <= high``.

    The quotient is the float64 one, so a limit such as 3.3 admits 33 x 10. The estimate may be one
    off, hence the corrections.
    """
    low, high = ratio
    h = torch.arange(height + 1, dtype=torch.float64)
    least = (h / high).ceil().clamp(1, WIDEST + 1)
    least += (h / least > high).double()
    least -= ((least > 1) & (h / (least - 1).clamp(min=1) <= high)).double()
    greatest = (h / low).floor().clamp(max=WIDEST)
    greatest += ((greatest < WIDEST) & (h / (greatest + 1) >= low)).double()
    greatest -= ((greatest > 0) & (h / greatest.clamp(min=1) < low)).double()
    greatest[0] = 0
    return least.long(), greatest.long()


WIDEST = 1 << HEIGHT_BITS  # wider than any image


class Cell:
    """A cell of a grid of ``rows`` x ``columns``, and what fits into it."""

    def __init__(self, height: int, width: int, rows: int, columns: int, allowed: Allowed) -> None:
        self.rows, self.columns, self.allowed = rows, columns, allowed
        self.height, self.width = height // rows, width // columns
        self.largest = largest_area(self.height, self.width, allowed)

    @cached_property
    def pairs(self) -> tuple[int, int]:
        """An interval of areas that are all sums of two that fit."""
        return _pair_interval(self.height, self.width, self.allowed)

    def proved(self, count: int) -> tuple[int, int]:
        """An interval of areas that ``count`` rectangles certainly have; (1, 0) if none is proved.

        The ``count - 2`` equal ones have the greatest area that fits up to ``q = area // count``,
        at most ``q`` and, where squares are allowed, at least that of the square of side isqrt(q).
        What they leave to the other two then lies between the two bounds below.
        """
        first, last = self.pairs
        if count == 2:
            return first, last
        if self.allowed.width_min[1] > 1 or self.allowed.width_max[1] < 1:
            return 1, 0
        highest = count * min(self.height, self.width) ** 2

        def left_at_most(area: int) -> int:
            return -(-2 * area // count) + (count - 2) * (1 + 2 * math.isqrt(area // count))

        return (
            -(-count * first // 2),
            bisect_right(range(highest + 1), last, key=left_at_most) - 1,
        )

    @cached_property
    def areas(self) -> Tensor:
        """Ascending areas of the rectangles that fit."""
        return self._shapes[0]

    @cached_property
    def height_of(self) -> Tensor:
        """Height of the squarest rectangle of each area, 0 where there is none."""
        return self._shapes[1]

    @cached_property
    def _shapes(self) -> tuple[Tensor, Tensor]:
        rectangles = self.allowed.rectangles
        end = torch.searchsorted(rectangles, (self.height * self.width + 1) << HEIGHT_BITS)
        h = rectangles[:end] & ((1 << HEIGHT_BITS) - 1)
        area = rectangles[:end] >> HEIGHT_BITS
        inside = (h <= self.height) & (area <= h * self.width)
        h, area = h[inside], area[inside]
        areas, repeats = area.unique_consecutive(return_counts=True)
        # Of the rectangles of one area, sorted by height, the middle one is the squarest.
        middle = repeats.cumsum(0) - repeats + (repeats - 1) // 2
        height_of = torch.zeros(int(areas[-1]) + 1 if len(areas) else 1, dtype=torch.int16)
        height_of[areas] = h[middle].short()
        return areas, height_of


def largest_area(height: int, width: int, allowed: Allowed) -> int:
    """Area of the largest rectangle of allowed ratio in a cell; 0 if there is none."""
    w = allowed.width_max[: height + 1].clamp(max=width)
    area = torch.arange(height + 1) * w * (w >= allowed.width_min[: height + 1])
    return int(area.max())


def nearest_areas(areas: Tensor, width_min: Tensor, width_max: Tensor) -> Tensor:
    """Of the areas that single rectangles have, the nearest to each of ``areas`` (N,).

    For each height the two widths around the wanted area compete; of two areas equally near the
    smaller wins.
    """
    h = torch.arange(1, len(width_min), device=areas.device)
    least, most = width_min[1:], width_max[1:]
    below = torch.minimum(areas[:, None] // h, most)
    above = torch.maximum(areas[:, None] // h + 1, least)
    smaller = torch.where(below >= least, h * below, -NO_AREA).amax(1)
    larger = torch.where(above <= most, h * above, NO_AREA).amin(1)
    return torch.where(areas - smaller <= larger - areas, smaller, larger)


NO_AREA = 1 << 40


def grid_cells(height: int, width: int, count: int, allowed: Allowed) -> list[Cell]:
    """Cells of the grids that have at least ``count`` cells, that of the largest areas first."""
    cells = []
    for rows in range(1, count + 1):
        columns = -(-count // rows)
        if rows == -(-count // columns) and rows <= height and columns <= width:
            cell = Cell(height, width, rows, columns, allowed)
            if cell.largest:
                cells.append(cell)
    return sorted(cells, key=lambda cell: -cell.largest)


def feasible_runs(low: int, high: int, count: int, cells: list[Cell]) -> tuple[Tensor, Tensor]:
    """Runs of areas from low to high that are all feasible or all not: first areas, and which."""
    first, last = high + 1, high  # what is proved of the range so far
    for cell in cells:
        start, end = cell.proved(count)
        start, end = max(start, low), min(end, high)
        if end - start > last - first:
            first, last = start, end
        if (first, last) == (low, high):
            return torch.tensor([low]), torch.tensor([True])
    feasible = torch.ones(high - low + 1, dtype=torch.bool)
    areas = torch.cat([torch.arange(low, first), torch.arange(last + 1, high + 1)])
    feasible[areas - low] = feasible_areas(areas, count, cells)
    starts = torch.cat([torch.tensor([0]), torch.where(feasible[1:] != feasible[:-1])[0] + 1])
    return starts + low, feasible[starts]


def _pair_interval(cell_height: int, cell_width: int, allowed: Allowed) -> tuple[int, int]:
    """An interval of sums that two rectangles of the cell always reach; (1, 0) if none is proved.

    With heights h and h + 1 the sum is h * w1 + (h + 1) * w2 = h * (w1 + w2) + w2, so any w2
    congruent to the sum modulo h will do, and h consecutive values of w2 hold one. They are there,
    within the limits of both widths, for the sums from ``low`` to ``high`` below. The intervals of
    consecutive h overlap.
    """
    h = torch.arange(1, max(cell_height, 1))
    first_min, second_min = allowed.width_min[h], allowed.width_min[h + 1]
    first_max = allowed.width_max[h].clamp(max=cell_width)
    second_max = allowed.width_max[h + 1].clamp(max=cell_width)
    low = (h + 1) * (h + second_min) + h * first_min
    high = (h + 1) * (second_max - h) + h * first_max
    wide = (second_max - second_min >= h) & (first_max - first_min > h) & (low <= high)
    if not wide.any():
        return 1, 0
    low, order = low[wide].sort()
    reach = high[wide][order].cummax(0).values
    gaps = torch.where(low[1:] > reach[:-1] + 1)[0]
    return int(low[0]), int(reach[gaps[0]] if len(gaps) else reach[-1])


def feasible_areas(areas: Tensor, count: int, cells: list[Cell]) -> Tensor:
    """Whether ``certain_layouts`` finds a layout for each area; mostly without searching it."""
    feasible = torch.zeros(len(areas), dtype=torch.bool)
    for cell in cells:
        if feasible.all():
            return feasible
        index = torch.searchsorted(cell.areas, areas // count, right=True) - 1
        rest = areas - (count - 2) * cell.areas[index.clamp(min=0)]
        feasible |= (index >= 0) & (rest >= cell.pairs[0]) & (rest <= cell.pairs[1])
    left = torch.where(~feasible)[0]
    feasible[left] = certain_layouts(areas[left], count, cells)[0]
    return feasible


def certain_layouts(areas: Tensor, count: int, cells: list[Cell]) -> tuple[Tensor, Tensor]:
    """For each area, whether ``count`` rectangles in the cells of a grid can have it, and how.

    The first grid that can is taken. The layout of an area is (4, 2): rows and columns of the grid,
    then height and width of the ``count - 2`` equal rectangles and of each of the other two.
    """
    feasible = torch.zeros(len(areas), dtype=torch.bool)
    layouts = torch.ones(len(areas), 4, 2, dtype=torch.int16)
    for cell in cells:
        todo = torch.where(~feasible)[0]
        if not len(todo):
            break
        found, sizes = _certain_sizes(areas[todo], count, cell)
        solved = todo[found]
        feasible[solved] = True
        layouts[solved, 0] = torch.tensor([cell.rows, cell.columns], dtype=torch.int16)
        layouts[solved, 1:] = sizes[found]
    return feasible, layouts


def _certain_sizes(areas: Tensor, count: int, cell: Cell) -> tuple[Tensor, Tensor]:
    """Whether, and which, ``count`` rectangles that fit into the cell sum to each area.

    ``count - 2`` of them share one of the SHARE_STEPS areas next below ``area / count``; the other
    two may have any areas.
    """
    known = cell.areas
    feasible = torch.zeros(len(areas), dtype=torch.bool)
    sizes = torch.ones(len(areas), 3, 2, dtype=torch.int16)
    todo = torch.where((areas >= count * known[0]) & (areas <= count * known[-1]))[0]
    for step in range(SHARE_STEPS if count > 2 else 1):
        index = torch.searchsorted(known, areas[todo] // count, right=True) - 1 - step
        todo, index = todo[index >= 0], index[index >= 0]
        if not len(todo):
            break
        share = known[index]
        rest = areas[todo] - (count - 2) * share
        first = _first_of_pair(rest, known, cell.height_of)
        found = first > 0
        for slot, area in enumerate((share, first, rest - first)):
            h = cell.height_of[area[found]]
            sizes[todo[found], slot] = torch.stack([h, (area[found] // h).short()], 1)
        feasible[todo[found]] = True
        todo = todo[~found]
    return feasible, sizes


def _first_of_pair(total: Tensor, known: Tensor, height_of: Tensor) -> Tensor:
    """An area of ``known`` whose complement to ``total`` is known too; 0 where there is none."""
    largest = len(height_of) - 1
    first = torch.zeros_like(total)
    half = torch.searchsorted(known, total // 2, right=True) - 1
    todo = torch.arange(len(total))[(half >= 0) & (total <= 2 * largest)]
    for step in range(32):  # the even splits first: dense areas are solved within a few steps
        todo = todo[half[todo] >= step]
        if not len(todo):
            return first
        area = known[half[todo] - step]
        rest = total[todo] - area
        found = (rest <= largest) & (height_of[rest.clamp(max=largest)] > 0)
        first[todo[found]] = area[found]
        todo = todo[~found]
    for rows in todo.split(max(1, 4_000_000 // len(known))):  # the few left: all areas at once
        rest = total[rows, None] - known
        inside = (rest > 0) & (rest <= largest)
        found = inside & (height_of[rest.clamp(0, largest)] > 0)
        first[rows] = torch.where(found.any(1), known[found.long().argmax(1)], 0)
    return first
