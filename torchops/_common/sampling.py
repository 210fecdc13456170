"""Bilinear and bicubic sampling at pixel coordinates.

Coordinates are pixels with (0, 0) at the centre of the top-left pixel, never normalised ones: at
integer positions the stored value comes back exactly, at any size and in float32. ``grid_sample``
cannot promise that, because its normalised coordinates are rounded before they are used.
"""

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


def _cubic_weights(t: Tensor, a: float) -> list[Tensor]:
    # Keys' kernel. With a = -0.5 it is third-order exact: a quadratic image is reproduced exactly.
    t2, t3 = t * t, t * t * t
    return [
        a * t - 2 * a * t2 + a * t3,
        1 - (a + 3) * t2 + (a + 2) * t3,
        -a * t + (2 * a + 3) * t2 - (a + 2) * t3,
        a * t2 - a * t3,
    ]


def _taps(
    position: Tensor, size: int, mode: str, border: str, cubic: float
) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight) pairs of the samples that one axis reads at ``position``."""
    if border == "replicate":
        position = position.clamp(0, size - 1)  # so the gradient outside is 0, as the value says
    floor = position.detach().floor()
    t = position - floor
    weights = [1 - t, t] if mode == "bilinear" else _cubic_weights(t, cubic)
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
    image: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    mode: str = "bilinear",
    border: str = "zeros",
    cubic: float = -0.5,
) -> Tensor:
    """Interpolate ``image`` (*batch, C, H, W) at positions ``x``, ``y`` (*batch, *points).

    Args:
        image: Values, floating.
        x: Horizontal positions in pixels, of the dtype of ``image``; the batch dimensions of
            ``image`` and of the positions are equal.
        y: Vertical positions, of the shape of ``x``.
        mode: "bilinear", or "bicubic" (Keys; as it stands exact for quadratic images).
        border: What lies outside: "zeros", the nearest edge pixel ("replicate"), or the image
            mirrored about its edge pixels' centres ("reflect").
        cubic: Keys' parameter of the bicubic kernel, between -1 and 0; the further from 0, the
            sharper.

    Returns:
        Values of shape (*batch, C, *points). A NaN position gives NaN.
    """
    *batch, channels, height, width = image.shape
    points = x.shape[len(batch) :]
    flat = image.reshape(*batch, channels, height * width)
    columns = [
        (i.reshape(*batch, 1, -1), w.reshape(*batch, 1, -1))
        for i, w in _taps(x, width, mode, border, cubic)
    ]
    rows = [
        (i.reshape(*batch, 1, -1), w.reshape(*batch, 1, -1))
        for i, w in _taps(y, height, mode, border, cubic)
    ]
    result = None
    for row, row_weight in rows:
        line = None
        for column, column_weight in columns:
            index = (row * width + column).expand(*batch, channels, -1)
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
