"""Pictures of 16 bits a channel, where Pillow keeps 8: colour PNG in, any PNG out."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 4: 2, 6: 4}  # by the format's colour type: RGB, gray and alpha, RGB and alpha


def is_deep_png(data: bytes) -> bool:
    """Say whether `decode_png` is for this file: a PNG of 16 bits that Pillow would cut to 8.

    Interlaced files, and those with an orientation, are left to Pillow.
    """
    if len(data) < 29 or not data.startswith(_SIGNATURE):
        return False
    depth, kind, interlaced = data[24], data[25], data[28]
    return depth == 16 and kind in _CHANNELS and not interlaced and b"eXIf" not in data


def decode_png(data: bytes) -> np.ndarray:
    """Return the levels of such a PNG, (1 or 3, H, W) uint16, without alpha.

    Raises:
        ValueError: if the file is damaged.
    """
    width, height = struct.unpack(">II", data[16:24])
    channels = _CHANNELS[data[25]]
    length = 1 + 2 * channels * width
    decoder = zlib.decompressobj()
    packed = b"".join(content for name, content in _read_chunks(data) if name == b"IDAT")
    try:
        raw = decoder.decompress(packed, height * length)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(raw) != height * length or raw == b"":
        raise ValueError("it ends too early")
    lines = np.frombuffer(raw, np.uint8).reshape(height, length)
    if lines[:, 0].max() > 4:
        raise ValueError("it uses an unknown filter")
    pixels = _unfilter(lines[:, 1:].reshape(height, width, 2 * channels), lines[:, 0])
    levels = pixels.view(">u2").astype(np.uint16).transpose(2, 0, 1)
    return levels[: 1 if channels == 2 else 3]


def _unfilter(stored: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Add to every byte of (H, W, bytes) the prediction that its row's filter made of others.

    A prediction needs the pixels to the left, above, and above to the left. So the pixels of one
    diagonal, one in each row, are done at a time.
    """
    height, width, depth = stored.shape
    # One pixel of zeros to the left and above. int16: predictions go below 0 and above 255.
    done = np.zeros((height + 1, width + 1, depth), np.int16)
    kinds = filters.astype(np.int64)
    for step in range(height + width - 1):
        row = np.arange(max(0, step - width + 1), min(height, step + 1))
        column = step - row
        left, above, corner = done[row + 1, column], done[row, column + 1], done[row, column]
        estimate = left + above - corner
        to_left, to_above = np.abs(estimate - left), np.abs(estimate - above)
        to_corner = np.abs(estimate - corner)
        paeth = np.where(to_above <= to_corner, above, corner)
        paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, paeth)
        kind = kinds[row][:, None]
        predicted = np.choose(kind, [np.zeros_like(left), left, above, (left + above) // 2, paeth])
        done[row + 1, column + 1] = (stored[row, column] + predicted) & 255
    return done[1:, 1:].astype(np.uint8)


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


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of every chunk, whose checksum must hold."""
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        name, content = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        if data[start : start + 12 + length] != _chunk(name, content):
            raise ValueError("a checksum does not hold")
        yield name, content
        start += 12 + length
