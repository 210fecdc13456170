"""Which path an op takes: plain PyTorch anywhere, or the Triton kernel on a GPU."""

import importlib.util
import os
from typing import Literal

import torch
from torch import Tensor

from torchops._common.checks import check_choice

Backend = Literal["auto", "torch", "triton"]


def resolve_backend(backend: object, tensor: Tensor) -> Literal["torch", "triton"]:
    """Return the path of a call whose data is ``tensor``.

    "auto" goes by the tensor's device. An explicit "triton" never falls back: without a GPU tensor
    (or Triton's interpreter, TRITON_INTERPRET=1) or without Triton it raises.
    """
    check_choice("backend", backend, ("auto", "torch", "triton"))
    if backend == "torch" or (backend == "auto" and not tensor.is_cuda):
        return "torch"
    if backend == "auto":
        return "triton" if _has_triton() else "torch"
    if not _has_triton():
        raise RuntimeError(
            "backend must be 'auto' or 'torch' without Triton, got 'triton': pip install triton"
        )
    if not tensor.is_cuda and not _interpreted():
        raise RuntimeError(
            f"backend must be 'auto' or 'torch' for a tensor on {tensor.device}, got 'triton': "
            "move the tensors to a CUDA device"
        )
    return "triton"


def _has_triton() -> bool:
    # A compiler cannot trace the look-up, and needs Triton itself for code on a GPU.
    return torch.compiler.is_compiling() or importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    return torch.compiler.is_compiling() or os.environ.get("TRITON_INTERPRET") == "1"
