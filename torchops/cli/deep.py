"""Pictures of 16 bits a channel, where Pillow keeps 8: colour PNG in, any PNG out."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By the format's colour type: how Pillow is to take the stored bytes, so that nothing of them is
# lost. Of RGB and RGBA it takes the upper bytes, or the lower ones if told that they come first;
# gray and alpha fit into the four channels of RGBA.
_TAKEN = {2: ("RGB;16B", "RGB;16L"), 4: ("RGBA",), 6: ("RGBA;16B", "RGBA;16L")}


def is_deep_png(data: bytes) -> bool:
    """Say whether `decode_png` is for this file: a PNG of 16 bits that Pillow would cut to 8."""
    return len(data) >= 29 and data.startswith(_SIGNATURE) and data[24] == 16 and data[25] in _TAKEN


def decode_png(data: bytes) -> np.ndarray:
    """Return the levels of such a PNG, (1 or 3, H, W) uint16, upright, without alpha.

    Raises:
        ValueError: if the file is damaged.
    """
    _check_chunks(data)
    taken = [_take(data, raw_mode) for raw_mode in _TAKEN[data[25]]]
    if len(taken) == 1:
        upper, lower = taken[0][:1], taken[0][1:2]
    else:
        upper, lower = (channels[:3] for channels in taken)
    return upper.astype(np.uint16) << 8 | lower


def _take(data: bytes, raw_mode: str) -> np.ndarray:
    """Decode the file with ``raw_mode`` as the order of its bytes, (channels, H, W)."""
    with Image.open(BytesIO(data)) as image:
        if not isinstance(image, ImageFile.ImageFile) or len(image.tile) != 1:
            raise ValueError("it has no pixels")
        image.tile = [(*image.tile[0][:3], raw_mode)]
        image.load()
        return np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)


def encode_png(levels: np.ndarray) -> bytes:
    """Return levels (1 or 3, H, W) uint16 as a PNG file."""
    channels, height, width = levels.shape
    rows = levels.transpose(1, 2, 0).astype(">u2").reshape(height, -1)
    # Each row is led by the number of its filter; 0 stores the row as it is.
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _check_chunks(data: bytes) -> None:
    """Raise unless the file is whole: Pillow skips the checksums of the pixels."""
    start, name = len(_SIGNATURE), b""
    while name != b"IEND":
        (length,) = struct.unpack(">I", data[start : start + 4].rjust(4, b"\0"))
        name, content = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if data[start : start + 12 + length] != _chunk(name, content):
            raise ValueError("it ends too early, or a checksum does not hold")
        start += 12 + length
