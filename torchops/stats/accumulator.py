"""`ChannelStats`: statistics of each channel over a stream of images."""

import math
from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from torchops._common.checks import (
    FLOATING,
    check_bool,
    check_choice,
    check_dtype,
    check_image,
    check_number,
    check_same_device,
    check_tensor,
    describe,
)

from .exact import IntegerTotals, rounded_sqrt
from .moments import FloatingTotals
from .state import Totals, kind_of, name_of, state_of, totals_of

INTEGER = (torch.uint8, torch.uint16)


class ChannelStats:
    """Accumulate mean, std, extremes and quantiles of each channel over images of any size.

    Every pixel of every image counts the same: with n pixels x of a channel in all images,
    ``mean = sum x / n`` and ``std = sqrt(sum (x - mean)**2 / n)``. That is the pooled population
    std, what ``Normalize`` needs to reach 1. The mean of the stds of the single images, which the
    well-known ImageNet numbers are, is ``mean_image_std``; it is smaller whenever images differ in
    brightness.

    **Integer images** (uint8, uint16) are counted, not averaged: each property is the true value
    rounded once to float64, whatever the order, the split into batches, workers or ranks, and the
    device; ``mean_image_std``, a sum of irrational numbers, has the same bits in any order too and
    is within 2**-128 grey levels of the truth before its rounding.

    **Floating images** are reduced to float64 mean and squared deviations per image, in two passes,
    and merged pairwise; an offset far larger than the std costs no more digits than the data have
    lost already. A NaN or an infinity makes the mean and the stds of its channel NaN; ``min`` and
    ``max`` are NaN after a NaN and keep an infinity. Mask such pixels to leave them out.

    To reduce in parallel, give each part its own object and ``merge`` them, in any order for
    integers: that is the reduce step of any map-reduce engine. Objects pickle. Nothing is
    differentiable, and each update waits for the images' device.

    Args:
        scale: Report integer images in [0, 1], divided by 255 or 65535 as torchvision's
            ``ToDtype(torch.float32, scale=True)`` does, instead of in grey levels. Default True,
            since that is where ``Normalize`` acts. Floating images are never scaled.
        covariance: Also sum the products of every two channels, for ``covariance``. Default False:
            it takes a second pass over the pixels.

    Attributes:
        with_covariance: The option ``covariance``.
        skipped: Names of the images that ``dataset_stats(..., on_error="skip")`` left out.

    References:
        Chan, Golub and LeVeque (1979), for the merging of moments.

    Example:
        >>> stats = ChannelStats(scale=False)
        >>> _ = stats.update(torch.tensor([[[250, 251], [251, 250]]], dtype=torch.uint8))
        >>> stats.mean.item(), stats.std.item()
        (250.5, 0.5)
    """

    def __init__(self, *, scale: bool = True, covariance: bool = False):
        check_bool("scale", scale)
        check_bool("covariance", covariance)
        self.scale = scale
        self.with_covariance = covariance
        self.skipped: list[str] = []
        self._totals: Totals | None = None

    def update(
        self,
        images: Shaped[Tensor, "*batch c h w"],
        mask: Bool[Tensor, "... 1 h w"] | None = None,
    ) -> "ChannelStats":
        """Count the pixels of some images.

        Args:
            images: (*batch, C, H, W), uint8, uint16, or floating (all floating types mix); of any
                size, the same number of channels at every call. An empty batch changes nothing.
            mask: Boolean, (*batch, 1, H, W), batch dimensions broadcast to those of ``images``:
                True counts. An image without a counted pixel is as if it had not been given.

        Returns:
            This object.

        Raises:
            TypeError: Wrong dtype, or integers after floats, uint16 after uint8 and the like.
            ValueError: Wrong shape, another number of channels than before, or a mask that does
                not fit or lives on another device.
        """
        check_image("images", images, dtypes=(*INTEGER, *FLOATING))
        if images.shape[-1] * images.shape[-2] >= 2**31:
            raise ValueError(
                f"images must have less than 2**31 pixels each, got {describe(images)}; "
                "pass them in tiles"
            )
        kind = images.dtype if images.dtype in INTEGER else torch.float64
        self._check_fits("images", describe(images), kind, images.shape[-3])
        batch = images.shape[:-3]
        if mask is not None:
            mask = _expand_mask(mask, images).reshape(-1, 1, *images.shape[-2:])
        if math.prod(batch) > 0:
            flat = images.detach().reshape(-1, *images.shape[-3:])
            of = IntegerTotals.of if images.dtype in INTEGER else FloatingTotals.of
            self._add(of(flat, mask, self.with_covariance))
        return self

    def merge(self, other: "ChannelStats") -> "ChannelStats":
        """Count everything that ``other`` has counted; an empty ``other`` changes nothing.

        Returns:
            This object; ``other`` is unchanged.

        Raises:
            TypeError: ``other`` is no ChannelStats, or counted another kind of image.
            ValueError: ``other`` has another number of channels, or was made with other options.
        """
        if not isinstance(other, ChannelStats):
            raise TypeError(f"other must be a ChannelStats, got {describe(other)}")
        if other._options != self._options:
            wanted, came = (
                ", ".join(f"{name}={value}" for name, value in stats._options.items())
                for stats in (self, other)
            )
            raise ValueError(f"other must have {wanted}, got {came}")
        totals = other._totals
        if totals is not None:
            kind = kind_of(totals)
            came = f"{name_of(kind)} images with {totals.channels} channel(s)"
            self._check_fits("other", came, kind, totals.channels)
            self._add(totals)
        self.skipped = self.skipped + other.skipped
        return self

    def __add__(self, other: "ChannelStats") -> "ChannelStats":
        """Return the statistics of both collections together."""
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return ChannelStats(**self._options).merge(self).merge(other)

    def all_reduce(self, group: Any = None) -> "ChannelStats":
        """Merge the statistics of all processes of a ``torch.distributed`` group, in each of them.

        Call it once, in every process, after the last update; a process without images takes part
        too. Give each image to one process only: ``DistributedSampler`` repeats images to make the
        shards equal, ``dataset_stats(data, shard=(rank, world_size))`` does not. If a process has
        died the others raise or time out; none returns a part for the whole.

        Args:
            group: The process group; None is the default group. Any backend; with NCCL call
                ``torch.cuda.set_device`` first, since what travels goes by the current GPU.

        Returns:
            This object, which now holds the same statistics in every process.

        Raises:
            RuntimeError: No process group has been initialised.
            TypeError: The processes counted different kinds of images; raised in all of them.
            ValueError: They counted different numbers of channels; raised in all of them.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError(
                "all_reduce must run in an initialised process group, got none; "
                "call torch.distributed.init_process_group first"
            )
        parts: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(parts, self, group=group)
        total = ChannelStats(**self._options)
        for part in parts:  # in the order of the ranks, so that all get the same floats
            total.merge(part)
        self._totals, self.skipped = total._totals, total.skipped
        return self

    def reset(self) -> "ChannelStats":
        """Forget everything counted so far."""
        self._totals = None
        self.skipped = []
        return self

    @property
    def images(self) -> int:
        """Number of images with at least one counted pixel."""
        return 0 if self._totals is None else self._totals.images

    @property
    def pixels(self) -> int:
        """Number of counted pixels, the same in every channel."""
        return 0 if self._totals is None else self._totals.pixels

    @property
    def mean(self) -> Float64[Tensor, " c"]:
        """Mean over all pixels."""
        return self._report(self._seen().mean())

    @property
    def std(self) -> Float64[Tensor, " c"]:
        """Population standard deviation over all pixels, between images and within."""
        return self._report_root(self._seen().var(0))

    def var(self, correction: int = 0) -> Float64[Tensor, " c"]:
        """Return the variance over all pixels.

        Args:
            correction: 0 divides by the number n of pixels, 1 by n - 1 (NaN for a single pixel).
        """
        check_choice("correction", correction, (0, 1))
        return self._report(self._seen().var(int(correction)), power=2)

    @property
    def min(self) -> Float64[Tensor, " c"]:
        """Minimum over all pixels."""
        return self._report(self._seen().min())

    @property
    def max(self) -> Float64[Tensor, " c"]:
        """Maximum over all pixels."""
        return self._report(self._seen().max())

    @property
    def covariance(self) -> Float64[Tensor, "c c"]:
        """Population covariance between the channels over all pixels; its diagonal is ``var(0)``.

        Its eigenvectors are the principal axes of the colours. Needs ``covariance=True`` from the
        beginning.

        Raises:
            ValueError: This object was made without ``covariance=True``.
        """
        if not self.with_covariance:
            raise ValueError(
                "covariance must be asked for before images are counted, got covariance=False; "
                "make this object by ChannelStats(covariance=True)"
            )
        rows = [self._report(row, power=2) for row in self._seen().covariance()]
        return torch.stack(rows)

    def quantile(self, q: float | Sequence[float]) -> Float64[Tensor, "*q c"]:
        """Return quantiles over all pixels of integer images, by torch.quantile's linear rule.

        The quantile interpolates linearly between the order statistics on either side of rank
        ``q * (n - 1)``, counted from 0. ``q`` is taken for the decimal number that it prints as, so
        that 0.3 of 11 pixels is the fourth of them and not a hair less.

        Args:
            q: Number in [0, 1], or several.

        Returns:
            (C,) for a number, (len(q), C) for several.

        Raises:
            TypeError: The images were floating: their values are not kept.
            ValueError: ``q`` lies outside [0, 1].
        """
        several = isinstance(q, Sequence) and not isinstance(q, str)
        numbers = list(q) if several else [q]  # type: ignore[arg-type]  # narrowed by several
        for number in numbers:
            check_number("q", number, minimum=0, maximum=1)
        totals = self._seen()
        if not isinstance(totals, IntegerTotals):
            raise TypeError("images must be uint8 or uint16 for quantile, got floating images")
        rows = [self._report(totals.quantile(Fraction(str(number)))) for number in numbers]
        if several:
            return torch.stack(rows) if rows else torch.empty(0, totals.channels).double()
        return rows[0]

    @property
    def mean_image_std(self) -> Float64[Tensor, " c"]:
        """Mean over images of the population standard deviation within each image."""
        return self._report(self._seen().mean_image_std())

    @property
    def mean_standard_error(self) -> Float64[Tensor, " c"]:
        """Standard error of ``mean`` if the images are a random sample of many more.

        Images are the independent draws, not pixels, which resemble their neighbours. The pooled
        mean is a ratio R of sums over images; with n_i pixels of mean x_i in image i of m this is
        ``sqrt(m / (m - 1) * sum (n_i * (x_i - R))**2) / sum n_i``, NaN for one image. It ignores
        that a sample may be a large part of the whole, and is then too large.
        """
        return self._report_root(self._seen().mean_variance())

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and pooled std as two tuples, for ``Normalize(*stats.mean_std())``."""
        return tuple(self.mean.tolist()), tuple(self.std.tolist())

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted as tensors, integers and lists, for ``torch.save``."""
        state = {"kind": None} if self._totals is None else state_of(self._totals)
        return {"skipped": list(self.skipped), "covariance": self.with_covariance, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace what was counted by a ``state_dict``; ``scale`` stays as it is.

        Raises:
            ValueError: ``state`` is not the state of a ChannelStats, or of one with another option
                ``covariance``.
        """
        try:
            content = dict(state)
            skipped, covariance = list(content.pop("skipped")), content.pop("covariance")
            totals = None if content["kind"] is None else totals_of(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state must be the state_dict of a ChannelStats, got {describe(state)} ({error!r})"
            ) from error
        if covariance != self.with_covariance:
            raise ValueError(
                f"state must be of a ChannelStats with covariance={self.with_covariance}, "
                f"got one with covariance={covariance}"
            )
        self._totals, self.skipped = totals, skipped

    def __repr__(self) -> str:
        text = f"images={self.images}, pixels={self.pixels}"
        if self._totals is not None:
            mean, std = (", ".join(f"{x:.6g}" for x in numbers) for numbers in self.mean_std())
            text += f", mean=({mean}), std=({std})"
        return f"ChannelStats({text})"

    def _update_by_counts(self, counts: Tensor) -> None:
        """Count uint8 images whose levels are counted already: int64 (N, C, 256)."""
        came = f"uint8 images with {counts.shape[1]} channel(s)"
        self._check_fits("images", came, torch.uint8, counts.shape[1])
        self._add(IntegerTotals.of_counts(counts))

    def _add(self, totals: Totals | None) -> None:
        if totals is None or totals.images == 0:
            return
        if self._totals is None:
            # Merging replaces fields and never writes into them, so a shallow copy is enough.
            self._totals = type(totals)(**{f.name: getattr(totals, f.name) for f in fields(totals)})
        else:
            self._totals.merge(totals)  # type: ignore[arg-type]  # _check_fits saw to the kind

    def _check_fits(self, name: str, came: str, kind: torch.dtype, channels: int) -> None:
        if self._totals is None:
            return
        here = kind_of(self._totals)
        if kind != here:
            raise TypeError(f"{name} must be {name_of(here)} like the images before, got {came}")
        if channels != self._totals.channels:
            raise ValueError(
                f"{name} must have {self._totals.channels} channel(s) like the images before, "
                f"got {came}"
            )

    def _seen(self) -> Totals:
        if self._totals is None:
            raise ValueError("images must hold at least one counted pixel, got none so far")
        return self._totals

    @property
    def _options(self) -> dict[str, bool]:
        return {"scale": self.scale, "covariance": self.with_covariance}

    @property
    def _unit(self) -> int:
        totals = self._seen()
        if self.scale and isinstance(totals, IntegerTotals):
            return totals.histogram.shape[1] - 1
        return 1

    def _report(
        self, values: Sequence[Fraction] | Sequence[int] | Sequence[float], power: int = 1
    ) -> Tensor:
        # Fractions stay exact under the division; the conversion to float is the one rounding.
        unit = self._unit**power
        exact = [Fraction(v, unit) if not isinstance(v, float) else v for v in values]
        return torch.tensor([float(v) for v in exact], dtype=torch.float64)

    def _report_root(self, squares: Sequence[Fraction] | Sequence[float]) -> Tensor:
        unit = self._unit**2
        return torch.tensor(
            [math.sqrt(v) if isinstance(v, float) else rounded_sqrt(v / unit) for v in squares],
            dtype=torch.float64,
        )


def _expand_mask(mask: object, images: Tensor) -> Tensor:
    check_tensor("mask", mask)
    assert isinstance(mask, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype("mask", mask, (torch.bool,))
    check_same_device(images=images, mask=mask)
    target = (*images.shape[:-3], 1, *images.shape[-2:])
    if mask.ndim < 3 or mask.shape[-3:] != target[-3:]:
        raise ValueError(
            f"mask must be of shape (*batch, 1, H, W) with the H and W of images, {target[-2:]}, "
            f"got {describe(mask)}"
        )
    try:
        return mask.expand(target)
    except RuntimeError:
        raise ValueError(
            "mask must have batch dimensions that broadcast to those of images, "
            f"{target[:-3]}, got {describe(mask)}"
        ) from None
