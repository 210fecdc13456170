"""Colour from scribbles: weights, a differentiable loss, and a solver (Levin et al. 2004)."""

from torchops.colorization.colorspace import rgb_to_yiq, rgb_to_yuv, yiq_to_rgb, yuv_to_rgb
from torchops.colorization.loss import ColorizationLoss, colorization_loss
from torchops.colorization.scribbles import scribbles_from_marked
from torchops.colorization.solver import Colorization, colorize
from torchops.colorization.weights import levin_weights

__all__ = [
    "Colorization",
    "ColorizationLoss",
    "colorization_loss",
    "colorize",
    "levin_weights",
    "rgb_to_yiq",
    "rgb_to_yuv",
    "scribbles_from_marked",
    "yiq_to_rgb",
    "yuv_to_rgb",
]
