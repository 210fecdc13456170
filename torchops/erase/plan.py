"""What can be decided before any random number is drawn: one cached plan per request.

A request is an image size, a range of fractions, of counts and of ratios. Its plan holds the
rectangles of allowed ratio by area, which counts are feasible for each area, and for each of those
one certain layout, so that a draw cannot fail.
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.checks import describe

from .rectangles import (
    Allowed,
    Cell,
    allowed_rectangles,
    certain_layouts,
    feasible_areas,
    grid_cells,
    nearest_area,
)

BITS = 31  # a random number is a uniform integer in [0, 2**31)
CANDIDATES = 8  # random layouts tried before the certain one is taken
RATIO_BITS = 20  # ratios as fixed-point integers: integer arithmetic has the same bits everywhere
RATIO_STEPS = 1024  # log-uniform quantiles of the ratio

Range = tuple[float, float]
Layout = list[list[int]]  # as a row of certain_layouts


class Tables(NamedTuple):
    """What a draw looks up, as tensors on a device; first index of those per area: area_low."""

    width_min: Tensor  # (H + 1,)
    width_max: Tensor  # (H + 1,)
    rectangles: Tensor  # sorted area << 20 | height
    ratios: Tensor  # (RATIO_STEPS,) fixed-point, ascending
    nearest: Tensor  # (areas,) area of a single rectangle that comes nearest
    choices: Tensor  # (areas, counts) the feasible counts, then the others
    choice_counts: Tensor  # (areas,) how many are feasible


class Plan:
    """A request and its tables; :func:`make_plan` keeps the plans of the last few requests."""

    def __init__(
        self, height: int, width: int, fraction: Range, count: tuple[int, int], ratio: Range
    ) -> None:
        self.height, self.width, self.fraction, self.count = height, width, fraction, count
        self.area_low, self.area_high = (math.floor(f * height * width + 0.5) for f in fraction)
        self.candidate_numbers = _numbers_per_candidate(count[1])
        allowed = allowed_rectangles(height, width, ratio, self.area_high)
        self.areas = torch.arange(self.area_low, self.area_high + 1)
        self.cells: dict[int, list[Cell]] = {
            k: grid_cells(height, width, k, allowed) for k in range(max(2, count[0]), count[1] + 1)
        }
        feasible = torch.stack(
            [
                feasible_areas(self.areas, k, self.cells[k])
                if k > 1
                else _feasible_alone(self.areas, allowed, always=count == (1, 1))
                for k in range(count[0], count[1] + 1)
            ],
            dim=1,
        )
        if not feasible.any(1).all():
            raise self._infeasible(self.areas[~feasible.any(1)], ratio)
        self.tables = Tables(
            *allowed,
            # No rectangle here has a ratio outside of these.
            ratios=_log_uniform_ratios(*(min(max(r, 1 / width), height) for r in ratio)),
            nearest=nearest_area(self.areas, allowed.rectangles),
            choices=feasible.long().argsort(dim=1, descending=True, stable=True) + count[0],
            choice_counts=feasible.sum(1),
        )
        self._on_device: dict[torch.device, tuple[Tables, Tensor]] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}

    def _infeasible(self, areas: Tensor, ratio: Range) -> ValueError:
        low, high = self.count
        first, last = int(areas[0]), int(areas[-1])
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

    @cached_property
    def certain(self) -> Tensor:
        """The same of all areas and counts, (areas, counts, 4, 2)."""
        unused = torch.ones(len(self.areas), 4, 2, dtype=torch.int16)  # one rectangle always fits
        layouts = [
            certain_layouts(self.areas, k, self.cells[k])[1] if k > 1 else unused
            for k in range(self.count[0], self.count[1] + 1)
        ]
        return torch.stack(layouts, dim=1)

    def on(self, device: torch.device) -> tuple[Tables, Tensor]:
        """The tables and the certain layouts on the device of a batched draw."""
        if device not in self._on_device:
            tables = Tables(*(table.to(device) for table in self.tables))
            self._on_device[device] = tables, self.certain.to(device)
        return self._on_device[device]

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


def _feasible_alone(areas: Tensor, allowed: Allowed, *, always: bool) -> Tensor:
    """Whether one rectangle, which takes the nearest area, may stand for the area asked."""
    h = torch.arange(len(allowed.width_min))
    sizes = (h * allowed.width_max)[allowed.width_min <= allowed.width_max]
    if not len(sizes):
        return torch.zeros(len(areas), dtype=torch.bool)
    return (areas <= sizes.max()) | always


@lru_cache(maxsize=32)
def _log_uniform_ratios(low: float, high: float) -> Tensor:
    """Quantiles of the log-uniform law, as fixed-point integers."""
    start, step = math.log(low), math.log(high / low) / RATIO_STEPS
    values = [math.exp(start + (i + 0.5) * step) for i in range(RATIO_STEPS)]
    return torch.tensor([max(round(value * 2**RATIO_BITS), 1) for value in values])
