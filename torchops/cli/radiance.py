"""Radiance .hdr pictures (RGBE): the bytes of the format, and nothing about paths.

A pixel is three mantissas and a shared exponent: value = mantissa * 2^(exponent - 136), and an
exponent of 0 means black. Scanlines come uncompressed, with the old run lengths (a pixel 1, 1, 1, n
repeats the one before it) or with the new ones (each byte plane of a scanline by itself).
References: Ward, "Real Pixels", Graphics Gems II, 1991.
"""

import re

import numpy as np
from numpy.typing import NDArray

_BIAS = 128 + 8  # of the exponent, and of the mantissa's eight bits
_RESOLUTION = re.compile(rb"([+-])([XY]) +(\d+) +([+-])([XY]) +(\d+)\s*$")
_NEW_RUNS_WIDTH = range(8, 32768)  # the widths that the new run lengths can hold


def decode(data: bytes) -> NDArray[np.float32]:
    """Decode a picture into linear RGB, (height, width, 3), upright whatever its scan order.

    The lines EXPOSURE, COLORCORR and PRIMARIES of the header are not applied.

    Raises:
        ValueError: if ``data`` is no RGBE picture, or ends before its last scanline.
    """
    position, layout = _read_header(data)
    (first_sign, first_axis, lines), (second_sign, _, length) = layout
    scanlines = []
    for _ in range(lines):
        scanline, position = _read_scanline(data, position, length)
        scanlines.append(scanline)
    rgbe = np.stack(scanlines)
    signs = (first_sign, second_sign)
    if first_axis == b"X":
        rgbe = rgbe.transpose(1, 0, 2)
        signs = (second_sign, first_sign)
    if signs[0] == b"+":  # Y points up in this format, so "-Y" is the usual top to bottom
        rgbe = rgbe[::-1]
    if signs[1] == b"-":
        rgbe = rgbe[:, ::-1]
    exponent = rgbe[..., 3].astype(np.int32)
    scale = np.where(exponent > 0, np.ldexp(np.float32(1), exponent - _BIAS), np.float32(0))
    return np.ascontiguousarray(rgbe[..., :3] * scale[..., None])


def encode(image: NDArray[np.float32]) -> bytes:
    """Encode linear RGB (height, width, 3) with the new run lengths, rounding to nearest.

    Negative values become 0: the format has no sign.

    Raises:
        ValueError: if a value is NaN, infinite or above the format's 1.7e38.
    """
    height, width, _ = image.shape
    rgbe = _to_rgbe(np.maximum(image.astype(np.float64), 0))
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    if width not in _NEW_RUNS_WIDTH:
        return header + rgbe.tobytes()
    start = bytes((2, 2, width >> 8, width & 255))
    planes = np.ascontiguousarray(rgbe.transpose(0, 2, 1))
    return header + b"".join(start + b"".join(map(_encode_runs, line)) for line in planes)


