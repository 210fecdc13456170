"""What can be decided before any random number is drawn: one cached plan per request.

A request is an image size, a range of fractions, of counts and of ratios. Its plan holds the
rectangles of allowed ratio by area, and which counts are feasible for each area. What few draws
need, as the certain layout that keeps a draw from failing, is found at the first of them.
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.checks import describe

from .rectangles import (
    Range,
    allowed_rectangles,
    certain_layouts,
    feasible_runs,
    grid_cells,
    largest_area,
    nearest_areas,
)

BITS = 31  # a random number is a uniform integer in [0, 2**31)
CANDIDATES = 8  # random layouts tried before the certain one is taken
# Widths tried for the last but one rectangle until the last one's area is that of a rectangle.
NUDGES = (0, -1, 1, -2, 2, -3, 3, -4, 4)
RATIO_BITS = 20  # ratios as fixed-point integers: integer arithmetic has the same bits everywhere
RATIO_STEPS = 1024  # log-uniform quantiles of the ratio

Layout = list[list[int]]  # as a row of certain_layouts


class Tables(NamedTuple):
    """What a draw looks up, as tensors on a device.

    Which counts are feasible changes only now and then as the area grows: there is a row for each
    run of areas that agree.
    """

    width_min: Tensor  # (H + 1,)
    width_max: Tensor  # (H + 1,)
    rectangles: Tensor  # sorted area << 20 | height
    ratios: Tensor  # (RATIO_STEPS,) fixed-point, ascending
    starts: Tensor  # (runs,) the first area of each run, ascending
    choices: Tensor  # (runs, counts) the feasible counts, then the others
    choice_counts: Tensor  # (runs,) how many are feasible


class Plan:
    """A request and its tables; :func:`make_plan` keeps the plans of the last few requests."""

    def __init__(
        self, height: int, width: int, fraction: Range, count: tuple[int, int], ratio: Range
    ) -> None:
        self.height, self.width, self.fraction, self.count = height, width, fraction, count
        self.area_low, self.area_high = (math.floor(f * height * width + 0.5) for f in fraction)
        self.candidate_numbers = _numbers_per_candidate(count[1])
        self.allowed = allowed_rectangles(height, width, ratio, self.area_high)
        self.largest = largest_area(height, width, self.allowed)
        self.cells = {
            k: grid_cells(height, width, k, self.allowed)
            for k in range(max(2, count[0]), count[1] + 1)
        }
        starts, feasible = self._feasible()
        number = feasible.sum(1)
        if not number.all():
            raise self._infeasible(starts, number == 0, ratio)
        self.tables = Tables(
            *self.allowed,
            # No rectangle here has a ratio outside of these.
            ratios=_log_uniform_ratios(*(min(max(r, 1 / width), height) for r in ratio)),
            starts=starts,
            choices=feasible.long().argsort(dim=1, descending=True, stable=True) + count[0],
            choice_counts=number,
        )
        self._on_device: dict[torch.device, Tables] = {}
        self._certain_on_device: dict[torch.device, Tensor] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._nearest: dict[int, int] = {}

    def _feasible(self) -> tuple[Tensor, Tensor]:
        """First areas (runs,) of the runs, and which counts are feasible there (runs, counts)."""
        low, high = self.area_low, self.area_high
        runs = [
            feasible_runs(low, high, k, self.cells[k]) if k > 1 else self._alone()
            for k in range(self.count[0], self.count[1] + 1)
        ]
        starts = torch.cat([first for first, _ in runs]).unique()
        rows = [which[torch.searchsorted(first, starts, right=True) - 1] for first, which in runs]
        return starts, torch.stack(rows, dim=1)

    def _alone(self) -> tuple[Tensor, Tensor]:
        """Where one rectangle, which takes the nearest area, may stand for the area asked."""
        if self.largest and (self.count == (1, 1) or self.largest >= self.area_high):
            return torch.tensor([self.area_low]), torch.tensor([True])
        if self.largest < max(self.area_low, 1):
            return torch.tensor([self.area_low]), torch.tensor([False])
        return torch.tensor([self.area_low, self.largest + 1]), torch.tensor([True, False])

    def _infeasible(self, starts: Tensor, lost: Tensor, ratio: Range) -> ValueError:
        low, high = self.count
        ends = [*(starts[1:] - 1).tolist(), self.area_high]
        first, last = int(starts[lost][0]), ends[int(torch.where(lost)[0][-1])]
        one_fraction = self.fraction[0] == self.fraction[1]
        return ValueError(
            f"fraction must be what {low if low == high else f'{low} to {high}'} disjoint "
            f"rectangle(s) with height / width in {describe_range(ratio)} can cover exactly in an "
            f"image of size {self.height} x {self.width}, got "
            f"{describe(self.fraction[0]) if one_fraction else describe_range(self.fraction)}: no "
            f"layout has {first if first == last else f'{first} to {last}'} pixels; choose another "
            "fraction (a full image needs a smaller one), a wider ratio or another count"
        )

    def certain_layout(self, area: int, count: int) -> Layout:
        """The layout of one area that exists when the candidates fail."""
        if (area, count) not in self._layouts:
            layouts = certain_layouts(torch.tensor([area]), count, self.cells[count])[1]
            self._layouts[area, count] = layouts[0].tolist()
        return self._layouts[area, count]

    def certain_layouts(self, areas: Tensor, counts: Tensor) -> Tensor:
        """The same for many areas and counts at once, (N, 4, 2)."""
        layouts = torch.ones(len(areas), 4, 2, dtype=torch.int64)  # one rectangle always fits
        for k in range(max(2, self.count[0]), self.count[1] + 1):
            rows = torch.where(counts == k)[0]
            some, place = areas[rows].unique(return_inverse=True)
            layouts[rows] = certain_layouts(some, k, self.cells[k])[1].long()[place]
        return layouts

    def nearest(self, area: int) -> int:
        """The area of a single rectangle that comes nearest to the area asked."""
        if area not in self._nearest:
            limits = self.allowed.width_min, self.allowed.width_max
            self._nearest[area] = int(nearest_areas(torch.tensor([area]), *limits)[0])
        return self._nearest[area]

    def on(self, device: torch.device) -> Tables:
        """The tables on the device of a batched draw."""
        if device not in self._on_device:
            self._on_device[device] = Tables(*(table.to(device) for table in self.tables))
        return self._on_device[device]

    def certain_on(self, device: torch.device) -> Tensor:
        """The certain layouts of all areas and counts, (areas, counts, 4, 2).

        For a device that one does not want to wait for, since looking up a few would be waiting.
        """
        if device not in self._certain_on_device:
            areas = torch.arange(self.area_low, self.area_high + 1)
            layouts = [
                self.certain_layouts(areas, torch.full_like(areas, k)).short()
                for k in range(self.count[0], self.count[1] + 1)
            ]
            self._certain_on_device[device] = torch.stack(layouts, dim=1).to(device)
        return self._certain_on_device[device]

    @cached_property
    def views(self) -> tuple[memoryview, ...]:
        """The tables flattened, for plain Python: indexing yields ints and makes no tensor."""
        return tuple(table.flatten().numpy().data for table in self.tables)


def numbers_per_image(max_count: int) -> int:
    """Random numbers of one image: area, count, first cell, 2 K offsets, the candidates."""
    return 3 + 2 * max_count + CANDIDATES * _numbers_per_candidate(max_count)


def _numbers_per_candidate(max_count: int) -> int:
    """K shares, 4 for each of the K - 1 cuts, K sizes."""
    return 6 * max_count - 4


@lru_cache(maxsize=32)
def make_plan(
    height: int, width: int, fraction: Range, count: tuple[int, int], ratio: Range
) -> Plan:
    """Make the plan of a request, or raise ValueError where it has no answer."""
    return Plan(height, width, fraction, count, ratio)


def describe_range(pair: Sequence[object]) -> str:
    """Write a range as the user wrote it."""
    return f"({', '.join(describe(value) for value in pair)})"


@lru_cache(maxsize=32)
def _log_uniform_ratios(low: float, high: float) -> Tensor:
    """Quantiles of the log-uniform law, as fixed-point integers."""
    start, step = math.log(low), math.log(high / low) / RATIO_STEPS
    values = [math.exp(start + (i + 0.5) * step) for i in range(RATIO_STEPS)]
    return torch.tensor([max(round(value * 2**RATIO_BITS), 1) for value in values])
