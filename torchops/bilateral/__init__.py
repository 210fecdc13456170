"""Bilateral filtering: edge-preserving smoothing, and the tone mapping built on it."""

from torchops.bilateral.filter import bilateral_filter
from torchops.bilateral.module import BilateralFilter
from torchops.bilateral.tonemap import durand_tonemap

__all__ = ["BilateralFilter", "bilateral_filter", "durand_tonemap"]
