"""Floating images: count, mean and sum of squared deviations in float64, merged pairwise.

Chan, Golub and LeVeque (1979): two sets with n, mean and M2 = sum (x - mean)**2 each merge into
mean = mean_a + d n_b / n and M2 = M2_a + M2_b + d**2 n_a n_b / n, where d = mean_b - mean_a.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import images_per_block


class Moments(NamedTuple):
    """Total weight, weighted mean and weighted sum of squared deviations of each channel.

    The mean is kept as ``origin + offset``: what the sum of the two would round off, where the
    values lie far from 0, is many times the rounding of their differences.
    """

    weight: float
    origin: Tensor
    offset: Tensor
    m2: Tensor

    @property
    def mean(self) -> Tensor:
        """The weighted mean."""
        return self.origin + self.offset

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together."""
        weight = self.weight + other.weight
        share = other.weight / weight
        delta = (other.origin - self.origin) + (other.offset - self.offset)
        return Moments(
            weight,
            self.origin,
            self.offset + delta * share,
            self.m2 + other.m2 + delta * delta * (self.weight * share),
        )


@dataclass
class FloatingTotals:
    """What a collection of floating images adds up to; tensors are float64 (C,), on the CPU.

    Attributes:
        images: Number of images with at least one counted pixel.
        pixel: Moments of the pixels, each of weight 1.
        image: Moments of the image means, each weighted by its squared number of pixels.
        least: Minimum.
        greatest: Maximum.
        image_stds: Sum over images of the standard deviation within an image.
    """

    images: int
    pixel: Moments
    image: Moments
    least: Tensor
    greatest: Tensor
    image_stds: Tensor

    @classmethod
    def of(cls, images: Tensor, mask: Tensor | None) -> "FloatingTotals | None":
        """Reduce images (N, C, H, W) with an optional boolean mask (N, 1, H, W)."""
        if mask is None:
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=images.device)
        mask = mask.expand(len(images), 1, *images.shape[-2:])
        size = images_per_block(images)
        total = None
        for block, keep in zip(images.split(size), mask.split(size), strict=True):
            part = cls._of_block(block, keep)
            if total is None:
                total = part
            elif part is not None:
                total.merge(part)
        return total

    @classmethod
    def _of_block(cls, images: Tensor, mask: Tensor) -> "FloatingTotals | None":
        values = images.detach().double().flatten(2)
        keep = mask.flatten(2)
        count = keep.sum(-1)  # (N, 1)
        seen = count[:, 0] > 0
        if not bool(seen.any()):
            return None
        values, keep, count = values[seen], keep[seen], count[seen].double()
        least = values.where(keep, math.inf).amin(-1)
        greatest = values.where(keep, -math.inf).amax(-1)
        # Relative to the minimum no digits are lost to an offset, and a constant image is all 0.
        values = (values - least[..., None]).where(keep, 0)
        offset = values.sum(-1) / count
        offset = offset.where(offset.isfinite(), math.nan)
        deviation = (values - offset[..., None]).where(keep, 0)
        m2 = deviation.square().sum(-1)
        least, greatest, offset, m2, count = (t.cpu() for t in (least, greatest, offset, m2, count))
        return cls(
            len(m2),
            _pool(count, least, offset, m2),
            _pool(count.square(), least, offset, torch.zeros_like(m2)),
            least.amin(0),
            greatest.amax(0),
            (m2 / count).sqrt().sum(0),
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.least)

    @property
    def pixels(self) -> int:
        """Number of counted pixels, the same in every channel."""
        return int(self.pixel.weight)

    def merge(self, other: "FloatingTotals") -> None:
        """Add the totals of another collection."""
        self.images += other.images
        self.pixel = self.pixel.merge(other.pixel)
        self.image = self.image.merge(other.image)
        self.least = torch.minimum(self.least, other.least)
        self.greatest = torch.maximum(self.greatest, other.greatest)
        self.image_stds = self.image_stds + other.image_stds

    def mean(self) -> list[float]:
        """Return the mean of each channel."""
        return self.pixel.mean.tolist()

    def var(self, correction: int) -> list[float]:
        """Return the pooled variance of each channel."""
        if self.pixels <= correction:
            return [math.nan] * self.channels
        return (self.pixel.m2 / (self.pixels - correction)).tolist()

    def min(self) -> list[float]:
        """Return the least value of each channel."""
        return self.least.tolist()

    def max(self) -> list[float]:
        """Return the greatest value of each channel."""
        return self.greatest.tolist()

    def mean_image_std(self) -> list[float]:
        """Return the mean over images of the standard deviation within an image."""
        return (self.image_stds / self.images).tolist()

    def mean_variance(self) -> list[float]:
        """Return the estimated variance of the mean, images being the independent draws.

        With n_i pixels and mean x_i in image i and pooled mean R it is
        m / (m - 1) * sum (n_i (x_i - R))**2 / (sum n_i)**2 for m images.
        """
        if self.images < 2:
            return [math.nan] * self.channels
        # Both origins are the minimum of the first image.
        shift = self.image.offset - self.pixel.offset
        about_mean = self.image.m2 + self.image.weight * shift.square()
        m = self.images
        return (about_mean * (m / (m - 1)) / self.pixel.weight**2).tolist()


def _pool(weight: Tensor, origin: Tensor, offset: Tensor, m2: Tensor) -> Moments:
    """Merge the moments of N images, (N, 1) and (N, C), at once, about the first's origin."""
    total = weight.sum()
    offset = (origin - origin[0]) + offset
    centre = (weight * offset).sum(0) / total
    spread = (weight * (offset - centre).square()).sum(0)
    return Moments(float(total), origin[0], centre, m2.sum(0) + spread)
