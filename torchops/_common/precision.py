"""The precision rule: inside an op autocast is off and arithmetic is at least float32."""

import contextlib

import torch
from torch import Tensor


def no_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Switch autocast off for the device of ``tensor`` while an op computes.

    Autocast would run matrix products in half precision even on float32 input. TF32 needs no
    switch because the ops avoid float32 convolutions and matrix products: sums of products are
    written elementwise, or in float64.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float64 if any argument is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
