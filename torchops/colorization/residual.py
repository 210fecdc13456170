"""The residual U(r) - sum_s w_rs U(s) and its gradients, without keeping the weights.

The weights of all neighbours at once would be K = (2 radius + 1)^2 - 1 planes, and automatic
differentiation would keep several times that. Here they are recomputed, neighbour by neighbour, so
that forward and backward hold a few planes whatever the radius.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchops._common.precision import no_autocast
from torchops.colorization.weights import (
    FLOOR,
    NEAREST_LOG,
    crop,
    neighbour_exists,
    neighbours,
    to_neighbour,
    window_offsets,
)


class Residual(torch.autograd.Function):
    """R(r) = sum_s w_rs (U(r) - U(s)), of chroma (*batch, C, H, W) and luma (*batch, 1, H, W).

    Weights sum to 1, so this is U(r) - sum_s w_rs U(s); as a sum of differences it is exactly 0
    on a constant and loses no digits where U is nearly constant.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(chroma: Tensor, luma: Tensor, radius: int, weighting: str) -> Tensor:
        """Return the residual, (*batch, C, H, W)."""
        if weighting == "correlation":
            return _regression(chroma, luma, radius)[0]
        return _average(chroma, luma, _Range(luma, radius, weighting))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivative needs."""
        chroma, luma, ctx.radius, ctx.weighting = inputs
        ctx.save_for_backward(chroma, luma, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients, in differentiable operations."""
        chroma, luma, residual = ctx.saved_tensors
        luma_too = ctx.needs_input_grad[1]
        with no_autocast(grad):
            if ctx.weighting == "correlation":
                grads = _regression_backward(grad, chroma, luma, ctx.radius, luma_too)
            else:
                window = _Range(luma, ctx.radius, ctx.weighting)
                grads = _average_backward(grad, chroma, luma, residual, window, luma_too)
        return *grads, None, None


