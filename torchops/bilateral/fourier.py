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
from functools import partial

import torch
from torch import Tensor

from torchops.bilateral.arguments import Batch, by_group, read_values
from torchops.bilateral.exact import countable, crop_image, normalised, pad_image

MOST_TERMS = 256  # of a guide whose range is some 280 sigmas; beyond, exact is faster


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
    finite = batch.guide.detach().isfinite()
    low, high = _extremes(batch.guide.detach(), finite)
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
    values, counts, clean, finite = countable(batch.image, batch.guide, batch.mask)
    sources = torch.cat([values, counts], 1)
    known = sources.isfinite()
    sources = torch.where(known, sources, 0)  # a transform would carry one NaN everywhere
    low, high = _extremes(clean, finite)
    # All of the series in units of sigma_range.
    ratio = (high - low) / batch.sigma_range
    period = (ratio + (ratio.square() + 4 * math.pi * (2 * terms + 1)).sqrt()) / 2
    turn = 2 * math.pi / period
    angle = (clean - _per_sample((low + high) / 2, clean)) / _per_sample(batch.sigma_range, clean)
    angle = angle * _per_sample(turn, clean)

    blur = _Blur(values.shape[2:], radii, batch.sigma_space)
    sources = pad_image(sources, radii, border, 0)
    first = pad_image(torch.polar(torch.ones_like(angle), angle), radii, border, 0)
    sums, wave = blur(sources).real, first
    for k in range(1, terms + 1):
        near, far = crop_image(wave, radii), blur(sources * wave)
        weight = _per_sample(2 * torch.exp(-0.5 * (k * turn).square()), values)
        sums = sums + weight * (near.real * far.real + near.imag * far.imag)
        wave = wave * first
    sums = sums * _per_sample(turn / math.sqrt(2 * math.pi), values)

    error, epsilon = _kernel_error(ratio.detach(), period.detach()), torch.finfo(sums.dtype).eps
    # Where the weights add up to less than their error, nothing is known.
    counted = finite & ~(sums[:, -1:] <= _per_sample(error + 8 * epsilon, values))
    result = normalised(sums[:, :-1], sums[:, -1:], counted)
    enough = 2 * error <= _own_share(batch.sigma_space.detach(), radii)
    spoilt = _near_any(~(known[:, :-1] & known[:, -1:]), radii, border) & finite
    return torch.where(_per_sample(enough, values) & ~spoilt, result, torch.nan)


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

    def __init__(self, size: torch.Size, radii: tuple[int, ...], sigma_space: Tensor) -> None:
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
        self.spectrum = spectrum[:, None]

    def __call__(self, padded: Tensor) -> Tensor:
        """Blur, and drop the margin: what goes round the end of the transform stays in it."""
        transform = torch.fft.fftn(padded, s=self.lengths, dim=self.dims)
        blurred = torch.fft.ifftn(transform * self.spectrum, dim=self.dims)
        for dim, (n, radius) in enumerate(zip(self.size, self.radii, strict=True), start=2):
            blurred = blurred.narrow(dim, radius, n)
        return blurred


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


def _extremes(guide: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest finite value (B,) of a guide; 0 if it has none."""
    guide, finite = guide.flatten(1), finite.flatten(1)
    low = torch.where(finite, guide, torch.inf).amin(1)
    high = torch.where(finite, guide, -torch.inf).amax(1)
    some = finite.any(1)
    return torch.where(some, low, 0), torch.where(some, high, 0)


def _per_sample(values: Tensor, image: Tensor) -> Tensor:
    """Give one value per sample the rank of an image."""
    return values.reshape(-1, *[1] * (image.ndim - 1))


def _near_any(marked: Tensor, radii: tuple[int, ...], border: str) -> Tensor:
    """Say which pixels have a marked one in their window."""
    marked = pad_image(marked, radii, border, False)
    for dim, radius in enumerate(radii, start=2):
        count = marked.cumsum(dim)
        before = torch.zeros_like(count.narrow(dim, 0, 1))
        count = torch.cat([before, count], dim)
        size = marked.shape[dim] - 2 * radius
        marked = count.narrow(dim, 2 * radius + 1, size) > count.narrow(dim, 0, size)
    return marked
