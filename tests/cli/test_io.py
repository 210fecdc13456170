"""Picture files: every mode Pillow reads, damaged files, and outputs that are whole or absent."""

import os
import stat
import sys

import numpy as np
import pytest
import torch
from helpers import assert_close
from PIL import Image

from torchops.cli import io
from torchops.cli.io import read_hdr, read_image, sample_path, write_hdr, write_image

LEVELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3) * 2


def saved(tmp_path, array, name="picture.png", mode=None, **options):
    path = tmp_path / name
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def outcome(path):
    """The picture, or the text of the error."""
    try:
        return read_image(path)
    except ValueError as error:
        return str(error)


def test_rgb_is_divided_by_255(tmp_path):
    image = read_image(saved(tmp_path, LEVELS))
    assert image.dtype == torch.float32
    assert torch.equal(image, (torch.from_numpy(LEVELS).permute(2, 0, 1).double() / 255).float())


def test_gray_has_one_channel(tmp_path):
    image = read_image(saved(tmp_path, LEVELS[..., 0]))
    assert image.shape == (1, 6, 5)
    assert_close(image[0] * 255, torch.from_numpy(LEVELS[..., 0]), 1e-5)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "1"])
def test_alpha_is_dropped_and_one_bit_is_gray(tmp_path, mode):
    path = saved(tmp_path, LEVELS, mode=mode)
    with Image.open(path) as picture:
        opaque = np.asarray(picture.convert("RGB" if mode == "RGBA" else "L"))
    if mode == "RGBA":
        pixels = np.dstack([LEVELS, np.zeros_like(LEVELS[..., 0])])  # all transparent
        path = saved(tmp_path, pixels)
    image = read_image(path)
    assert image.shape[0] == (3 if mode == "RGBA" else 1)
    assert_close(image.movedim(0, -1).squeeze(-1) * 255, torch.tensor(opaque), 1e-5)


@pytest.mark.parametrize(("mode", "name"), [("P", "p.png"), ("P", "p.gif"), ("CMYK", "c.jpg")])
def test_palette_and_cmyk_become_rgb(tmp_path, mode, name):
    path = saved(tmp_path, LEVELS, name, mode)
    with Image.open(path) as picture:
        assert picture.mode == mode
        expected = np.asarray(picture.convert("RGB"))
    assert_close(read_image(path).permute(1, 2, 0) * 255, torch.tensor(expected), 1e-4)


@pytest.mark.parametrize("name", ["d.png", "d.tif", "d.pgm"])
def test_16_bit_gray_keeps_its_depth(tmp_path, name):
    array = np.array([[0, 1, 257], [32768, 65534, 65535]], np.uint16)
    image = read_image(saved(tmp_path, array, name))
    assert torch.equal(image[0], torch.from_numpy(array / 65535).float())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, LEVELS, exif=exif)
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](LEVELS)
    assert_close(read_image(path).permute(1, 2, 0) * 255, torch.from_numpy(turned.copy()), 1e-4)


def test_gray_reading_is_the_luma_of_bt601(tmp_path):
    image = read_image(saved(tmp_path, LEVELS))
    luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    assert_close(read_image(tmp_path / "picture.png", gray=True), luma, 1.01 / 255)


def test_floating_point_tiff_names_the_formats_to_use(tmp_path):
    path = saved(tmp_path, np.ones((2, 2), np.float32), "f.tif")
    with pytest.raises(ValueError, match=r"f\.tif holds floating-point values; save it as \.hdr"):
        read_image(path)


def test_32_bit_values_beyond_16_bits_raise(tmp_path):
    path = saved(tmp_path, np.full((2, 2), 70000, np.int32), "i.tif")
    with pytest.raises(ValueError, match=r"i\.tif holds values outside the 16 bits"):
        read_image(path)


