"""Bilateral filtering: edge-preserving smoothing, and the tone mapping built on it."""

from torchops.bilateral.filter import BilateralFilter, bilateral_filter

__all__ = ["BilateralFilter", "bilateral_filter"]
