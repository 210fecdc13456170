"""Tone mapping of high dynamic range images by Durand and Dorsey 2002."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import check_dtype, check_image, check_number, check_same_device
from torchops._common.precision import compute_dtype, no_autocast
from torchops.bilateral.arguments import FLOATING, check_sigma
from torchops.bilateral.filter import Method, Sigma, bilateral_filter

REC_709 = (0.2126, 0.7152, 0.0722)
FLATTEST = 1e-4  # decades; a base layer with less contrast counts as constant


def durand_tonemap(
    radiance: Float[Tensor, "*batch 3 h w"],
    *,
    contrast: float | Float[Tensor, "..."] = 5.0,
    sigma_space: Sigma | tuple[Sigma, Sigma] | None = None,
    sigma_range: Sigma = 0.4,
    radius: int | tuple[int, int] | None = None,
    method: Method = "grid",
    eps: float = 1e-6,
) -> Float[Tensor, "*batch 3 h w"]:
    """Compress the contrast of a high dynamic range image and keep its details.

    The logarithm of the luminance Y is split by a bilateral filter into a base of large steps and
    the details on it; only the base is compressed, to ``contrast`` : 1::

        base = bilateral_filter(log10 Y, sigma_space, sigma_range),  detail = log10 Y - base
        gamma = log10(contrast) / (max base - min base)
        output = radiance / Y * 10^(gamma (base - max base) + detail)

    Args:
        radiance: (*batch, 3, H, W), linear RGB of any scale, floating.
        contrast: Ratio of the brightest to the darkest base of the result, above 1: a number, a
            0-d tensor or one per sample. A base flatter than that is stretched.
        sigma_space: Spatial sigma in pixels, as in `bilateral_filter`; default 2 % of the longer
            side, the paper's choice.
        sigma_range: Range sigma in decades of luminance, as in `bilateral_filter`.
        radius: As in `bilateral_filter`: needed where a tensor sigma_space cannot be read.
        method: How the base is computed, as in `bilateral_filter`. The cost of "exact" grows with
            the square of sigma_space, that of the others does not.
        eps: Luminance is floored at eps times its maximum over the image, so that zeros and the
            negatives of real camera files have a logarithm.

    Returns:
        Linear RGB for a display, of the shape and dtype of ``radiance``. 1 is the maximum of the
        base; details may exceed it and nothing is clipped. For a file or a screen still apply
        the display's curve. Negative channels count as 0. A pixel that is not finite becomes 0.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, a value or a device does not fit.

    Gradients:
        To radiance, contrast, sigma_space and sigma_range; 0 through floored luminances. The
        extremes of the base pass their gradient to the pixels that attain them.

    References:
        Durand and Dorsey, "Fast bilateral filtering for the display of high-dynamic-range
        images", 2002.

    Example:
        >>> window = torch.ones(3, 32, 32)
        >>> window[:, :, :16] = 1000.0
        >>> mapped = durand_tonemap(window, method="exact")
        >>> mapped.max() / mapped.min()
        tensor(5.0000)
    """
    check_image("radiance", radiance, channels=3)
    check_number("eps", eps, above=0)
    if isinstance(contrast, Tensor):
        check_dtype("contrast", contrast, FLOATING)
        check_same_device(radiance=radiance, contrast=contrast)
    else:
        check_number("contrast", contrast, above=1)
    if sigma_space is None:
        sigma_space = 0.02 * max(radiance.shape[-2:])
    elif not isinstance(sigma_space, tuple):
        check_sigma("sigma_space", sigma_space)
    with no_autocast(radiance):
        rgb = radiance.to(compute_dtype(radiance))
        luminance = sum(
            weight * channel for weight, channel in zip(REC_709, rgb.split(1, -3), strict=True)
        )
        assert isinstance(luminance, Tensor)
        finite = luminance.isfinite()
        luminance = _floored(torch.where(finite, luminance, 0), eps)
        log = luminance.log10()
        base = bilateral_filter(
            log, sigma_space, sigma_range, radius=radius, mask=finite, method=method
        )
        low, high = _extremes(base, finite)
        span = (high - low).clamp(min=FLATTEST)
        target = torch.as_tensor(contrast, dtype=rgb.dtype, device=rgb.device)
        gamma = target.log10().reshape(*target.shape, 1, 1, 1) / span
        scale = torch.pow(10.0, gamma * (base - high) + log - base) / luminance
        rgb = torch.where(finite, rgb, 0).clamp(min=0)
        return torch.where(finite, rgb * scale, 0).to(radiance.dtype)


def _floored(luminance: Tensor, eps: float) -> Tensor:
    """Raise what is below eps times the maximum of its image to that; a black image to 1."""
    peak = luminance.detach().amax((-2, -1), keepdim=True)
    return torch.maximum(luminance, torch.where(peak > 0, eps * peak, 1))


def _extremes(base: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and greatest base of each image over its finite pixels; 0 if it has none."""
    some = finite.any(-1, keepdim=True).any(-2, keepdim=True)
    low = torch.where(finite, base, torch.inf).amin((-2, -1), keepdim=True)
    high = torch.where(finite, base, -torch.inf).amax((-2, -1), keepdim=True)
    return torch.where(some, low, 0), torch.where(some, high, 0)
