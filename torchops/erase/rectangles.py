"""Rectangles of allowed ratio, and the layout that certainly exists for an area and a count.

A count of two or more is feasible when its rectangles fit one to a cell into a grid of equal cells:
that is a rule one can decide before drawing, for each area exactly. Everything here is integer
arithmetic on whole tables and runs on the host.
"""

from typing import NamedTuple

import torch
from torch import Tensor

HEIGHT_BITS = 20  # a rectangle is stored as area << 20 | height, so that sorting sorts by area
SHARE_STEPS = 16  # how many areas next below area / count the certain layout tries


class Allowed(NamedTuple):
    """The rectangles of allowed ratio in an image."""

    width_min: Tensor  # (H + 1,) least allowed width of each height
    width_max: Tensor  # (H + 1,) greatest; below width_min where there is none
    rectangles: Tensor  # sorted area << 20 | height of all, up to the first above the area limit


def allowed_rectangles(
    height: int, width: int, ratio: tuple[float, float], area_high: int
) -> Allowed:
    """List the rectangles with ``low <= h / w <= high`` that fit into the image."""
    width_min, width_max = _width_limits(height, width, ratio)
    return Allowed(width_min, width_max, _rectangles(width_min, width_max, area_high))


def _width_limits(height: int, width: int, ratio: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Least and greatest allowed width of each height; allowed is ``low <= h / w <= high``.

    The quotient is the float64 one, so a limit such as 3.3 admits 33 x 10. The estimate may be one
    off, hence the corrections.
    """
    low, high = ratio
    h = torch.arange(height + 1, dtype=torch.float64)
    least = (h / high).ceil().clamp(1, width + 1)
    least += (h / least > high).double()
    least -= ((least > 1) & (h / (least - 1).clamp(min=1) <= high)).double()
    greatest = (h / low).floor().clamp(max=width)
    greatest += ((greatest < width) & (h / (greatest + 1) >= low)).double()
    greatest -= ((greatest > 0) & (h / greatest.clamp(min=1) < low)).double()
    greatest[0] = 0
    return least.long(), greatest.long()


def _rectangles(width_min: Tensor, width_max: Tensor, area_high: int) -> Tensor:
    """Sorted ``area << 20 | height`` of all allowed rectangles up to the first above area_high."""
    h = torch.arange(len(width_min))
    above = torch.maximum(width_min, area_high // h.clamp(min=1) + 1)
    reachable = (h * above)[above <= width_max]
    limit = int(reachable.min()) if len(reachable) else area_high
    widest = torch.minimum(width_max, limit // h.clamp(min=1))
    number = (widest - width_min + 1).clamp(min=0)
    first = number.cumsum(0) - number
    hs = h.repeat_interleave(number)
    ws = torch.arange(len(hs)) + (width_min - first).repeat_interleave(number)
    return ((hs * ws << HEIGHT_BITS) + hs).sort().values


def nearest_area(areas: Tensor, rectangles: Tensor) -> Tensor:
    """Of the areas that rectangles have, the nearest to each of ``areas`` (ties: the smaller)."""
    known = (rectangles >> HEIGHT_BITS).unique()
    above = torch.searchsorted(known, areas).clamp(max=len(known) - 1)
    below = (above - 1).clamp(min=0)
    closer_below = (areas - known[below]).abs() <= (known[above] - areas).abs()
    return torch.where(closer_below, known[below], known[above])


class Cell(NamedTuple):
    """What fits into one cell of a grid."""

    rows: int
    columns: int
    areas: Tensor  # ascending areas of the rectangles that fit
    height_of: Tensor  # height of the squarest rectangle of each area, 0 where there is none
    pairs: tuple[int, int]  # every sum in this interval is the sum of two areas that fit


def grid_cells(height: int, width: int, count: int, allowed: Allowed) -> list[Cell]:
    """Cells of the grids that have at least ``count`` cells, that of the largest areas first."""
    cells = []
    for rows in range(1, count + 1):
        columns = -(-count // rows)
        if rows == -(-count // columns) and rows <= height and columns <= width:
            cell = _cell(height, width, rows, columns, allowed)
            if len(cell.areas):
                cells.append(cell)
    return sorted(cells, key=lambda cell: -int(cell.areas[-1]))


def _cell(height: int, width: int, rows: int, columns: int, allowed: Allowed) -> Cell:
    cell_height, cell_width = height // rows, width // columns
    h = allowed.rectangles & ((1 << HEIGHT_BITS) - 1)
    area = allowed.rectangles >> HEIGHT_BITS
    inside = (h <= cell_height) & (area <= h * cell_width)
    h, area = h[inside], area[inside]
    areas, repeats = area.unique_consecutive(return_counts=True)
    # Of the rectangles of one area, sorted by height, the middle one is the squarest.
    middle = repeats.cumsum(0) - repeats + (repeats - 1) // 2
    height_of = torch.zeros(int(areas[-1]) + 1 if len(areas) else 1, dtype=torch.int16)
    height_of[areas] = h[middle].short()
    return Cell(rows, columns, areas, height_of, _pair_interval(cell_height, cell_width, allowed))


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
