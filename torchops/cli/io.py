"""Picture files in and out: the only file of the command line that reads or writes one.

Every reader raises OSError or ValueError with the file's name in it, and every writer leaves the
whole file behind or none. ``.exr`` needs the OpenEXR package, ``.hdr`` nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from torchops.cli import deep, radiance

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
RADIANCE_SUFFIXES = (".hdr", ".exr")
MATRIX_SUFFIXES = (".txt",)
REC_709 = (0.2126, 0.7152, 0.0722)  # luminance of linear light
BT_601 = (0.299, 0.587, 0.114)  # luma of display-encoded colour


def sample_path(name: str) -> Path:
    """Return the path of one of the bundled pictures, such as ``"coffee.png"``.

    Raises:
        ValueError: if no picture has this name; the message lists those there are.
    """
    folder = Path(str(resources.files("torchops"))) / "samples"
    path = folder / name
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".png", ".hdr"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return path


def check_output(path: Path, suffixes: tuple[str, ...]) -> Path:
    """Return ``path`` if it can be written, so that a long run does not end in an error.

    Raises:
        OSError: if its folder does not exist, or it is a folder itself.
        ValueError: if its name does not end as one of ``suffixes``.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"the name of {path} must end in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} of the output {path} does not exist")
    if path.exists() and not path.is_file():
        raise IsADirectoryError(f"the output {path} exists and is not a file")
    return path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it once complete, remove it on an error."""
    target = Path(path).resolve()  # a link keeps pointing to its file
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def read_image(path: str | os.PathLike[str], *, gray: bool = False) -> Tensor:
    """Read a picture as a ``(C, H, W)`` float32 tensor in [0, 1], C being 1 or 3.

    The picture is turned upright by its EXIF orientation. Gray, gray with alpha and one-bit files
    have one channel, all others (palette, CMYK, ...) become RGB. Alpha is dropped: the colour is
    what the file stores under it. 16-bit gray and 16-bit PNG are read at full depth, other 16-bit
    colour at 8 bits, which is what Pillow decodes. Of several frames the first counts. With
    ``gray`` colour becomes the luma of BT.601, in the depth of the file, and C is 1.

    Raises:
        OSError: if there is no such file, or it is not readable.
        ValueError: if it is no picture, a damaged one, or one of floating-point values.
    """
    return read_picture(path, gray=gray)[0]


def read_picture(path: str | os.PathLike[str], *, gray: bool = False) -> tuple[Tensor, int]:
    """Read a picture as `read_image` does, and say of how many bits it is, 8 or 16."""
    path = Path(path)
    data = path.read_bytes()
    try:
        if deep.is_deep_png(data):
            return _deep_picture(deep.decode_png(data), gray), 16
        with Image.open(BytesIO(data)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] not in "FI":
                one_channel = gray or upright.mode in ("1", "L", "LA")
                upright = upright.convert("L" if one_channel else "RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from None
    except Exception as error:  # decoders raise anything when bytes are missing or wrong
        raise ValueError(f"{path} is truncated or damaged: {error}") from None
    if upright.mode == "F":
        raise ValueError(f"{path} holds floating-point values; save it as .hdr or .exr")
    if upright.mode.startswith("I"):
        array = np.asarray(upright).astype(np.int64)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"{path} holds values outside the 16 bits from 0 to 65535")
        return _to_tensor(array, 65535), 16
    return _to_tensor(np.asarray(upright), 255), 8


def _deep_picture(levels: np.ndarray, gray: bool) -> Tensor:
    if gray and len(levels) == 3:
        levels = np.tensordot(BT_601, levels.astype(np.float64), 1)[None].round()
    return _to_tensor(levels.transpose(1, 2, 0), 65535)


def check_depth(path: Path, channels: int, depth: int) -> None:
    """Raise ValueError unless a picture of ``depth`` bits a channel can be stored under a name."""
    suffix = path.suffix.lower()
    deep_gray = channels == 1 and suffix in (".tif", ".tiff")
    if depth == 16 and suffix != ".png" and not deep_gray:
        raise ValueError(f"{path} cannot hold 16 bits: use .png, or .tif for a gray picture")


def output_depth(path: Path, channels: int, depth: int, wanted: int | None) -> int:
    """Return the depth asked for, else that of the input or, where ``path`` cannot hold it, 8."""
    if wanted is not None:
        check_depth(path, channels, wanted)
        return wanted
    try:
        check_depth(path, channels, depth)
    except ValueError:
        return 8
    return depth


def write_image(path: str | os.PathLike[str], image: Tensor, *, depth: int = 8) -> None:
    """Write ``(1, H, W)`` or ``(3, H, W)`` in [0, 1] as PNG, JPEG, TIFF or BMP.

    Values are rounded to the nearest of the 256 levels (65536 with ``depth=16``: PNG, and TIFF of
    one channel), values outside [0, 1] clipped. JPEG is written at quality 95 without chroma
    subsampling.

    Raises:
        OSError: if the folder does not exist or is not writable.
        ValueError: if the name's ending is unknown or of a format without this depth, or the
            picture holds NaN.
    """
    path = check_output(Path(path), IMAGE_SUFFIXES)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image must be of shape (1 or 3, H, W), got {tuple(image.shape)}")
    check_depth(path, image.shape[0], depth)
    levels = image.detach().cpu().double().clamp(0, 1).mul(2**depth - 1).round()
    if levels.isnan().any():
        raise ValueError(f"the picture for {path} holds NaN")
    array = levels.numpy().astype(np.uint8 if depth == 8 else np.uint16)
    if depth == 16 and path.suffix.lower() == ".png":
        with whole_file(path) as partial:
            partial.write_bytes(deep.encode_png(array))
        return
    picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0).copy())
    jpeg = {"quality": 95, "subsampling": 0}
    options: dict[str, Any] = jpeg if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with whole_file(path) as partial:
        picture.save(partial, **options)


def read_hdr(path: str | os.PathLike[str]) -> Tensor:
    """Read linear radiance from a Radiance .hdr or an OpenEXR .exr file, ``(3, H, W)`` float32.

    A gray .exr (channel Y) comes as three equal channels; alpha and other layers are dropped.

    Raises:
        OSError: if there is no such file, or it is not readable.
        ValueError: if the file is damaged, or of another kind.
        ModuleNotFoundError: for .exr without the OpenEXR package.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in RADIANCE_SUFFIXES:
        raise ValueError(f"the name of {path} must end in {', '.join(RADIANCE_SUFFIXES)}")
    data = path.read_bytes()
    try:
        array = radiance.decode(data) if suffix == ".hdr" else _decode_exr(path)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable {suffix} file: {error}") from None
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def luminance(radiance: Tensor) -> Tensor:
    """Return the luminance (1, H, W) of linear radiance (3, H, W), by Rec. 709."""
    weights = torch.tensor(REC_709, dtype=radiance.dtype, device=radiance.device)
    return (radiance * weights[:, None, None]).sum(0, keepdim=True)


