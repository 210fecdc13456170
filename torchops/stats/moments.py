"""Floating images: count, mean and sum of squared deviations in float64, merged pairwise.

Chan, Golub and LeVeque (1979): two sets with n, mean and M2 = sum (x - mean)**2 each merge into
mean = mean_a + d n_b / n and M2 = M2_a + M2_b + d**2 n_a n_b / n, where d = mean_b - mean_a.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import planes_per_block


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

    def distance(self, other: "Moments") -> Tensor:
        """Return how far the mean of ``other`` lies above this one."""
        return (other.origin - self.origin) + (other.offset - self.offset)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together."""
        weight = self.weight + other.weight
        share = other.weight / weight
        delta = self.distance(other)
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
        comoment: Sum of the products of the deviations of every two channels, (C, C), if asked for.
    """

    images: int
    pixel: Moments
    image: Moments
    least: Tensor
    greatest: Tensor
    image_stds: Tensor
    comoment: Tensor | None = None

    @classmethod
    def of(
        cls, images: Tensor, mask: Tensor | None, covariance: bool = False
    ) -> "FloatingTotals | None":
        """Reduce images (N, C, H, W) with an optional boolean mask (N, 1, H, W)."""
        values = images.detach().flatten(2)
        keep = None if mask is None else mask.flatten(2).expand(values.shape)
        least, greatest, offset, m2 = _reduce_planes(values, keep)
        if keep is None:
            count = torch.full((len(values), 1), values.shape[2], device=values.device)
        else:
            count = keep[:, :1].sum(-1)
            seen = count[:, 0] > 0
            if not bool(seen.any()):
                return None
            values, keep, count = values[seen], keep[seen], count[seen]
            least, greatest, offset, m2 = (t[seen] for t in (least, greatest, offset, m2))
        products = _products(values, keep, least, offset) if covariance else None
        least, greatest, offset, m2, count = (
            t.double().cpu() for t in (least, greatest, offset, m2, count)
        )
        total = cls(
            len(m2),
            _pool(count, least, offset, m2),
            _pool(count.square(), least, offset, torch.zeros_like(m2)),
            least.amin(0),
            greatest.amax(0),
            (m2 / count).sqrt().sum(0),
        )
        if products is not None:
            between = (least - least[0]) + offset - total.pixel.offset
            total.comoment = products.cpu() + (count * between).mT @ between
        return total

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
        if self.comoment is not None and other.comoment is not None:
            delta = self.pixel.distance(other.pixel)
            share = self.pixel.weight * (other.pixel.weight / (self.pixels + other.pixels))
            self.comoment = self.comoment + other.comoment + torch.outer(delta, delta) * share
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

    def covariance(self) -> list[list[float]]:
        """Return the pooled population covariance between every two channels."""
        assert self.comoment is not None  # ChannelStats has seen to it
        # A matrix product rounds its two halves differently.
        matrix = (self.comoment + self.comoment.T) / (2 * self.pixels)
        matrix.diagonal().copy_(self.pixel.m2 / self.pixels)
        return matrix.tolist()

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


def _reduce_planes(values: Tensor, keep: Tensor | None) -> tuple[Tensor, ...]:
    """Return of each plane (N, C, P) the minimum, maximum, mean above the minimum, and M2."""
    shape, values = values.shape[:2], values.flatten(0, 1)
    size = planes_per_block(values)
    blocks = values.split(size)
    masks = [None] * len(blocks) if keep is None else keep.flatten(0, 1).split(size)
    parts = [_reduce_block(b, k) for b, k in zip(blocks, masks, strict=True)]
    return tuple(torch.cat(column).view(shape) for column in zip(*parts, strict=True))


def _reduce_block(values: Tensor, keep: Tensor | None) -> tuple[Tensor, ...]:
    if keep is None:
        least, greatest = values.amin(1).double(), values.amax(1).double()
        count: int | Tensor = values.shape[1]
    else:
        values = values.double()
        least = values.where(keep, math.inf).amin(1)
        greatest = values.where(keep, -math.inf).amax(1)
        values = values.where(keep, least[:, None])
        count = keep.sum(1)
    # Relative to the minimum no digits are lost to an offset, and a constant image is all 0.
    deviation = values.to(torch.float64, copy=True).sub_(least[:, None])
    offset = deviation.sum(1) / count
    offset = offset.where(offset.isfinite(), math.nan)
    deviation.sub_(offset[:, None])
    if keep is not None:
        deviation.masked_fill_(~keep, 0)
    return least, greatest, offset, deviation.mul_(deviation).sum(1)


def _products(values: Tensor, keep: Tensor | None, least: Tensor, offset: Tensor) -> Tensor:
    """Sum the products of the deviations of every two channels from each image's own means."""
    total = values.new_zeros((values.shape[1], values.shape[1]), dtype=torch.float64)
    size = planes_per_block(values)
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        deviation = values[part].double() - least[part, :, None] - offset[part, :, None]
        if keep is not None:
            deviation = deviation.where(keep[part], 0)
        total += (deviation @ deviation.mT).sum(0)
    return total
