"""One Lucas-Kanade iteration: warp, linearise, average over the window, solve 2 x 2."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.sampling import sample_at
from torchops.flow.pyramid import Level, derivative

GRADIENT_SCALE = 0.01  # gradients above this all count alike (data units per pixel)
RESIDUAL_SCALE = 0.02  # residual at which a pixel's weight is halved (data units)
PRIOR = 3e-3 * GRADIENT_SCALE**2  # the normalised structure tensor's trace is at most the latter


class Evidence(NamedTuple):
    """What an iteration saw, for the confidence.

    ``tensor`` (B, 3, H, W) is the windowed structure tensor (xx, xy, yy) of the normalised data in
    units of GRADIENT_SCALE squared, ``residual`` (B, 1, H, W) the windowed mean of the squared
    data residual in units of RESIDUAL_SCALE squared, before the last update.
    """

    tensor: Tensor
    residual: Tensor


class Linearised(NamedTuple):
    """The data term around the current flow: residual, its gradient (B, 2 C, H, W), weight."""

    residual: Tensor
    gradient_x: Tensor
    gradient_y: Tensor
    weight: Tensor


def lucas_kanade_step(level: Level, flow: Tensor) -> Tensor:
    """Improve ``flow`` (B, 2, H, W) by one iteration."""
    return _solve(level, flow, linearise(level, flow))[0]


def last_step(level: Level, flow: Tensor) -> tuple[Tensor, Evidence]:
    """Improve ``flow`` by one iteration and return the evidence it rests on."""
    data = linearise(level, flow)
    flow, tensor = _solve(level, flow, data)
    squared = data.residual.square().sum(-3, keepdim=True)
    total, weight = level.window.average(torch.cat([data.weight * squared, data.weight], -3)).split(
        1, -3
    )
    counts = weight > 0
    residual = torch.where(counts, total / torch.where(counts, weight, 1), 0)
    return flow, Evidence(tensor / GRADIENT_SCALE**2, residual / RESIDUAL_SCALE**2)


def linearise(level: Level, flow: Tensor) -> Linearised:
    """Warp the moving frame back by ``flow`` and expand the residual to first order.

    The gradient is that of the mean of both frames: the error of the expansion is then of third
    order. A pixel's weight falls with its gradient, so that strong edges do not outvote the rest
    of the window, and with its residual, so that what moves otherwise is left out.
    """
    x, y = _positions(flow)
    height, width = flow.shape[-2:]
    nearest_x, nearest_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    warped = sample_at(level.moving, nearest_x, nearest_y, mode="spline", border="reflect")
    residual = level.reference - warped
    mean = 0.5 * (level.reference + warped)
    gradient_x, gradient_y = derivative(mean, -1), derivative(mean, -2)

    # Zeros outside: a pixel fades from the sums over the last pixel on its way out of the frame.
    visible = sample_at(level.moving_weight, x, y, border="zeros")
    energy = (gradient_x.square() + gradient_y.square()).sum(-3, keepdim=True)
    squared = residual.square().sum(-3, keepdim=True)
    weight = level.reference_weight * visible
    weight = weight / (energy / GRADIENT_SCALE**2 + 1) / (squared / RESIDUAL_SCALE**2 + 1)
    return Linearised(residual, gradient_x, gradient_y, weight)


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    u, v = flow.unbind(-3)
    return x + u, y + v


def _solve(level: Level, flow: Tensor, data: Linearised) -> tuple[Tensor, Tensor]:
    """Solve every window's 2 x 2 system; return the flow and the structure tensor.

    Each neighbour was warped by its own flow, so its residual is taken back to the flow that all
    of the window share (Le Besnerais & Champagnat). What is shared is the departure from the
    window's mean flow: smooth motion inside a window is then no error.
    """
    mean_flow = level.window.average(flow)
    departure = flow - mean_flow
    u, v = departure.split(1, -3)
    gx, gy, weight = data.gradient_x, data.gradient_y, data.weight
    residual = data.residual + gx * u + gy * v
    products = [gx * gx, gx * gy, gy * gy, gx * residual, gy * residual]
    sums = level.window.average(
        torch.cat([weight * product.sum(-3, keepdim=True) for product in products], -3)
    )
    tensor = sums[..., :3, :, :]
    xx, xy, yy, bx, by = sums.split(1, -3)
    xx, yy, bx, by = xx + PRIOR, yy + PRIOR, bx + PRIOR * u, by + PRIOR * v
    determinant = xx * yy - xy * xy
    update = torch.cat([yy * bx - xy * by, xx * by - xy * bx], -3) / determinant
    return mean_flow + update, tensor
