"""The bilateral filter as a sum of linear ones, by a cosine series of its range weight.

The Gaussian of the range, repeated with a period T greater than the guide's range, is a short sum

    exp(-t^2 / 2 sigma^2) = sum_k a_k cos(2 pi k t / T),   k = 0 .. terms

and cos(x_p - x_q) = Re(conj(e^(i x_p)) e^(i x_q)) parts into a factor of p and one of q. So the
sums of the bilateral filter are ``terms`` complex Gaussian blurs, taken by fast Fourier transforms
at a cost that hardly depends on the radius, over exactly the window of the exact filter.

Two things are lost: the terms above the last, and what the repetitions at distance T put into the
range. With x = (T - range) / sigma the first is at most erfc(x / sqrt 2) and the second about
exp(-x^2 / 2), if x = pi sigma (2 terms + 1) / T, which is a quadratic equation for T.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchops._common.sampling import reflect_index
from torchops.bilateral.arguments import Batch, by_group, read_values
from torchops.bilateral.exact import countable, normalised, pad_image
from torchops.bilateral.finite_range import extremes
from torchops.bilateral.recompute import differentiated, joined, recomputed

MOST_TERMS = 256  # of a guide whose range is some 280 sigmas; beyond, exact is faster
PART = 1 << 16  # pixels that are not cut into parts


def fourier_filter(
    batch: Batch,
    radii: tuple[int, ...],
    *,
    border: str,
    tolerance: float,
    terms: int | None,
) -> Tensor:
    """Filter a batch whose guide has one channel."""
    if batch.image.numel() == 0:
        return batch.image
    run = partial(_filter, radii=radii, border=border)
    if terms is not None:
        return run(batch, terms)
    return by_group(batch, _needed_terms(batch, radii, tolerance), run)


def _needed_terms(batch: Batch, radii: tuple[int, ...], tolerance: float) -> list[int]:
    """Return the least number of terms for each sample, which waits for the guide's device.

    Let s be the share of the window's weight that a pixel itself has. If the range weight is off
    by up to e, the filter is off by up to e / (s - e) of the range of the image.
    """
    low, high = extremes(batch.guide.detach())
    ratio = (high - low) / batch.sigma_range.detach()
    share = _own_share(batch.sigma_space.detach(), radii).expand(len(ratio))
    values = read_values("guide", torch.stack([ratio, share]), "pass terms=")
    found = []
    for ratio_value, share_value in zip(values[: len(ratio)], values[len(ratio) :], strict=True):
        terms = _terms_for(ratio_value, tolerance * share_value / (1 + tolerance))
        if terms > MOST_TERMS:
            raise ValueError(
                "sigma_range must be at least about 1/250 of the guide's range for "
                f'method="fourier", got 1/{ratio_value:.4g} of it: use method="exact"'
            )
        found.append(terms)
    return found


def _terms_for(ratio: float, error: float) -> int:
    """Return the least number of terms for a guide whose range is ``ratio`` sigmas."""
    if math.isnan(ratio) or math.isnan(error):
        return 1  # some sigma is NaN, and so will be the result
    low, high = 0.0, 40.0
    while high - low > 1e-3:
        x = (low + high) / 2
        repeated = math.exp(-(x**2) / 2) + math.exp(-((2 * ratio + x) ** 2) / 2)
        if math.erfc(x / math.sqrt(2)) + repeated > error:
            low = x
        else:
            high = x
    return max(1, math.ceil((high * (ratio + high) / math.pi - 1) / 2))


def _filter(batch: Batch, terms: int, *, radii: tuple[int, ...], border: str) -> Tensor:
    """Filter samples of one radius with one number of terms."""
    low, high = extremes(batch.guide)
    # All of the series in units of sigma_range.
    ratio = (high - low) / batch.sigma_range
    period = (ratio + (ratio.square() + 4 * math.pi * (2 * terms + 1)).sqrt()) / 2
    turn = 2 * math.pi / period
    numbers = ((low + high) / 2, turn / batch.sigma_range, turn, batch.sigma_space)
    arrays = [batch.image]
    arrays += [] if batch.guide is batch.image else [batch.guide]
    arrays += [] if batch.mask is None else [batch.mask]
    series = _Series(radii, border, batch.guide is batch.image, batch.mask is not None)
    sums = series.sums(terms, *numbers, *arrays)

    values, counts, _, finite = series.counted(arrays)
    known = values.isfinite() & counts.isfinite()
    error, epsilon = _kernel_error(ratio.detach(), period.detach()), torch.finfo(sums.dtype).eps
    # Where the weights add up to less than their error, nothing is known.
    counted = finite & ~(sums[:, -1:] <= _per_sample(error + 8 * epsilon, values))
    result = normalised(sums[:, :-1], sums[:, -1:], counted)
    enough = 2 * error <= _own_share(batch.sigma_space.detach(), radii)
    spoilt = _near_any(~known, radii, border) & finite
    return torch.where(_per_sample(enough, values) & ~spoilt, result, torch.nan)


class _Series:
    """The sums of the weights and of the weighted values, term by term.

    ``arrays`` are image, guide if it is another, and mask if there is one.
    """

    def __init__(self, radii: tuple[int, ...], border: str, own_guide: bool, masked: bool) -> None:
        self.radii, self.border = radii, border
        self.own_guide, self.masked = own_guide, masked

    def sums(self, terms: int, *tensors: Tensor) -> Tensor:
        """Return the weighted values and, as last channel, the weights.

        Where a backward follows, every term, channel and part of the rows is a function of its
        own that keeps nothing: the memory is that of one of them.
        """
        image = tensors[4]
        size, channels = image.shape[2], image.shape[1] + 1
        if torch.compiler.is_compiling() or not differentiated(*tensors):
            whole = slice(0, size)
            return self.add_terms(range(terms + 1), slice(0, channels), whole, 0, size, *tensors)
        strips = []
        for rows, around in self.parts(image):
            own = (*tensors[:4], *(array[:, :, around] for array in tensors[4:]))
            parts = []
            for channel in range(channels):
                total = None
                for k in range(terms + 1):
                    options = (range(k, k + 1), slice(channel, channel + 1), rows)
                    run = partial(self.add_terms, *options, around.start, size)
                    term = recomputed([[run]], *own)
                    total = term if total is None else total + term
                assert total is not None
                parts.append(total)
            strips.append(torch.cat(parts, 1))
        return joined(strips)

    def parts(self, image: Tensor) -> list[tuple[slice, slice]]:
        """Return ranges of rows, and the rows that the windows of each reach."""
        size, radius = image.shape[2], self.radii[0]
        # With its margins about a sixth of the image, and margins no larger than itself.
        step = max(size // 6 - 2 * radius, 2 * radius, PART * size // image[:, 0].numel(), 1)
        found = []
        for start in range(0, size, step):
            rows = slice(start, min(start + step, size))
            first, last = rows.start - radius, rows.stop - 1 + radius
            low, high = max(first, 0), min(last, size - 1)
            if self.border == "reflect":
                low, high = min(low, max(2 * (size - 1) - last, 0)), max(high, -first)
            if radius >= size:
                low, high = 0, size - 1
            found.append((rows, slice(low, high + 1)))
        return found

    def add_terms(
        self,
        terms: range,
        channels: slice,
        rows: slice,
        start: int,
        size: int,
        middle: Tensor,
        rate: Tensor,
        turn: Tensor,
        sigma_space: Tensor,
        *arrays: Tensor,
    ) -> Tensor:
        """Add up some terms for some channels at some rows.

        The arrays hold the rows from ``start`` on of an image with ``size`` rows.
        """
        values, counts, clean, _ = self.counted(arrays)
        sources = torch.cat([values, counts], 1)[:, channels]
        sources = torch.where(sources.isfinite(), sources, 0)  # a transform would spread a NaN
        angle = (clean - _per_sample(middle, clean)) * _per_sample(rate, clean)
        angle = self.padded(angle, rows, start, size)
        sources = self.padded(sources, rows, start, size)
        sources = sources.to(torch.promote_types(sources.dtype, torch.complex32))
        blur = _Blur(rows.stop - rows.start, clean.shape[3:], self.radii, sigma_space)
        one = torch.ones_like(angle)
        wave = torch.polar(one, terms[0] * angle)
        step = torch.polar(one, angle)
        total = None
        for k in terms:
            weight = (2 if k else 1) * torch.exp(-0.5 * (k * turn).square())
            near = blur.crop(wave).conj() * _per_sample(weight, wave)
            far = blur(sources * wave)
            total = near * far if total is None else torch.addcmul(total, near, far)
            if k < terms[-1]:
                wave = wave * step
        assert total is not None
        return total.real * _per_sample(turn / math.sqrt(2 * math.pi), total)

    def padded(self, image: Tensor, rows: slice, start: int, size: int) -> Tensor:
        """Extend some rows by the margins of their windows."""
        radius = self.radii[0]
        index = torch.arange(rows.start - radius, rows.stop + radius, device=image.device)
        if self.border == "reflect":
            image = image.index_select(2, reflect_index(index, size) - start)
        else:
            low, high = max(rows.start - radius, 0), min(rows.stop + radius, size)
            margins = [0, 0] * (image.ndim - 3)
            margins += [low - rows.start + radius, rows.stop + radius - high]
            image = pad(image[:, :, low - start : high - start], margins)
        return pad_image(image, (0, *self.radii[1:]), self.border, 0)

    def counted(self, arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `countable` does."""
        guide = arrays[0 if self.own_guide else 1]
        return countable(arrays[0], guide, arrays[-1] if self.masked else None)


