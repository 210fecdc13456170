"""What the iterations read: the frames, scaled and freed of missing pixels, level by level."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.smoothing import (
    central_difference,
    correlate_axis,
    gaussian_blur,
    resize,
    spline_coefficients,
)
from torchops.flow.window import Window, edge_aware_window

CONTRAST = 0.2  # standard deviation that the reference frame is scaled to
FLATTEST = 1e-3  # below this ratio of standard deviation to peak, a frame is not scaled up further
PREFILTER = 0.5  # blur in pixels before the data channels' derivative
DATA_GAIN = 4.0  # brings the gradient channels to about the range of the intensity
FACTOR = (7, 10)  # size of a level as a fraction of the next finer one
COARSEST = 8  # pixels of the shorter side at which `levels=None` stops
ANTIALIAS = 0.8 * ((FACTOR[1] / FACTOR[0]) ** 2 - 1) ** 0.5


class Frames(NamedTuple):
    """Two frames and how much each of their pixels counts, (B, C, H, W) and (B, 1, H, W)."""

    reference: Tensor
    moving: Tensor
    reference_weight: Tensor
    moving_weight: Tensor

    def detach(self) -> "Frames":
        """Cut all four tensors from the graph."""
        return Frames(*(tensor.detach() for tensor in self))


class Level(NamedTuple):
    """One level of the pyramid, ready for the iterations.

    ``reference`` holds data channels (B, 2 C, H, W), see `data_channels`; ``moving`` the
    coefficients of the cubic splines through them.
    """

    reference: Tensor
    moving: Tensor
    reference_weight: Tensor
    moving_weight: Tensor
    window: Window


def scale_contrast(frames: Frames) -> Frames:
    """Divide both frames by one number per sample, so that constants need no image units.

    It brings the standard deviation of the reference (over the pixels that count, averaged over
    channels) to CONTRAST. The floor keeps the rounding noise of a constant image from becoming
    texture.
    """
    weight = frames.reference_weight
    peak = (frames.reference * weight).abs().amax((-1, -2, -3), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)  # goes first, because squares of large units overflow
    image = frames.reference / peak
    count = weight.sum((-1, -2), keepdim=True)
    share = weight / torch.where(count > 0, count, 1)
    mean = (image * share).sum((-1, -2), keepdim=True)
    variance = ((image - mean).square() * share).sum((-1, -2), keepdim=True).mean(-3, keepdim=True)
    textured = variance > FLATTEST**2
    deviation = torch.where(textured, torch.where(textured, variance, 1).sqrt(), FLATTEST)
    gain = CONTRAST / deviation
    return frames._replace(reference=image * gain, moving=frames.moving / peak * gain)


def level_sizes(height: int, width: int, levels: int | None) -> list[tuple[int, int]]:
    """Return the sizes of the levels, finest first; ``levels=None`` stops at COARSEST pixels."""
    up, down = FACTOR
    sizes = [(height, width)]
    while levels is None or len(sizes) < levels:
        height, width = (
            max((up * height + down // 2) // down, 1),
            max((up * width + down // 2) // down, 1),
        )
        if levels is None and min(height, width) < COARSEST:
            break
        sizes.append((height, width))
    return sizes


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the next coarser level: blur against aliasing, then resample, pixel edges aligned."""
    return resize(gaussian_blur(image, ANTIALIAS), size)


def shrink_frames(frames: Frames, size: tuple[int, int]) -> Frames:
    """Return both frames one level coarser, each pixel an average of those that count."""
    reference_weight = shrink(frames.reference_weight, size)
    moving_weight = shrink(frames.moving_weight, size)
    return Frames(
        _ratio(shrink(frames.reference * frames.reference_weight, size), reference_weight),
        _ratio(shrink(frames.moving * frames.moving_weight, size), moving_weight),
        reference_weight,
        moving_weight,
    )


def shrink_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Take a flow one level coarser."""
    return scale_flow(gaussian_blur(flow, ANTIALIAS), size)


def scale_flow(flow: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resample a flow to another level and express it in that level's pixels."""
    height, width = flow.shape[-2:]
    u, v = resize(flow, (size[0], size[1])).unbind(-3)
    return torch.stack([u * (size[1] / width), v * (size[0] / height)], -3)


def prepare_level(frames: Frames, sigma: float) -> Level:
    """Compute the data channels and the window of one level."""
    return Level(
        data_channels(frames.reference, frames.reference_weight),
        spline_coefficients(data_channels(frames.moving, frames.moving_weight)),
        frames.reference_weight,
        frames.moving_weight,
        edge_aware_window(frames.reference, sigma),
    )


def data_channels(image: Tensor, weight: Tensor) -> Tensor:
    """Return the slightly blurred gradient of each channel: what the flow keeps constant.

    Brightness itself is left out: it changes with the light while its gradient hardly does. The
    division by sqrt(C) turns the later sums over channels into means over image channels. Where
    pixels are missing the blur averages the others, so that a hole makes no edge.
    """
    # Cut at 4 px, the reach of the derivatives that follow: none of them sees a hole's bottom.
    values = gaussian_blur(image * weight, PREFILTER, truncate=4 / PREFILTER)
    smooth = _ratio(values, gaussian_blur(weight, PREFILTER, truncate=4 / PREFILTER))
    gain = DATA_GAIN / image.shape[-3] ** 0.5
    return gain * torch.cat([central_difference(smooth, -1), central_difference(smooth, -2)], -3)


def derivative(image: Tensor, dim: int) -> Tensor:
    """Return the derivative along ``dim`` by five taps: exact for polynomials of degree 4."""
    return correlate_axis(image, [1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12], dim, "replicate")


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    """Divide a weighted sum by its weight: 0, with gradient 0, where nothing counts."""
    counts = weight > 0
    return torch.where(counts, total / torch.where(counts, weight, 1), 0)
