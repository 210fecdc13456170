"""What the command line says, as the op takes it, and the op's result in words."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchops import Alignment, AlignmentStatus
from torchops.cli.io import read_image, read_matrix


def method(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the op that the command line names alike."""
    names = ("motion", "algorithm", "solver", "objective", "robust", "levels", "iterations", "tol")
    return {"gradient": "none", **{name: getattr(arguments, name) for name in names}}


def read_initial(words: list[str] | None, device: torch.device) -> Tensor | None:
    """Return the matrix to start from, as nine numbers or the name of a file give it."""
    if words is None:
        return None
    if len(words) == 1:
        return read_matrix(words[0]).to(device)
    try:
        matrix = torch.tensor([float(word) for word in words])
    except ValueError:
        matrix = torch.empty(0)
    if len(matrix) != 9 or not matrix.isfinite().all() or matrix[8] == 0:
        raise ValueError(
            "--initial must be nine finite numbers, the last not 0, or the name of one file, "
            f"got {' '.join(words)}"
        )
    return matrix.view(3, 3).to(device)


def read_mask(path: Path | None, of: Path, image: Tensor) -> Tensor | None:
    """Return the white pixels of a picture, which must be of the size of ``image``."""
    if path is None:
        return None
    mask = read_image(path, gray=True) > 0.5
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"the mask {path} must be as large as {of}, {size_in_words(image)}, "
            f"got {size_in_words(mask)}"
        )
    return mask.to(image.device)


def size_in_words(image: Tensor) -> str:
    """Return width x height, as programs that show pictures do."""
    height, width = image.shape[-2:]
    return f"{width} x {height}"


def outcome(result: Alignment) -> dict[str, Any]:
    """Return the result of one alignment as JSON can hold it."""
    error = result.error.item()
    return {
        "matrix": result.matrix.tolist(),
        "status": AlignmentStatus(int(result.status)).name,
        "iterations": int(result.iterations),
        "error": error if math.isfinite(error) else None,  # JSON has no infinity
    }


def in_words(result: Alignment) -> str:
    """Return status, iterations and error of one alignment."""
    status, iterations = AlignmentStatus(int(result.status)).name, int(result.iterations)
    error = result.error.item()
    return f"{status} after {iterations} iterations, RMS error {error:.6f} of [0, 1]"
