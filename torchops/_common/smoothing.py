"""Gaussian smoothing, derivatives and pyramids, separable and without convolutions.

Every filter here is a sum of shifted copies. That form needs no convolution, so TF32 and autocast
cannot touch it; it differentiates any number of times, runs under ``torch.func`` and compiles.
"""

import math

import torch
from torch import Tensor

from torchops._common.sampling import reflect_index

Sigma = float | Tensor


def pad_axis(image: Tensor, dim: int, before: int, after: int, border: str) -> Tensor:
    """Extend one axis by ``border`` = "replicate", "reflect" (edge pixel not repeated) or "zeros".

    Reflection folds as often as needed when the padding exceeds the size; an axis of length 1
    behaves as replicate.
    """
    if before == 0 and after == 0:
        return image
    size = image.shape[dim]
    if border == "zeros":
        dim = dim % image.ndim
        return torch.nn.functional.pad(image, [0, 0] * (image.ndim - 1 - dim) + [before, after])
    index = torch.arange(-before, size + after, device=image.device)
    index = index.clamp(0, size - 1) if border == "replicate" else reflect_index(index, size)
    return image.index_select(dim, index)


def correlate_axis(image: Tensor, taps: list[Sigma], dim: int, border: str) -> Tensor:
    """Correlate one axis with an odd list of taps (numbers, or tensors that broadcast)."""
    radius = len(taps) // 2
    size = image.shape[dim]
    padded = pad_axis(image, dim, radius, radius, border)
    result = padded.narrow(dim, 0, size) * taps[0]
    for k, tap in enumerate(taps[1:], start=1):
        shifted = padded.narrow(dim, k, size)
        if isinstance(tap, Tensor):
            result = result + shifted * tap
        elif tap != 0:
            result = result.add(shifted, alpha=tap)
    return result


def gaussian_taps(sigma: float, truncate: float = 4.0) -> list[float]:
    """Return normalised Gaussian weights at integer offsets up to ``truncate`` sigmas."""
    radius = max(1, math.ceil(truncate * sigma)) if sigma > 0 else 0
    weights = [math.exp(-0.5 * (k / sigma) ** 2) if sigma > 0 else 1.0 for k in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weights[abs(k)] / total for k in range(-radius, radius + 1)]


def gaussian_blur(
    image: Tensor, sigma: float, *, border: str = "reflect", truncate: float = 4.0
) -> Tensor:
    """Blur the last two axes with a normalised Gaussian of ``sigma`` pixels."""
    taps: list[Sigma] = list(gaussian_taps(sigma, truncate))
    if len(taps) == 1:
        return image
    return correlate_axis(correlate_axis(image, taps, -1, border), taps, -2, border)


def central_difference(image: Tensor, dim: int, border: str = "replicate") -> Tensor:
    """Return (f(x+1) - f(x-1)) / 2 along ``dim``, in intensity per pixel."""
    return correlate_axis(image, [-0.5, 0.0, 0.5], dim, border)


def spline_coefficients(image: Tensor) -> Tensor:
    """Return the coefficients of the cubic spline through ``image``, mirrored at its border.

    Sampled with mode="spline", border="reflect" they give the image back at integer positions and
    interpolate any cubic polynomial exactly. The inverse of the B-spline [1, 4, 1] / 6 decays by
    0.27 a pixel; it is cut where it falls below float32 rounding.
    """
    pole = math.sqrt(3) - 2
    taps: list[Sigma] = [math.sqrt(3) * pole ** abs(k) for k in range(-12, 13)]
    return correlate_axis(correlate_axis(image, taps, -1, "reflect"), taps, -2, "reflect")


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample the last two axes bilinearly to ``size`` with pixel edges aligned.

    Output pixel x reads input position (x + 0.5) * W_in / W_out - 0.5, clamped at the border. Blur
    first when shrinking.
    """
    for dim, length in ((-1, size[1]), (-2, size[0])):
        source = image.shape[dim]
        if source == length:
            continue
        centre = torch.arange(length, device=image.device, dtype=torch.float64) + 0.5
        position = (centre * (source / length) - 0.5).clamp(0, source - 1)
        lower = position.floor().clamp(max=max(source - 2, 0))
        weight = (position - lower).to(image.dtype)
        index = lower.long()
        if dim == -2:
            weight = weight[:, None]
        low = image.index_select(dim, index)
        high = image.index_select(dim, (index + 1).clamp(max=source - 1))
        image = low + weight * (high - low)
    return image
