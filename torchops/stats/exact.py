"""Integer images: sums in whole numbers, results as fractions that are rounded once, later.

Everything kept here is an integer that adds up, so any order, split or merge gives the same state.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from .blocks import images_per_block

# The standard deviation of one image is irrational. Each is cut to this many binary places before
# it is added, which makes their sum an integer, and the same in any order; their mean is then
# less than 2**-128 grey levels low.
GUARD_BITS = 128


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
    """

    dtype: torch.dtype
    histogram: Tensor
    images: int = 0
    image_stds: list[int] = field(default_factory=list)
    squared_sums: list[int] = field(default_factory=list)
    weighted_sums: list[int] = field(default_factory=list)
    squared_pixels: int = 0

    @classmethod
    def of(cls, images: Tensor, mask: Tensor | None) -> "IntegerTotals":
        """Reduce images (N, C, H, W) with an optional boolean mask (N, 1, H, W)."""
        histogram, sums, squares = _reduce(images, mask)
        area = images.shape[-1] * images.shape[-2]
        pixels = [area] * len(images) if mask is None else mask.sum((1, 2, 3)).tolist()
        return cls._of_sums(images.dtype, histogram, pixels, sums, squares)

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
        zeros = [0] * len(histogram)
        totals = cls(
            dtype,
            histogram,
            sum(n > 0 for n in pixels),
            list(zeros),
            list(zeros),
            list(zeros),
            sum(n * n for n in pixels),
        )
        for n, image_sums, image_squares in zip(
            pixels, sums.tolist(), squares.tolist(), strict=True
        ):
            if n > 0:
                for c, (s, q) in enumerate(zip(image_sums, image_squares, strict=True)):
                    root = math.isqrt((n * q - s * s) << (2 * GUARD_BITS))
                    totals.image_stds[c] += root // n
                    totals.squared_sums[c] += s * s
                    totals.weighted_sums[c] += s * n
        return totals

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
    for shift in range(0, 63, 14):
        digits = (counts >> shift) & (2**14 - 1)
        totals = [
            t + (d << shift)
            for t, d in zip(totals, (digits * weights).sum(1).tolist(), strict=True)
        ]
    return totals


def _add(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _reduce(images: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the histogram (C, levels), and per image (N, C) the sum of levels and of squares."""
    levels = 256 if images.dtype == torch.uint8 else 65536
    if images.dtype == torch.uint16:  # torch computes little in this type
        images = images.int()
    if mask is not None:  # hidden pixels become 0, and are taken off the count of zeros below
        images = images * mask
    if levels == 256 and images.device.type == "cpu":
        # Counting is the fastest pass over the pixels there is, and the counts of one image hold
        # its sums as well.
        counts = _count_each(images)
        histogram = counts.sum(0)
        sums, squares = _moments_of_counts(counts)
    else:
        histogram = torch.stack(
            [torch.bincount(channel.flatten(), minlength=levels) for channel in images.unbind(1)]
        ).cpu()
        blocks = [_power_sums(b.long()) for b in images.split(images_per_block(images))]
        sums, squares = torch.cat(blocks, dim=1)
    if mask is not None:
        histogram[:, 0] -= mask.numel() - mask.sum().item()
    return histogram, sums, squares


def _moments_of_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of levels and of their squares from counts (N, C, 256), each (N, C)."""
    level = torch.arange(counts.shape[-1])
    return (counts * level).sum(-1), (counts * level.square()).sum(-1)


def _count_each(images: Tensor) -> Tensor:
    """Count the levels of uint8 images by image and channel, (N, C, 256)."""
    planes = images.contiguous().flatten(0, 1).flatten(1)
    if planes.shape[1] >= 4096:
        counts = [torch.bincount(plane, minlength=256) for plane in planes]
    else:
        # One call for many small planes, each with its own 256 levels.
        counts = []
        for block in planes.split(images_per_block(images) * images.shape[1]):
            offset = 256 * torch.arange(len(block), dtype=torch.int32)
            own_levels = (block + offset[:, None]).flatten()
            counts.append(torch.bincount(own_levels, minlength=256 * len(block)))
    return torch.cat(counts).view(*images.shape[:2], 256)


def _power_sums(values: Tensor) -> Tensor:
    """Return the sums of values (N, C, H, W) and of their squares, (2, N, C)."""
    return torch.stack([values.sum((-1, -2)), values.square().sum((-1, -2))])
