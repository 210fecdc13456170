"""Middlebury's ``.flo`` files."""

import contextlib
import os
import secrets
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import check_image
from torchops.flow.metrics import known_flow

MAGIC = b"PIEH"  # the float32 202021.25 in little-endian order
HEADER = 12  # magic, then width and height as int32
MARK = 1e10  # what is written for an unknown component; readers take anything beyond 1e9
LARGEST = 99_999  # a longer side than this is a damaged header


def read_flo(path: str | PathLike[str]) -> Float[Tensor, "2 height width"]:
    """Read a ``.flo`` file.

    Args:
        path: The file.

    Returns:
        Flow (2, H, W), float32, in pixels. Pixels whose flow is unknown are NaN in both channels.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a ``.flo`` file, or is damaged; the message names the file.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "motion.flo")
        ...     write_flo(path, torch.ones(2, 3, 4))
        ...     print(read_flo(path).shape)
        torch.Size([2, 3, 4])
    """
    data = Path(path).read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(f"{path} must be a .flo file, which starts with 'PIEH', got {data[:4]!r}")
    if len(data) < HEADER:
        raise ValueError(f"{path} must have a header of {HEADER} bytes, got {len(data)} bytes")
    width = int.from_bytes(data[4:8], "little", signed=True)
    height = int.from_bytes(data[8:12], "little", signed=True)
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        raise ValueError(
            f"{path} must have a width and height in 1..{LARGEST}, got {width} x {height}"
        )
    size = HEADER + 8 * width * height
    if len(data) != size:
        raise ValueError(
            f"{path} must be {size} bytes long for {width} x {height} pixels, got {len(data)} bytes"
        )
    values = np.frombuffer(data, "<f4", offset=HEADER).astype(np.float32)
    flow = torch.from_numpy(values).reshape(height, width, 2).permute(2, 0, 1).contiguous()
    return torch.where(known_flow(flow), flow, torch.nan)


def write_flo(path: str | PathLike[str], flow: Float[Tensor, "2 height width"]) -> None:
    """Write a flow as a ``.flo`` file, whole or not at all.

    Args:
        path: The file; an existing one is replaced.
        flow: (2, H, W), floating, in pixels; stored as float32. Pixels with a component that is
            not finite or beyond 1e9 are stored as unknown.

    Raises:
        TypeError: ``flow`` is not a floating tensor.
        ValueError: ``flow`` is not of shape (2, H, W) or too large for the format.
        OSError: The file cannot be written.
    """
    check_image("flow", flow, channels=2)
    if flow.ndim != 3 or max(flow.shape) > LARGEST:
        raise ValueError(
            f"flow must be of shape (2, H, W) with sides up to {LARGEST}, got {tuple(flow.shape)}"
        )
    height, width = flow.shape[-2:]
    values = flow.detach().to("cpu", torch.float32)
    values = torch.where(known_flow(values), values, MARK).permute(1, 2, 0)
    header = MAGIC + width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path = Path(path)
    # Beside the target, so that the final rename stays within one file system and is atomic.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(header + values.numpy().astype("<f4").tobytes())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