@pytest.mark.parametrize("name", ["t.png", "t.jpg", "t.tif", "t.bmp"])
def test_a_truncated_file_raises_at_every_length_and_names_the_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = saved(tmp_path, noise, name)
    data = path.read_bytes()
    whole = read_image(path)
    for length in range(0, len(data), 1 + len(data) // 97):
        path.write_bytes(data[:length])
        image = outcome(path)
        if isinstance(image, str):
            assert name in image
        else:  # what was cut off was padding or metadata, not pixels
            assert torch.equal(image, whole), length


def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("n.png", "n.jpg", "n.tif", "n.bmp"):
        path = saved(tmp_path, LEVELS, name)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(100):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            image = outcome(path)
            assert name in image if isinstance(image, str) else len(image) in (1, 3)


def test_a_picture_beyond_pillows_limit_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = saved(tmp_path, LEVELS)
    with pytest.raises(ValueError, match=r"picture\.png is too large: .* exceeds limit of 20"):
        read_image(path)


def test_what_is_no_picture_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.txt is not a picture"):
        read_image(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["w.png", "w.tif", "w.bmp"])
def test_writing_and_reading_give_the_same_levels(tmp_path, channels, name):
    image = torch.from_numpy(LEVELS.transpose(2, 0, 1)[:channels].copy()).float() / 255
    write_image(tmp_path / name, image)
    assert torch.equal(read_image(tmp_path / name), image)


def test_jpeg_is_close(tmp_path):
    image = read_image(sample_path("coffee.png"))[:, :96, :96]
    write_image(tmp_path / "w.jpeg", image)
    assert (read_image(tmp_path / "w.jpeg") - image).abs().mean() < 0.01


def test_writing_rounds_to_nearest_and_clips(tmp_path):
    values = torch.tensor([[[-1.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 2.0]]])
    write_image(tmp_path / "w.png", values)
    assert (read_image(tmp_path / "w.png") * 255).round().flatten().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("name", "image", "error", "message"),
    [
        ("w.gif", torch.zeros(1, 2, 2), ValueError, r"w\.gif must end in \.png"),
        ("no/w.png", torch.zeros(1, 2, 2), OSError, "the folder .*no of the output .* not exist"),
        ("w.png", torch.zeros(2, 2, 2), ValueError, r"shape \(1 or 3, H, W\), got \(2, 2, 2\)"),
        ("w.png", torch.full((1, 2, 2), torch.nan), ValueError, r"w\.png holds NaN"),
    ],
)
def test_what_cannot_be_written_raises_and_leaves_nothing(tmp_path, name, image, error, message):
    with pytest.raises(error, match=message):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.png"
    path.write_bytes(b"old")

    def half(self, out, **options):
        out.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, torch.zeros(1, 2, 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.png"]
    assert path.read_bytes() == b"old"


def test_a_written_file_has_the_usual_permissions_and_keeps_links(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "target.png")
    write_image(link, torch.zeros(1, 2, 2))
    assert link.is_symlink()
    assert stat.S_IMODE(os.stat(link).st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "d.png").mkdir()
    with pytest.raises(IsADirectoryError, match="exists and is not a file"):
        write_image(tmp_path / "d.png", torch.zeros(1, 2, 2))


def test_exr_round_trip_is_exact(tmp_path):
    pytest.importorskip("OpenEXR")
    image = torch.rand(3, 5, 7) * 1e6 - 10
    write_hdr(tmp_path / "r.exr", image)
    assert torch.equal(read_hdr(tmp_path / "r.exr"), image)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.exr"]


def test_exr_half_precision_gray_and_alpha(tmp_path):
    OpenEXR = pytest.importorskip("OpenEXR")
    half = (np.arange(12, dtype=np.float16) / 8).reshape(3, 4)
    OpenEXR.File({}, {"Y": half}).write(str(tmp_path / "y.exr"))
    OpenEXR.File({}, {c: half * i for i, c in enumerate("RGBA")}).write(str(tmp_path / "a.exr"))
    OpenEXR.File({}, {"Z": half}).write(str(tmp_path / "z.exr"))
    expected = torch.from_numpy(half.astype(np.float32))
    assert torch.equal(read_hdr(tmp_path / "y.exr"), expected.expand(3, 3, 4))
    assert torch.equal(
        read_hdr(tmp_path / "a.exr"), torch.stack([0 * expected, expected, 2 * expected])
    )
    with pytest.raises(ValueError, match=r"z\.exr .* needs the channels R, G, B or Y, got Z"):
        read_hdr(tmp_path / "z.exr")


def test_a_truncated_exr_raises_and_names_the_file(tmp_path):
    pytest.importorskip("OpenEXR")
    path = tmp_path / "t.exr"
    write_hdr(path, torch.rand(3, 40, 30))
    data = path.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 50):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"t\.exr is not a readable \.exr file"):
            read_hdr(path)


def test_without_openexr_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "x.exr").write_bytes(b"anything")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchops\[demo\]'"):
        read_hdr(tmp_path / "x.exr")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchops\[demo\]'"):
        write_hdr(tmp_path / "y.exr", torch.ones(3, 2, 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.exr"]


def test_radiance_files_are_known_by_their_ending(tmp_path):
    with pytest.raises(ValueError, match=r"r\.png must end in \.hdr, \.exr"):
        read_hdr(tmp_path / "r.png")
    with pytest.raises(ValueError, match=r"r\.png must end in \.hdr, \.exr"):
        write_hdr(tmp_path / "r.png", torch.ones(3, 2, 2))
    with pytest.raises(ValueError, match=r"shape \(3, H, W\), got \(1, 2, 2\)"):
        write_hdr(tmp_path / "r.hdr", torch.ones(1, 2, 2))
    with pytest.raises(FileNotFoundError):
        read_hdr(tmp_path / "r.hdr")


def test_real_pictures_of_every_kind_are_read(shared_data):
    shapes = {
        "chicky_512.png": (3, 512, 512),
        "hopper.gif": (3, 128, 128),
        "hopper_16bit.pgm": (1, 128, 128),
        "12in16bit.tif": (1, 100, 100),
        "la.tga": (1, 64, 64),
        "pil_sample_cmyk.jpg": (3, 100, 100),
        "exif_Landscape_6.jpg": (3, 1200, 1800),
    }
    for name, shape in shapes.items():
        image = read_image(shared_data / "natural" / name)
        assert image.shape == shape, name
        assert 0 <= image.min() < image.max() <= 1, name


def test_exif_and_cmyk_photographs_look_like_their_plain_versions(shared_data):
    folder = shared_data / "natural"
    turned, upright = (read_image(folder / f"exif_Landscape_{i}.jpg") for i in (6, 1))
    assert (turned - upright).abs().mean() < 5 / 255
    cmyk = read_image(folder / "kodak_03_half_cmyk.jpg")
    rgb = torch.nn.functional.avg_pool2d(read_image(folder / "kodak_03.png"), 2)
    assert (cmyk - rgb).abs().mean() < 0.03


def test_a_linear_exr_photograph_keeps_its_negative_values(shared_data):
    pytest.importorskip("OpenEXR")
    image = read_hdr(shared_data / "hdr" / "Desk.exr")
    assert image.shape == (3, 874, 644)
    assert image.min() < 0 < io.read_hdr(shared_data / "hdr" / "memorial.hdr").max()