class _Range:
    """Variance, nearest neighbour and scale c of the weights exp(-d^2 / c) around every pixel."""

    def __init__(self, luma: Tensor, radius: int, weighting: str) -> None:
        self.radius = radius
        self.levin = weighting == "levin"
        self.inside = neighbour_exists(luma, radius)
        self.count = self.inside.sum(0).to(luma.dtype) + 1  # the window with its centre
        most = torch.finfo(luma.dtype).max
        least = torch.full_like(luma, most)
        nearest = torch.zeros_like(luma, dtype=torch.int64)
        total, squares = torch.zeros_like(luma), torch.zeros_like(luma)
        for k, difference in enumerate(self.differences(luma)):
            square = difference * difference
            total = total + difference
            squares = squares + square
            square = torch.where(self.inside[k], square, most)
            nearest = torch.where(square < least, k, nearest)
            least = torch.minimum(square, least)
        self.mean = total / self.count
        self.variance = squares / self.count - self.mean * self.mean
        self.nearest, self.least = nearest, torch.where(self.count > 1, least, 0)
        scale = 0.6 * self.variance if self.levin else 2 * self.variance
        if self.levin:
            scale = torch.maximum(scale, self.least / NEAREST_LOG)
        self.scale = scale.clamp(min=FLOOR)

    def differences(self, luma: Tensor) -> Iterator[Tensor]:
        """Yield Y(s) - Y(r) of every neighbour in turn, 0 where there is none."""
        for k, neighbour in enumerate(neighbours(luma, self.radius)):
            yield torch.where(self.inside[k], neighbour - luma, 0)

    def raw_weights(self, luma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield differences and unnormalised weights; the largest weight of a window is 1."""
        for k, difference in enumerate(self.differences(luma)):
            exponent = (self.least - difference * difference) / self.scale
            yield difference, torch.exp(torch.where(self.inside[k], exponent, -torch.inf))

    def total(self, luma: Tensor) -> Tensor:
        """Sum the raw weights; 1 in a 1 x 1 image, which has no neighbours."""
        total = torch.zeros_like(luma)
        for _, weight in self.raw_weights(luma):
            total = total + weight
        return torch.where(self.count > 1, total, 1)

    def scale_backward(self, grad: Tensor, luma: Tensor) -> Iterator[Tensor]:
        """Yield the gradient to every difference of what reaches the scale."""
        by_variance = 0.6 if self.levin else 2.0
        spread = by_variance * self.variance
        wide = spread >= FLOOR
        if self.levin:
            wide = wide & (spread >= self.least / NEAREST_LOG)
            lonely = ~wide & (self.least / NEAREST_LOG >= FLOOR) & (self.count > 1)
            to_least = torch.where(lonely, grad, 0) * (2 / NEAREST_LOG)
        to_variance = torch.where(wide, grad, 0) * (2 * by_variance) / self.count
        for k, difference in enumerate(self.differences(luma)):
            step = to_variance * (difference - self.mean)
            if self.levin:
                step = step + torch.where(self.nearest == k, to_least * difference, 0)
            yield torch.where(self.inside[k], step, 0)


def _average(chroma: Tensor, luma: Tensor, window: _Range) -> Tensor:
    """Return sum w (U(r) - U(s)) / sum w."""
    result, total = torch.zeros_like(chroma), torch.zeros_like(luma)
    pairs = zip(window.raw_weights(luma), neighbours(chroma, window.radius), strict=True)
    for (_, weight), neighbour in pairs:
        total = total + weight
        result = result + weight * (chroma - neighbour)
    return result / torch.where(window.count > 1, total, 1)


def _average_backward(
    grad: Tensor, chroma: Tensor, luma: Tensor, residual: Tensor, window: _Range, luma_too: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``_average``.

    With a_s = sum_c g (U(r) - U(s)), the derivative by the weight of s, the chain through the
    normalisation gives w_s (a_s - sum_t w_t a_t) for the exponent -d_s^2 / c, and
    sum_t w_t a_t = sum_c g R is already known.
    """
    radius = window.radius
    total = window.total(luma)
    known = (grad * residual).sum(-3, keepdim=True)
    to_chroma, to_luma, to_scale = _Ends(radius), _Ends(radius), torch.zeros_like(known)
    offsets = window_offsets(radius)
    items = zip(offsets, window.raw_weights(luma), neighbours(chroma, radius), strict=True)
    for offset, (difference, raw), neighbour in items:
        weight = raw / total
        to_chroma.add(-weight * grad, offset)
        if luma_too:
            exponent = weight * ((grad * (chroma - neighbour)).sum(-3, keepdim=True) - known)
            step = exponent * difference / window.scale
            to_scale = to_scale + step * difference / window.scale
            to_luma.add(-2 * step, offset)
    if not luma_too:
        return to_chroma.gradient(), None
    for offset, step in zip(offsets, window.scale_backward(to_scale, luma), strict=True):
        to_luma.add(step, offset)
    return to_chroma.gradient(), to_luma.gradient()


def _regression(
    chroma: Tensor, luma: Tensor, radius: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the residual of "correlation" and what its gradient shares with it.

    With m, v the neighbours' mean and variance (centre left out) of d_s = Y(s) - Y(r), the weights
    of ``levin_weights`` are (1 - m (d_s - m) / q) / n, q = v + ridge. So the residual is
    mean_s D_s - m cov_s(d, D) / q with D_s = U(r) - U(s): what linear regression leaves over.
    """
    inside = neighbour_exists(luma, radius)
    count = inside.sum(0).to(luma.dtype)
    ridge = FLOOR * (count + 1) / count.clamp(min=1)
    count = count.clamp(min=1)
    mean, variance = torch.zeros_like(luma), torch.zeros_like(luma)
    for k, neighbour in enumerate(neighbours(luma, radius)):
        mean = mean + torch.where(inside[k], neighbour - luma, 0) / count
    for k, neighbour in enumerate(neighbours(luma, radius)):
        deviation = torch.where(inside[k], neighbour - luma - mean, 0)
        variance = variance + deviation * deviation / count
    scale = variance + ridge
    average, covariance = torch.zeros_like(chroma), torch.zeros_like(chroma)
    pairs = zip(neighbours(luma, radius), neighbours(chroma, radius), strict=True)
    for k, (neighbour, colour) in enumerate(pairs):
        difference = torch.where(inside[k], chroma - colour, 0) / count
        average = average + difference
        covariance = covariance + (neighbour - luma - mean) * difference
    return average - mean * covariance / scale, (mean, scale, average, covariance)


def _regression_backward(
    grad: Tensor, chroma: Tensor, luma: Tensor, radius: int, luma_too: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``_regression``."""
    inside = neighbour_exists(luma, radius)
    count = inside.sum(0).to(luma.dtype).clamp(min=1)
    _, (mean, scale, average, covariance) = _regression(chroma, luma, radius)
    to_covariance = -grad * mean / scale
    # The sum over c of what reaches the scale, and of what reaches the mean by either way.
    to_scale = (grad * covariance).sum(-3, keepdim=True) * mean / (scale * scale)
    to_mean = -(grad * covariance).sum(-3, keepdim=True) / scale
    to_mean = to_mean - (to_covariance * average).sum(-3, keepdim=True)
    to_chroma, to_luma = _Ends(radius), _Ends(radius)
    items = zip(
        window_offsets(radius), neighbours(luma, radius), neighbours(chroma, radius), strict=True
    )
    for k, (offset, neighbour, colour) in enumerate(items):
        deviation = torch.where(inside[k], neighbour - luma - mean, 0)
        share = (grad + to_covariance * deviation) / count
        to_chroma.add(torch.where(inside[k], -share, 0), offset)
        if luma_too:
            step = (to_covariance * (chroma - colour)).sum(-3, keepdim=True)
            step = (step + 2 * to_scale * deviation + to_mean) / count
            to_luma.add(torch.where(inside[k], step, 0), offset)
    return to_chroma.gradient(), to_luma.gradient() if luma_too else None


class _Ends:
    """Collects gradients of differences field(s) - field(r) at their two ends."""

    def __init__(self, radius: int) -> None:
        self.radius = radius
        self.near: Tensor | None = None
        self.far: Tensor | None = None

    def add(self, step: Tensor, offset: tuple[int, int]) -> None:
        far = to_neighbour(step, offset, self.radius)
        self.near = step if self.near is None else self.near + step
        self.far = far if self.far is None else self.far + far

    def gradient(self) -> Tensor:
        assert self.near is not None
        assert self.far is not None
        return crop(self.far, self.radius) - self.near
