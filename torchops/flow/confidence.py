"""How far a flow vector can be trusted, and the texture it was measured on."""

import torch
from torch import Tensor

from torchops._common.smoothing import gaussian_blur
from torchops.flow.pyramid import derivative
from torchops.flow.step import Evidence

TEXTURE = 0.1  # smaller eigenvalue at which the first factor is one half
FLOW_GRADIENT = 0.1  # pixels per pixel at which the third factor is one half
CALIBRATION = 0.11  # maximum likelihood on two real pairs with known flow


def symmetric_eigenvalues(xx: Tensor, xy: Tensor, yy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of [[xx, xy], [xy, yy]], smaller first, for semidefinite matrices."""
    half_difference = 0.5 * (xx - yy)
    squared = half_difference.square() + xy.square()
    distinct = squared > 0  # the root has no derivative at 0: gradient 0 there, not NaN
    radius = torch.where(distinct, torch.where(distinct, squared, 1).sqrt(), 0)
    mean = 0.5 * (xx + yy)
    return (mean - radius).clamp(min=0), mean + radius


def structure_eigenvalues(image: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Return the eigenvalues (B, 2, H, W) of the Gaussian-windowed structure tensor of an image.

    The mean over channels, per unit of window weight: pixels outside, or of ``weight`` 0, are left
    out of the mean instead of counting as flat.
    """
    peak = (image * weight).abs().amax((-1, -2, -3), keepdim=True)
    peak = torch.where(peak > 0, peak, 1)  # squares of large or small units would not be floats
    gx, gy = derivative(image / peak, -1), derivative(image / peak, -2)
    products = [(a * b).mean(-3, keepdim=True) for a, b in ((gx, gx), (gx, gy), (gy, gy))]
    maps = torch.cat([*(weight * product for product in products), weight], -3)
    xx, xy, yy, total = gaussian_blur(maps, sigma, border="zeros", truncate=3.0).split(1, -3)
    counts = total > 0
    total = torch.where(counts, total, 1)
    smaller, larger = symmetric_eigenvalues(xx / total, xy / total, yy / total)
    return torch.cat([smaller, larger], -3) * peak * peak


def flow_confidence(flow: Tensor, evidence: Evidence) -> Tensor:
    """Estimate the probability (B, 1, H, W) that the endpoint error is below 0.5 px.

    Three factors, each falling from 1 to 0: the texture of the window in its weaker direction, the
    residual that is left after warping, the gradient of the flow (motion boundaries). Their
    product ranks pixels; CALIBRATION turns it into a rate.
    """
    smaller, _ = symmetric_eigenvalues(*evidence.tensor.split(1, -3))
    gradient = derivative(flow, -1).square() + derivative(flow, -2).square()
    gradient = gradient.sum(-3, keepdim=True) / FLOW_GRADIENT**2
    product = smaller / (smaller + TEXTURE) / (1 + evidence.residual) / (1 + gradient)
    return -torch.expm1(-product / CALIBRATION)
