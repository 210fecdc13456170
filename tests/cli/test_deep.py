"""Pictures of 16 bits a channel: written and read as OpenCV does it."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers import assert_close
from PIL import Image

from torchops.cli.io import read_image, read_picture, write_image

LEVELS = np.random.default_rng(0).integers(0, 65536, (3, 7, 11), dtype=np.uint16)


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2")


@pytest.mark.parametrize("channels", [1, 3])
def test_written_files_are_read_alike_by_opencv_and_by_ourselves(tmp_path, cv2, channels):
    levels = LEVELS[:channels]
    path = tmp_path / "w.png"
    write_image(path, torch.from_numpy(levels.astype(np.float64) / 65535), depth=16)
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).reshape(7, 11, channels)[..., ::-1]
    np.testing.assert_array_equal(found.transpose(2, 0, 1), levels)
    image, depth = read_picture(path)
    assert depth == 16
    assert torch.equal(
        (image.double() * 65535).round(), torch.from_numpy(levels.astype(np.float64))
    )


@pytest.mark.parametrize("alpha", [False, True])
def test_opencvs_files_are_read_at_full_depth(tmp_path, cv2, alpha):
    stored = LEVELS[::-1].transpose(1, 2, 0)
    if alpha:
        stored = np.dstack([stored, LEVELS[0] // 2])
    assert cv2.imwrite(str(tmp_path / "c.png"), stored)
    assert_close(
        read_image(tmp_path / "c.png") * 65535, torch.from_numpy(LEVELS.astype(np.float32)), 0.01
    )


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("smooth", [False, True])
def test_every_row_filter_is_undone(tmp_path, cv2, level, smooth):
    levels = LEVELS
    if smooth:  # so that the sums of neighbours do not wrap around
        y, x = np.mgrid[:7, :11]
        levels = np.stack([300 * y + 700 * x, 65535 - 900 * x, 400 * y * x]).astype(np.uint16)
    # OpenCV's strategies make it choose different filters.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, 8 << level]
    path = tmp_path / "f.png"
    assert cv2.imwrite(str(path), levels[::-1].transpose(1, 2, 0).copy(), options)
    lines = np.frombuffer(zlib.decompress(idat(path.read_bytes())), np.uint8).reshape(7, -1)
    assert (lines[1:, 0] == level).all()
    assert_close(read_image(path) * 65535, torch.from_numpy(levels.astype(np.float32)), 0.01)


def chunks(data):
    """Name and content of every chunk of a PNG file."""
    start = 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        start += 12 + length


def idat(data):
    return b"".join(content for name, content in chunks(data) if name == b"IDAT")


def png(parts):
    """A PNG file of chunks."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        check = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + check
    return data


def test_gray_with_alpha_keeps_its_depth(tmp_path):
    torch_levels = torch.from_numpy(LEVELS[0].astype(np.float32))
    path = tmp_path / "la.png"
    path.write_bytes(gray_with_alpha(LEVELS[0]))
    image, depth = read_picture(path)
    assert (image.shape[0], depth) == (1, 16)
    assert_close(image[0] * 65535, torch_levels, 0.01)


def gray_with_alpha(levels):
    """A PNG of colour type 4, which neither Pillow nor OpenCV writes at 16 bits."""
    height, width = levels.shape
    pixels = np.stack([levels, np.full_like(levels, 65535)], -1).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    return png(((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")))


def interlaced(levels):
    """A PNG of colour type 2 whose pixels come in the seven passes of Adam7."""
    height, width = levels.shape[1:]
    lines = b""
    for y, x, dy, dx in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):  # fmt: skip
        part = levels[:, y::dy, x::dx].transpose(1, 2, 0).astype(">u2")
        if part.size:
            lines += b"".join(b"\0" + row.tobytes() for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 1)
    return png(((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")))


def test_interlaced_files_keep_their_depth(tmp_path, cv2):
    path = tmp_path / "i.png"
    path.write_bytes(interlaced(LEVELS))
    by_opencv = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(by_opencv, LEVELS)
    image, depth = read_picture(path)
    assert depth == 16
    assert_close(image * 65535, torch.from_numpy(LEVELS.astype(np.float32)), 0.01)


def test_files_with_an_orientation_keep_their_depth(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: a quarter turn clockwise makes it upright
    path = tmp_path / "o.png"
    write_image(path, torch.from_numpy(LEVELS.astype(np.float64) / 65535), depth=16)
    first, *rest = chunks(path.read_bytes())
    path.write_bytes(png((first, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")), *rest)))
    image, depth = read_picture(path)
    assert depth == 16
    expected = np.rot90(LEVELS, -1, (1, 2)).astype(np.float32)
    assert_close(image * 65535, torch.from_numpy(expected.copy()), 0.01)


def test_gray_reading_of_deep_colour_is_the_luma_of_bt601(tmp_path):
    image = torch.from_numpy(LEVELS.astype(np.float32) / 65535)
    write_image(tmp_path / "w.png", image, depth=16)
    luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    assert_close(read_image(tmp_path / "w.png", gray=True), luma, 0.6 / 65535)


def test_gray_tiff_keeps_16_bits(tmp_path, cv2):
    levels = LEVELS[:1]
    path = tmp_path / "w.tif"
    write_image(path, torch.from_numpy(levels.astype(np.float64) / 65535), depth=16)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), levels[0])
    assert read_picture(path)[1] == 16


@pytest.mark.parametrize("name", ["w.jpg", "w.bmp", "w.tif"])
def test_what_has_no_16_bits_says_so_and_leaves_nothing(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot hold 16 bits: use \.png, or \.tif for a gray"):
        write_image(tmp_path / name, torch.zeros(3, 2, 2), depth=16)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_or_damaged_deep_file_raises_and_names_the_file(tmp_path):
    path = tmp_path / "t.png"
    write_image(path, torch.from_numpy(LEVELS.astype(np.float64) / 65535), depth=16)
    data = path.read_bytes()
    for length in range(0, len(data) - 16, 23):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"t\.png is"):
            read_image(path)
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(26, len(data), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        assert "t.png" in outcome(path) or outcome(path) == "read"


def outcome(path):
    try:
        return "read" if len(read_image(path)) == 3 else "of another shape"
    except ValueError as error:
        return str(error)


def test_pillow_agrees_on_the_upper_8_bits(tmp_path):
    write_image(tmp_path / "w.png", torch.from_numpy(LEVELS.astype(np.float64) / 65535), depth=16)
    with Image.open(io.BytesIO((tmp_path / "w.png").read_bytes())) as picture:
        upper = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert np.abs(upper.astype(int) - (LEVELS >> 8)).max() <= 1
