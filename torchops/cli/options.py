"""Options that several commands have."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def add_image_output(parser: argparse.ArgumentParser) -> None:
    """Add `--out` for one picture."""
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="the picture to write: .png, .jpg, .tif or .bmp",
    )


def add_depth(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--depth`, which is None unless given; ``default`` says what happens then."""
    parser.add_argument(
        "--depth",
        type=int,
        choices=(8, 16),
        help="bits a channel of the picture written; 16 needs .png, or .tif for gray "
        f"(default: {default})",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes the GPU if there is one (default: %(default)s)",
    )


def pick_device(name: str) -> "torch.device":
    """Return the device that `--device` names.

    Raises:
        ValueError: if it is "cuda" and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda needs a CUDA device, and this machine has none")
    return torch.device("cuda" if available and name == "auto" else name.replace("auto", "cpu"))
