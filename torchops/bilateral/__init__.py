"""Bilateral filtering: edge-preserving smoothing, and the tone mapping built on it."""

from torchops.bilateral.filter import bilateral_filter
from torchops.bilateral.module import BilateralFilter
from torchops.bilateral.tonemap import durand_tonemap
from torchops.bilateral.upsample import joint_bilateral_upsample

__all__ = ["BilateralFilter", "bilateral_filter", "durand_tonemap", "joint_bilateral_upsample"]
