"""Bilinear and bicubic sampling at pixel coordinates.

Coordinates are pixels with (0, 0) at the centre of the top-left pixel, never normalised ones: at
integer positions the stored value comes back exactly, at any size and in float32. ``grid_sample``
cannot promise that, because its normalised coordinates are rounded before they are used.
"""

import math

import torch
from torch import Tensor


def reflect_index(index: Tensor, size: int) -> Tensor:
    """Fold indices into [0, size) about the edge pixels' centres, as often as needed."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Say which positions lie within the rectangle of pixel centres, border included."""
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _cubic_weights(t: Tensor) -> list[Tensor]:
    # Keys' kernel with a = -0.5: third-order exact, so a quadratic image is reproduced exactly.
    t2, t3 = t * t, t * t * t
    return [
        -0.5 * t + t2 - 0.5 * t3,
        1 - 2.5 * t2 + 1.5 * t3,
        0.5 * t + 2 * t2 - 1.5 * t3,
        -0.5 * t2 + 0.5 * t3,
    ]


def _spline_weights(t: Tensor) -> list[Tensor]:
    # The cubic B-spline at distances t + 1, t, 1 - t, 2 - t.
    t2, t3 = t * t, t * t * t
    return [
        (1 - 3 * t + 3 * t2 - t3) / 6,
        (4 - 6 * t2 + 3 * t3) / 6,
        (1 + 3 * t + 3 * t2 - 3 * t3) / 6,
        t3 / 6,
    ]


WEIGHTS = {
    "bilinear": lambda t: [1 - t, t],
    "bicubic": _cubic_weights,
    "spline": _spline_weights,
}


def _taps(position: Tensor, size: int, mode: str, border: str) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight) pairs of the samples that one axis reads at ``position``."""
    if border == "replicate":
        position = position.clamp(0, size - 1)  # so the gradient outside is 0, as the value says
    floor = position.detach().floor()
    t = position - floor
    weights = WEIGHTS[mode](t)
    # A NaN position gives NaN weights; its index only has to be a legal one.
    first = torch.nan_to_num(floor).clamp(-(2**30), 2**30).long() - (0 if mode == "bilinear" else 1)
    taps = []
    for k, weight in enumerate(weights):
        index = first + k
        if border == "zeros":
            legal = (index >= 0) & (index < size)
            weight = torch.where(legal | weight.isnan(), weight, 0)
        index = reflect_index(index, size) if border == "reflect" else index.clamp(0, size - 1)
        taps.append((index, weight))
    return taps


def sample_at(
    image: Tensor, x: Tensor, y: Tensor, *, mode: str = "bilinear", border: str = "zeros"
) -> Tensor:
    """Interpolate ``image`` (*batch, C, H, W) at positions ``x``, ``y`` (*batch, *points).

    Args:
        image: Values, floating.
        x: Horizontal positions in pixels, of the dtype of ``image``; the batch dimensions of
            ``image`` and of the positions are equal.
        y: Vertical positions, of the shape of ``x``.
        mode: "bilinear", "bicubic" (Keys, a = -0.5: exact for quadratic images), or "spline": the
            cubic spline whose coefficients ``image`` holds, see `smoothing.spline_coefficients`.
        border: What lies outside: "zeros", the nearest edge pixel ("replicate"), or the image
            mirrored about its edge pixels' centres ("reflect").

    Returns:
        Values of shape (*batch, C, *points). A NaN position gives NaN.
    """
    *batch, channels, height, width = image.shape
    points = x.shape[len(batch) :]
    number = math.prod(points)  # not -1, which is ambiguous for an empty batch
    flat = image.reshape(*batch, channels, height * width)
    columns = [
        (i.reshape(*batch, 1, number), w.reshape(*batch, 1, number))
        for i, w in _taps(x, width, mode, border)
    ]
    rows = [
        (i.reshape(*batch, 1, number), w.reshape(*batch, 1, number))
        for i, w in _taps(y, height, mode, border)
    ]
    result = None
    for row, row_weight in rows:
        line = None
        for column, column_weight in columns:
            index = (row * width + column).expand(*batch, channels, number)
            term = flat.gather(-1, index) * column_weight
            line = term if line is None else line + term
        assert line is not None
        result = line * row_weight if result is None else result + line * row_weight
    assert result is not None
    result = result.reshape(*batch, channels, *points)
    if border == "zeros":
        # Far outside every weight is 0, but 0 times a NaN of the edge pixel would still be NaN.
        reach = 1 if mode == "bilinear" else 2
        outside = (
            (x <= -reach) | (x >= width - 1 + reach) | (y <= -reach) | (y >= height - 1 + reach)
        )
        result = torch.where(outside.unsqueeze(len(batch)), 0, result)
    return result