def _to_rgbe(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    if not np.isfinite(image).all():
        raise ValueError("the picture holds NaN or infinite values, which .hdr cannot store")
    largest = image.max(axis=2)
    _, exponent = np.frexp(largest)
    # The largest mantissa may round up to 256: then the shared exponent is one more.
    exponent += np.rint(np.ldexp(largest, 8 - exponent)) > 255
    if (exponent > 127).any():
        raise ValueError("the picture holds values above 1.7e38, which .hdr cannot store")
    visible = (largest > 0) & (exponent > -128)
    mantissa = np.rint(np.ldexp(image, (8 - exponent)[..., None]))
    rgbe = np.concatenate([mantissa, (exponent + 128)[..., None]], axis=2)
    return np.where(visible[..., None], rgbe, 0).astype(np.uint8)


def _read_header(data: bytes) -> tuple[int, list[tuple[bytes, bytes, int]]]:
    if not data.startswith((b"#?RADIANCE", b"#?RGBE")):
        raise ValueError("it does not begin with '#?RADIANCE' or '#?RGBE'")
    end = data.find(b"\n\n")
    newline = data.find(b"\n", end + 2)
    if end < 0 or newline < 0:
        raise ValueError("its header is truncated")
    for line in data[:end].split(b"\n"):
        if line.startswith(b"FORMAT=") and line.strip() != b"FORMAT=32-bit_rle_rgbe":
            name = line.strip().decode("latin-1")
            raise ValueError(f"its pixels must be FORMAT=32-bit_rle_rgbe, got {name}")
    match = _RESOLUTION.match(data[end + 2 : newline])
    if match is None or match[2] == match[5] or 0 in (int(match[3]), int(match[6])):
        line = data[end + 2 : min(newline, end + 62)]
        raise ValueError(f"its size line must read like '-Y 480 +X 640', got {line!r}")
    first = (match[1], match[2], int(match[3]))
    return newline + 1, [first, (match[4], match[5], int(match[6]))]


def _read_scanline(data: bytes, position: int, length: int) -> tuple[NDArray[np.uint8], int]:
    mark = data[position : position + 4]
    if len(mark) < 4:
        raise ValueError("it is truncated")
    if length in _NEW_RUNS_WIDTH and mark[:2] == b"\x02\x02" and mark[2] < 128:
        if (mark[2] << 8 | mark[3]) != length:
            raise ValueError("a scanline is not as long as the header says")
        return _read_new_runs(data, position + 4, length)
    flat = np.frombuffer(data[position : position + 4 * length], np.uint8)
    if flat.size == 4 * length:
        pixels = flat.reshape(length, 4)
        if not (pixels[:, :3] == 1).all(axis=1).any():
            return pixels, position + 4 * length
    return _read_old_runs(data, position, length)


def _read_new_runs(data: bytes, position: int, length: int) -> tuple[NDArray[np.uint8], int]:
    planes = bytearray()
    for plane in range(1, 5):
        while len(planes) < plane * length:
            count, position = data[position] if position < len(data) else 0, position + 1
            if count > 128:
                planes += data[position : position + 1] * (count - 128)
                position += 1
            else:
                planes += data[position : position + count]
                position += count
            if count == 0 or position > len(data):
                raise ValueError("it is truncated or damaged")
        if len(planes) != plane * length:
            raise ValueError("a run of equal bytes passes the end of its scanline")
    return np.frombuffer(bytes(planes), np.uint8).reshape(4, length).T, position


def _read_old_runs(data: bytes, position: int, length: int) -> tuple[NDArray[np.uint8], int]:
    pixels = bytearray()
    shift = 0  # runs that follow each other are the digits, to base 256, of one length
    while len(pixels) < 4 * length:
        pixel = data[position : position + 4]
        position += 4
        if len(pixel) < 4:
            raise ValueError("it is truncated")
        if pixel[:3] == b"\x01\x01\x01":
            count = pixel[3] << shift
            if not pixels or len(pixels) + 4 * count > 4 * length:
                raise ValueError("a run of equal pixels does not fit its scanline")
            pixels += pixels[-4:] * count
            shift += 8
        else:
            pixels += pixel
            shift = 0
    return np.frombuffer(bytes(pixels), np.uint8).reshape(length, 4), position


def _encode_runs(plane: NDArray[np.uint8]) -> bytes:
    """Write runs of four or more equal bytes as runs and what lies between them as it is."""
    starts = np.flatnonzero(np.diff(plane, prepend=~plane[:1]))
    lengths = np.diff(starts, append=plane.size)
    data, out, done = plane.tobytes(), bytearray(), 0
    long_runs = lengths >= 4
    for start, count in [*zip(starts[long_runs], lengths[long_runs], strict=True), (plane.size, 0)]:
        for literal in range(done, start, 128):
            piece = data[literal : min(literal + 128, start)]
            out += bytes((len(piece),)) + piece
        for run in range(0, count, 127):
            out += bytes((128 + min(127, count - run), data[start]))
        done = start + count
    return bytes(out)