def write_hdr(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write linear radiance ``(3, H, W)`` as .hdr (8-bit mantissas) or .exr (32-bit floats).

    Raises:
        OSError: if the folder does not exist or is not writable.
        ValueError: if the name's ending is unknown, or .hdr cannot hold a value.
        ModuleNotFoundError: for .exr without the OpenEXR package.
    """
    path = check_output(Path(path), RADIANCE_SUFFIXES)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be of shape (3, H, W), got {tuple(image.shape)}")
    array = np.ascontiguousarray(image.detach().cpu().float().permute(1, 2, 0).numpy())
    with whole_file(path) as partial:
        if path.suffix.lower() == ".hdr":
            partial.write_bytes(radiance.encode(array))
        else:
            _openexr().File({}, {"RGB": array}).write(str(partial))


def read_matrix(path: str | os.PathLike[str]) -> Tensor:
    """Read a 3 x 3 matrix from a text file of three rows.

    Raises:
        OSError: if there is no such file, or it is not readable.
        ValueError: if it does not hold three rows of three finite numbers, the last not 0.
    """
    text = Path(path).read_bytes().decode("utf-8", errors="replace")
    try:
        array = np.loadtxt(text.splitlines(), ndmin=2)
    except ValueError:
        array = np.empty(0)
    if array.shape != (3, 3) or not np.isfinite(array).all() or array[2, 2] == 0:
        raise ValueError(f"{path} must hold three rows of three finite numbers, the last not 0")
    return torch.from_numpy(array.astype(np.float32))


def write_matrix(path: str | os.PathLike[str], matrix: Tensor) -> None:
    """Write a float32 matrix as text, a row a line, so that `read_matrix` gives the same bits.

    Raises:
        OSError: if the folder does not exist or is not writable.
    """
    with whole_file(path) as partial:
        np.savetxt(partial, matrix.detach().cpu().numpy(), fmt="%.9g")


def check_folder(path: Path) -> Path:
    """Return ``path`` if it is a folder or one can be made there.

    Raises:
        OSError: if it, or what should hold it, is a file.
    """
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"the output {path} must be a folder, but {nearest} is a file")
    return path


def _to_tensor(array: np.ndarray, maximum: int) -> Tensor:
    channels_first = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy((channels_first / np.float64(maximum)).astype(np.float32))


def _openexr() -> Any:
    try:
        import OpenEXR
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            ".exr files need the OpenEXR package: pip install 'torchops[demo]'"
        ) from None
    return OpenEXR


def _decode_exr(path: Path) -> np.ndarray:
    with _openexr().File(str(path), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    names = [name for name in ("R", "G", "B") if name in channels]
    if len(names) != 3:
        if "Y" not in channels or "RY" in channels:
            raise ValueError(f"it needs the channels R, G, B or Y, got {', '.join(channels)}")
        names = ["Y"] * 3
    return np.stack([channels[name] for name in names], axis=-1).astype(np.float32)
