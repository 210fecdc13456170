"""How far a flow is from the true one."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from torchops._common.checks import (
    FLOATING,
    broadcast_batch,
    check_image,
    check_same_device,
)
from torchops._common.precision import compute_dtype, no_autocast

UNKNOWN = 1e9  # Middlebury's mark: a component beyond this is not a displacement


def endpoint_error(
    flow: Float[Tensor, "... 2 height width"],
    target: Float[Tensor, "... 2 height width"],
    *,
    mask: Shaped[Tensor, "... 1 height width"] | None = None,
) -> Float[Tensor, "..."]:
    """Return the mean distance between a flow and its target, per sample, in pixels.

    The mean of ``|flow - target|`` over the pixels that count.

    Args:
        flow: (*batch, 2, H, W) in pixels.
        target: True flow, same size; leading dimensions broadcast. Unknown pixels (NaN, or a
            component beyond 1e9 in magnitude) never count.
        mask: (*batch, 1, H, W), boolean or float weights: which pixels count.

    Returns:
        (*batch,), float32 (float64 for float64). NaN for a sample in which no pixel counts, or
        with a flow of NaN at a pixel that does.

    Raises:
        TypeError: An argument is not a tensor of the right dtype.
        ValueError: Shapes or batches do not fit, devices differ.

    Gradients: with respect to flow, target and a float mask; 0, not NaN, where flow and target are
        equal and at pixels that do not count.

    Example:
        >>> flow = torch.zeros(2, 4, 5)
        >>> target = torch.tensor([3.0, 4.0])[:, None, None].expand(2, 4, 5)
        >>> endpoint_error(flow, target)
        tensor(5.)
    """
    return _mean_over_pixels(_distance, flow, target, mask)


def angular_error(
    flow: Float[Tensor, "... 2 height width"],
    target: Float[Tensor, "... 2 height width"],
    *,
    mask: Shaped[Tensor, "... 1 height width"] | None = None,
) -> Float[Tensor, "..."]:
    """Return the mean angle between (u, v, 1) of a flow and of its target, per sample, in degrees.

    Computed from the cross and the scalar product of the two vectors, so that small angles are
    exact; the usual arc cosine loses them to rounding.

    Args:
        flow: (*batch, 2, H, W) in pixels.
        target: True flow, as in `endpoint_error`.
        mask: (*batch, 1, H, W), boolean or float weights: which pixels count.

    Returns:
        (*batch,), as in `endpoint_error`.

    Raises:
        TypeError: An argument is not a tensor of the right dtype.
        ValueError: Shapes or batches do not fit, devices differ.

    Gradients: as in `endpoint_error`.

    References:
        Barron, Fleet & Beauchemin 1994; Baker et al. 2011.

    Example:
        >>> flow = torch.zeros(2, 4, 5)
        >>> target = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 4, 5)
        >>> angular_error(flow, target)
        tensor(45.)
    """
    return _mean_over_pixels(_angle, flow, target, mask)


def known_flow(flow: Tensor) -> Tensor:
    """Say where both components of a flow are displacements, (*batch, 1, H, W)."""
    return (flow.abs() <= UNKNOWN).all(-3, keepdim=True)


def _distance(flow: Tensor, target: Tensor) -> Tensor:
    return _length((flow - target).unbind(-3))


def _angle(flow: Tensor, target: Tensor) -> Tensor:
    (u, v), (p, q) = flow.unbind(-3), target.unbind(-3)
    cross = _length((v - q, p - u, u * q - v * p))
    return torch.rad2deg(torch.atan2(cross, u * p + v * q + 1))


def _length(components: tuple[Tensor, ...]) -> Tensor:
    """Return the Euclidean length, with gradient 0 where it is 0."""
    squared = sum((c.square() for c in components[1:]), components[0].square())
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def _mean_over_pixels(
    error: Callable[[Tensor, Tensor], Tensor], flow: Tensor, target: Tensor, mask: Tensor | None
) -> Tensor:
    check_image("flow", flow, channels=2)
    check_image("target", target, channels=2)
    tensors = {"flow": flow, "target": target}
    if mask is not None:
        check_image("mask", mask, channels=1, dtypes=(*FLOATING, torch.bool))
        tensors["mask"] = mask
    for name, value in tensors.items():
        if value.shape[-2:] != flow.shape[-2:]:
            raise ValueError(
                f"{name} must have the height and width of flow, "
                f"got {tuple(value.shape)} and {tuple(flow.shape)}"
            )
    check_same_device(**tensors)
    broadcast_batch(**{name: value.shape[:-3] for name, value in tensors.items()})
    with no_autocast(flow):
        dtype = compute_dtype(flow, target)
        flow, target = torch.broadcast_tensors(flow.to(dtype), target.to(dtype))
        weight = known_flow(target).to(dtype)
        if mask is not None:
            weight = weight * mask.to(dtype)
        counts = weight != 0
        errors = error(torch.where(counts, flow, 0), torch.where(counts, target, 0))
        weight = weight.squeeze(-3)
        total = weight.sum((-1, -2))
        mean = (errors * weight).sum((-1, -2)) / torch.where(total > 0, total, 1)
        return torch.where(total > 0, mean, torch.nan)