def _kernel_error(ratio: Tensor, period: Tensor) -> Tensor:
    """Bound the error of the series over a range of ``ratio`` sigmas."""
    left_out = torch.erfc((period - ratio) / math.sqrt(2))
    repeated = [torch.exp(-0.5 * (period + side * ratio).square()) for side in (-1, 1)]
    return left_out + repeated[0] + repeated[1]


def _own_share(sigma_space: Tensor, radii: tuple[int, ...]) -> Tensor:
    """Return the weight of a pixel itself over the weights of all its window, (B or 1,)."""
    share = torch.ones_like(sigma_space[:, 0])
    for radius, sigma in zip(radii, sigma_space.unbind(-1), strict=True):
        share = share / _gaussian(
            torch.arange(-radius, radius + 1, device=sigma.device), sigma
        ).sum(1)
    return share


def _gaussian(offset: Tensor, sigma: Tensor) -> Tensor:
    """Return the weights (B, N) of offsets in pixels."""
    offset = offset.to(sigma)
    return torch.exp(-0.5 * (offset / sigma[:, None]).square())


class _Blur:
    """The Gaussian blur over a window, of images with a margin, by Fourier transforms."""

    def __init__(
        self, rows: int, others: torch.Size, radii: tuple[int, ...], sigma_space: Tensor
    ) -> None:
        size = (rows, *others)
        self.size, self.radii = size, radii
        padded = [n + 2 * radius for n, radius in zip(size, radii, strict=True)]
        self.lengths = [_fast_length(n) for n in padded]
        self.dims = list(range(-len(size), 0))
        spectrum = sigma_space.new_ones(1)
        for axis, (length, radius) in enumerate(zip(self.lengths, radii, strict=True)):
            sigma = sigma_space[:, axis]
            offset = torch.arange(length, device=sigma.device)
            offset = torch.minimum(offset, length - offset)
            weights = torch.where(offset <= radius, _gaussian(offset, sigma), 0)
            along_axis = torch.fft.fft(weights / weights.sum(1, keepdim=True)).real
            spectrum = spectrum[..., None] * along_axis.reshape(-1, *[1] * axis, length)
        self.spectrum = spectrum[:, None].to(torch.promote_types(spectrum.dtype, torch.complex32))

    def __call__(self, padded: Tensor) -> Tensor:
        """Blur, and drop the margin: what goes round the end of the transform stays in it."""
        transform = torch.fft.fftn(padded, s=self.lengths, dim=self.dims)
        return self.crop(torch.fft.ifftn(transform * self.spectrum, dim=self.dims))

    def crop(self, padded: Tensor) -> Tensor:
        """Drop the margin."""
        for dim, (n, radius) in enumerate(zip(self.size, self.radii, strict=True), start=2):
            padded = padded.narrow(dim, radius, n)
        return padded


def _fast_length(length: int) -> int:
    """Return the next length that is made of small factors, of twos above all."""
    step = 32 if length > 512 else 4 if length > 16 else 1
    length = -(-length // step) * step
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += step


def _per_sample(values: Tensor, image: Tensor) -> Tensor:
    """Give one value per sample the rank of an image."""
    return values.reshape(-1, *[1] * (image.ndim - 1))


def _near_any(marked: Tensor, radii: tuple[int, ...], border: str) -> Tensor:
    """Say which pixels have a marked one in their window."""
    marked = pad_image(marked, radii, border, False)
    for dim, radius in enumerate(radii, start=2):
        count = marked.cumsum(dim, dtype=torch.int32)
        before = torch.zeros_like(count.narrow(dim, 0, 1))
        count = torch.cat([before, count], dim)
        size = marked.shape[dim] - 2 * radius
        marked = count.narrow(dim, 2 * radius + 1, size) > count.narrow(dim, 0, size)
    return marked
