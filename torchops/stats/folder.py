"""A folder of picture files as a dataset of RGB pictures, and pictures as tensors or counts.

Pillow is imported when the first picture is read, never with the package.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
)


class UnreadableImageError(ValueError):
    """A file that cannot be decoded; the message names it."""


class Folder(Dataset["Image | Tensor"]):
    """The pictures in a folder and its subfolders, in the order of their names, as RGB."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        if not self.root.is_dir():
            what = "a file" if self.root.exists() else "a path that does not exist"
            raise ValueError(f"data must be the path of a folder, got {what}: {self.root}")
        self.names = _find(self.root)
        if not self.names:
            raise ValueError(
                "data must be a folder with at least one picture file "
                f"({', '.join(EXTENSIONS)}), got none in {self.root}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> "Image | Tensor":
        path = self.root / self.names[index]
        try:
            return read_rgb(path)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            reason = str(error).split("\n")[0] or type(error).__name__
            raise UnreadableImageError(f"{path} ({reason})") from error


def read_rgb(path: Path) -> "Image | Tensor":
    """Decode a picture file: a Pillow image of mode RGB, or for deep gray a (3, H, W) tensor."""
    from PIL import Image

    with Image.open(path) as picture:
        if len(picture.getbands()) > 1 and _has_16_bits(picture):
            raise ValueError("16-bit colour, which Pillow would cut to 8 bits")
        picture.load()
        if picture.mode.startswith("I") or picture.mode == "F":
            return picture_to_tensor(picture).expand(3, -1, -1)
        if picture.mode == "P":  # by way of RGBA, since a palette may hold transparent colours
            picture = picture.convert("RGBA")
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def picture_to_counts(picture: "Image") -> Tensor | None:
    """Return how often each level occurs in each 8-bit band, (C, 256); None for other pictures.

    Pillow counts faster than its pixels can be copied into a tensor.
    """
    if picture.mode not in ("L", "RGB", "RGBA", "CMYK"):
        return None
    return torch.from_numpy(np.array(picture.histogram(), dtype=np.int64)).view(-1, 256)


def picture_to_tensor(picture: "Image") -> Tensor:
    """Return the bands of a Pillow image as (C, H, W); palettes become RGB, 1 bit becomes 8."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA").convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    array = np.asarray(picture)
    if picture.mode.startswith("I"):
        # Pillow opens some 16-bit files as 32-bit integers.
        if array.size and (array.min() < 0 or array.max() > 65535):
            raise ValueError(f"32-bit integers that leave the 16-bit range, mode {picture.mode}")
        array = array.astype(np.uint16)
    tensor = torch.from_numpy(array.copy())  # a copy: Pillow's memory is read-only
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def _find(root: Path) -> list[str]:
    names, seen = [], set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back: its pictures are counted already
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(names)


def _has_16_bits(picture: "Image") -> bool:
    """Say whether the file stores 16 bits, by the raw mode or the maximum that Pillow found."""
    details = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in picture.tile]
    return any(
        ";16" in str(raw[0]) or (tile[0] == "ppm" and raw[-1] > 255)
        for tile, raw in zip(picture.tile, details, strict=True)
    )
