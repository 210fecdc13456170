"""Integer images: sums in whole numbers, results as fractions that are rounded once, later.

Everything kept here is an integer that adds up, so any order, split or merge gives the same state.
"""

import math
import operator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from .blocks import planes_per_block

# The standard deviation of one image is irrational. Each is cut to this many binary places before
# it is added, which makes their sum an integer, and the same in any order; their mean is then
# less than 2**-128 grey levels low.
GUARD_BITS = 128

# A float64 holds the sum of this many products of 16-bit levels exactly.
_EXACT_PRODUCTS = 2**20

# From so many pixels on, counting each 8-bit plane by itself is faster than summing it apart.
_LARGE = 4096


def rounded_sqrt(value: Fraction) -> float:
    """Return the square root of a fraction, correctly rounded to float64."""
    p, q = value.numerator, value.denominator
    # Scale by 4**shift so that the integer root has 64 bits or more. Then a bit below the last
    # one, set if anything was cut, is all that rounding to 53 bits needs to know of the rest.
    shift = max(0, 64 - (p.bit_length() - q.bit_length()) // 2)
    scaled, remainder = divmod(p << (2 * shift), q)
    root = math.isqrt(scaled)
    inexact = remainder != 0 or root * root != scaled
    return (2 * root + inexact) / (1 << (shift + 1))


def _guarded_std(n: int, s: int, q: int) -> int:
    """Return ``floor(2**GUARD_BITS * std)`` of n levels of sum s and sum of squares q."""
    return math.isqrt((n * q - s * s) << (2 * GUARD_BITS)) // n if n else 0


@dataclass
class IntegerTotals:
    """What a collection of uint8 or uint16 images adds up to.

    Attributes:
        dtype: torch.uint8 or torch.uint16.
        histogram: How often each level occurs in each channel, int64 (C, levels), on the CPU.
        images: Number of images with at least one counted pixel.
        image_stds: Per channel, the sum over images of ``floor(2**GUARD_BITS * std)``.
        squared_sums: Per channel, the sum over images of (sum of levels) squared.
        weighted_sums: Per channel, the sum over images of (sum of levels) * (number of pixels).
        squared_pixels: The sum over images of (number of pixels) squared.
        products: Per two channels, the sum of the products of their levels, if asked for.
    """

    dtype: torch.dtype
    histogram: Tensor
    images: int
    image_stds: list[int]
    squared_sums: list[int]
    weighted_sums: list[int]
    squared_pixels: int
    products: list[list[int]] | None = None

    @classmethod
    def of(cls, images: Tensor, mask: Tensor | None, covariance: bool = False) -> "IntegerTotals":
        """Reduce images (N, C, H, W) with an optional boolean mask (N, 1, H, W)."""
        dtype, area = images.dtype, images.shape[-1] * images.shape[-2]
        if dtype == torch.uint16:  # torch computes little in this type
            images = images.int()
        pixels = [area] * len(images)
        if mask is not None:  # hidden pixels become 0, and are taken off the count of zeros below
            images = images * mask
            pixels = mask.sum((1, 2, 3)).tolist()
        histogram, sums, squares = _reduce(images)
        histogram[:, 0] -= len(images) * area - sum(pixels)
        totals = cls._of_sums(dtype, histogram, pixels, sums, squares)
        totals.products = _products(images) if covariance else None
        return totals

    @classmethod
    def of_counts(cls, counts: Tensor) -> "IntegerTotals":
        """Reduce uint8 images whose levels are counted already: int64 (N, C, 256)."""
        pixels = counts[:, 0].sum(-1).tolist()
        return cls._of_sums(torch.uint8, counts.sum(0), pixels, *_moments_of_counts(counts))

    @classmethod
    def _of_sums(
        cls,
        dtype: torch.dtype,
        histogram: Tensor,
        pixels: list[int],
        sums: Tensor,
        squares: Tensor,
    ) -> "IntegerTotals":
        columns = list(zip(sums.T.tolist(), squares.T.tolist(), strict=True))
        return cls(
            dtype,
            histogram,
            images=sum(n > 0 for n in pixels),
            image_stds=[sum(map(_guarded_std, pixels, s, q)) for s, q in columns],
            squared_sums=[sum(x * x for x in s) for s, _ in columns],
            weighted_sums=[sum(map(operator.mul, s, pixels)) for s, _ in columns],
            squared_pixels=sum(n * n for n in pixels),
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.histogram.shape[0]

    @property
    def pixels(self) -> int:
        """Number of counted pixels, the same in every channel."""
        return int(self.histogram[0].sum())

    def merge(self, other: "IntegerTotals") -> None:
        """Add the totals of another collection."""
        self.histogram = self.histogram + other.histogram
        self.images += other.images
        self.squared_pixels += other.squared_pixels
        self.image_stds = _add(self.image_stds, other.image_stds)
        self.squared_sums = _add(self.squared_sums, other.squared_sums)
        self.weighted_sums = _add(self.weighted_sums, other.weighted_sums)
        if self.products is not None and other.products is not None:
            self.products = _add_rows(self.products, other.products)

    def mean(self) -> list[Fraction]:
        """Return the mean of each channel."""
        n = self.pixels
        return [Fraction(s, n) for s, _ in self._sums()]

    def var(self, correction: int) -> list[Fraction] | list[float]:
        """Return the pooled variance of each channel."""
        n = self.pixels
        if n <= correction:
            return [math.nan] * self.channels
        return [Fraction(n * q - s * s, n * (n - correction)) for s, q in self._sums()]

    def covariance(self) -> list[list[Fraction]]:
        """Return the pooled population covariance between every two channels."""
        n, sums = self.pixels, [s for s, _ in self._sums()]
        assert self.products is not None  # ChannelStats has seen to it
        return [
            [Fraction(n * p - a * b, n * n) for p, b in zip(row, sums, strict=True)]
            for row, a in zip(self.products, sums, strict=True)
        ]

    def min(self) -> list[int]:
        """Return the least level of each channel."""
        return [row.nonzero()[0].item() for row in self.histogram]

    def max(self) -> list[int]:
        """Return the greatest level of each channel."""
        return [row.nonzero()[-1].item() for row in self.histogram]

    def quantile(self, q: Fraction) -> list[Fraction]:
        """Interpolate linearly between the two order statistics around rank q (n - 1)."""
        position = q * (self.pixels - 1)
        rank = math.floor(position)
        ranks = torch.tensor([rank, min(rank + 1, self.pixels - 1)])
        # The level of a rank is the first whose cumulative count exceeds it.
        cumulative = self.histogram.cumsum(1)
        pairs = torch.searchsorted(cumulative, ranks.repeat(self.channels, 1), right=True)
        return [low + (position - rank) * (high - low) for low, high in pairs.tolist()]

    def mean_image_std(self) -> list[Fraction]:
        """Return the mean over images of the standard deviation within an image."""
        return [Fraction(total, self.images << GUARD_BITS) for total in self.image_stds]

    def mean_variance(self) -> list[Fraction] | list[float]:
        """Return the estimated variance of the mean, images being the independent draws.

        The pooled mean is the ratio R = sum s_i / sum n_i of image sums and pixel counts; its
        variance is m / (m - 1) * sum (s_i - R n_i)**2 / (sum n_i)**2 for m images.
        """
        m, n = self.images, self.pixels
        if m < 2:
            return [math.nan] * self.channels
        return [
            Fraction(m * (a * n * n - 2 * s * n * b + s * s * self.squared_pixels), (m - 1) * n**4)
            for (s, _), a, b in zip(
                self._sums(), self.squared_sums, self.weighted_sums, strict=True
            )
        ]

    def _sums(self) -> list[tuple[int, int]]:
        """Return the sum of all levels and of their squares, for each channel."""
        level = torch.arange(self.histogram.shape[1])
        sums = _weighted(self.histogram, level)
        return list(zip(sums, _weighted(self.histogram, level.square()), strict=True))


def _weighted(counts: Tensor, weights: Tensor) -> list[int]:
    """Return ``sum counts * weights`` of each row, whatever its size; weights are below 2**32."""
    # An int64 holds the sum over 2**16 levels of a weight times 14 bits of a count.
    totals = [0] * len(counts)
    for shift in range(0, int(counts.max()).bit_length(), 14):
        digits = (counts >> shift) & (2**14 - 1)
        totals = [
            t + (d << shift)
            for t, d in zip(totals, (digits * weights).sum(1).tolist(), strict=True)
        ]
    return totals


def _add(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _add_rows(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [_add(x, y) for x, y in zip(a, b, strict=True)]


def _reduce(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the histogram (C, levels), and per image (N, C) the sum of levels and of squares."""
    large = images[0, 0].numel() >= _LARGE
    if images.dtype == torch.uint8 and images.device.type == "cpu" and large:
        # Counting is the fastest pass over the pixels there is, and the counts of one image hold
        # its sums as well.
        planes = images.contiguous().flatten(0, 1).flatten(1)
        counts = torch.cat([torch.bincount(plane, minlength=256) for plane in planes])
        counts = counts.view(*images.shape[:2], 256)
        return counts.sum(0), *_moments_of_counts(counts)
    levels = 256 if images.dtype == torch.uint8 else 65536
    histogram = torch.stack(
        [torch.bincount(channel.flatten(), minlength=levels) for channel in images.unbind(1)]
    )
    return histogram.cpu(), *_power_sums(images)


def _power_sums(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of levels and of their squares of each image and channel, (N, C)."""
    # Whole numbers below 2**31 or 2**53 at any time: the sums are exact in either type.
    byte = images.dtype == torch.uint8
    wide, exact = (torch.int32, 2**15) if byte else (torch.float64, _EXACT_PRODUCTS)
    planes = images.flatten(0, 1).flatten(1)
    sums = torch.zeros(2, len(planes), dtype=torch.int64, device=images.device)
    size = planes_per_block(planes)
    for block, total in zip(planes.split(size), sums.split(size, dim=1), strict=True):
        for part in block.split(exact, dim=1):
            values = part.to(wide)  # a copy: no other type is as wide
            total[0] += values.sum(1, dtype=wide).long()
            total[1] += values.mul_(values).sum(1, dtype=wide).long()
    first, second = sums.cpu().view(2, *images.shape[:2])
    return first, second


def _products(images: Tensor) -> list[list[int]]:
    """Return the sum over images (N, C, H, W) of the products of every two channels, (C, C)."""
    channels = images.shape[1]
    total = [[0] * channels for _ in range(channels)]
    for block in images.split(planes_per_block(images)):
        for part in block.flatten(2).split(_EXACT_PRODUCTS, dim=2):
            # Every partial sum is a whole number below 2**53: no order of summation rounds.
            values = part.double()
            total = _add_rows(total, (values @ values.mT).long().sum(0).tolist())
    return total


def _moments_of_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of levels and of their squares from counts (N, C, 256), each (N, C)."""
    level = torch.arange(counts.shape[-1])
    return (counts * level).sum(-1), (counts * level.square()).sum(-1)
