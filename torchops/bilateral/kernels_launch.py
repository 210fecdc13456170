"""Launch the kernels: which channels each holds, how many programs run, where results go.

At most `GROUP` channels of the image and of a guide are held in registers; more are summed in
groups, one launch each.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchops.bilateral.kernels import (
    GROUP,
    TILE_X,
    TILE_Y,
    UNROLLED_UP_TO,
    _bilateral_backward_kernel,
    _bilateral_forward_kernel,
)


def launch_forward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    radii: list[int],
    disc: bool,
    l1: bool,
) -> tuple[Tensor, Tensor]:
    """Return sum_q w_pq values_q (B, C, D, H, W) and sum_q w_pq counts_q (B, 1, D, H, W).

    Args:
        values: (B, C, D + 2 rz, H + 2 ry, W + 2 rx), padded by the radii.
        counts: (B, 1, ...), padded alike, or None for ones.
        guide: (B, G, ...), padded alike, or None where values are their own guide.
        rates: (B, 4), float32 or float64: 1 / (2 sigma^2) of the axes z, y, x and of the range.
        radii: Half-widths of the window along z, y, x.
        disc: Keep the ellipsoid of the radii instead of the box.
        l1: Sum of absolute differences over the guide's channels instead of the Euclidean length.
    """
    values, counts, guide, rates = _contiguous(values, counts, guide, rates)
    batch, channels, *padded = values.shape
    size = [n - 2 * r for n, r in zip(padded, radii, strict=True)]
    sums = torch.empty((batch, channels, *size), dtype=rates.dtype, device=values.device)
    total = torch.empty((batch, 1, *size), dtype=rates.dtype, device=values.device)
    programs = batch * size[0] * triton.cdiv(size[1], TILE_Y) * triton.cdiv(size[2], TILE_X)
    if programs == 0:
        return sums, total
    for first, options in _groups(values, counts, guide, rates, disc, l1):
        _bilateral_forward_kernel[(programs,)](
            values,
            values if counts is None else counts,
            values if guide is None else guide,
            rates,
            sums,
            total,
            channels,
            first,
            *size,
            *radii,
            _reach(radii),
            UNROLLED=radii[2] if radii[2] <= UNROLLED_UP_TO else -1,
            **options,
        )
    return sums, total


def launch_backward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    grad_sums: Tensor,
    grad_total: Tensor,
    radii: list[int],
    disc: bool,
    l1: bool,
    needs_guide: bool,
    needs_rates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of values, counts, guide and rates; empty for what is not needed.

    Args:
        values: As in `launch_forward`, and so are counts and guide.
        counts: See above.
        guide: See above.
        rates: As in `launch_forward`.
        grad_sums: (B, C, D, H, W), the incoming gradient of the sums.
        grad_total: (B, 1, D, H, W), that of the weight sums.
        radii: As in `launch_forward`.
        disc: As in `launch_forward`.
        l1: As in `launch_forward`.
        needs_guide: Whether the gradient of a separate guide is wanted.
        needs_rates: Whether that of the rates is.
    """
    if guide is None and values.shape[1] > GROUP:
        gradients = launch_backward(
            values, counts, values, rates, grad_sums, grad_total, radii, disc, l1, True, needs_rates
        )
        return gradients[0] + gradients[2], gradients[1], rates.new_empty(0), gradients[3]
    batch, channels, *padded = values.shape
    size = [n - 2 * r for n, r in zip(padded, radii, strict=True)]
    tiles = padded[0] * triton.cdiv(padded[1], TILE_Y) * triton.cdiv(padded[2], TILE_X)

    def new(channels: int) -> Tensor:
        return rates.new_empty(batch, channels, *padded)

    grad_values = new(channels)
    grad_counts = rates.new_empty(0) if counts is None else new(1)
    grad_guide = rates.new_empty(0) if guide is None or not needs_guide else new(guide.shape[1])
    grad_rates = torch.zeros_like(rates) if needs_rates else rates.new_empty(0)
    if batch * tiles == 0:
        return grad_values, grad_counts, grad_guide, grad_rates
    groups = list(_groups(values, counts, guide, rates, disc, l1))
    rates = rates.contiguous()
    values, counts, guide = (_with_zeros(t, radii, 1) for t in (values, counts, guide))
    grad_sums, grad_total = (_with_zeros(t, radii, 2) for t in (grad_sums, grad_total))
    for first, options in groups:
        wanted = options["GUIDE"] if guide is None or needs_guide else 0
        # Guide, counts and rates sum over the groups of image channels: later groups add a part.
        parts = [t if first == 0 else torch.empty_like(t) for t in (grad_guide, grad_counts)]
        for guide_first in range(0, max(wanted, 1), GROUP):
            rates_part = rates.new_empty(batch, tiles, 4) if needs_rates else grad_rates
            _bilateral_backward_kernel[(batch * tiles,)](
                values,
                values if counts is None else counts,
                values if guide is None else guide,
                rates,
                grad_sums,
                grad_total,
                grad_values,
                parts[1],
                parts[0],
                rates_part,
                channels,
                first,
                *size,
                *radii,
                _reach(radii),
                UNROLLED=radii[2] if radii[2] <= UNROLLED_UP_TO else -1,
                GUIDE_FIRST=guide_first,
                GUIDE_COUNT=min(GROUP, wanted - guide_first),
                TOTAL=first == 0,
                RATES=needs_rates and guide_first == 0,
                **options,
            )
            if needs_rates and guide_first == 0:
                grad_rates += rates_part.sum(1)
        if first > 0:
            for whole, part in zip((grad_guide, grad_counts), parts, strict=True):
                whole += part
    return grad_values, grad_counts, grad_guide, grad_rates


def _with_zeros(tensor: Tensor | None, radii: list[int], margins: int) -> Any:
    """Add margins of zeros, as wide as the radii; the result is contiguous."""
    if tensor is None:
        return None
    widths = [width for radius in reversed(radii) for width in (margins * radius,) * 2]
    return torch.nn.functional.pad(tensor, widths).contiguous()  # pad may keep other strides


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _reach(radii: list[int]) -> int:
    return math.prod(max(radius, 1) for radius in radii)


def _groups(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    disc: bool,
    l1: bool,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first channel and the constants of each launch."""
    channels = values.shape[1]
    own_guide = guide is None and channels <= GROUP
    for first in range(0, channels, GROUP):
        yield (
            first,
            {
                "COUNT": min(GROUP, channels - first),
                "GUIDE": channels if guide is None else guide.shape[1],
                "HELD": (channels if guide is None else guide.shape[1]) <= GROUP,
                "SELF": own_guide,
                "COUNTED": counts is not None,
                "DISC": disc,
                "L1": l1,
                "ACC": tl.float64 if rates.dtype == torch.float64 else tl.float32,
                "TILE_Y": TILE_Y,
                "TILE_X": TILE_X,
            },
        )
