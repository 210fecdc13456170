import inspect
import typing

import pytest
import torch
from helpers import assert_close

import torchops
from torchops.bilateral.filter import Method
from torchops.cli.app import _parser
from torchops.cli.io import (
    luminance,
    read_hdr,
    read_image,
    read_picture,
    write_hdr,
    write_image,
)


@pytest.fixture
def picture(crop):
    path = crop("coffee.png", "cup.png", (100, 140), (200, 250))
    return path, read_image(path)


def test_exact_is_the_op_on_values_in_0_1(command, picture, tmp_path):
    path, image = picture
    out = tmp_path / "out.png"
    assert command("bilateral", path, "--out", out) == (0, "", "")
    assert_close(read_image(out), torchops.bilateral_filter(image, 3.0, 0.1), 0.51 / 255)
    options = ("--sigma-space", 2, "--sigma-range", 0.3, "--radius", 4)
    assert command("bilateral", path, "--out", out, *options) == (0, "", "")
    assert_close(read_image(out), torchops.bilateral_filter(image, 2.0, 0.3, radius=4), 0.51 / 255)


def test_grid_takes_its_edges_from_the_gray_picture(command, picture, tmp_path):
    path, image = picture
    out = tmp_path / "out.png"
    assert command("bilateral", path, "--out", out, "--method", "grid") == (0, "", "")
    expected = torchops.bilateral_filter(
        image, 3.0, 0.1, guide=read_image(path, gray=True), method="grid"
    )
    assert_close(read_image(out), expected.clamp(0, 1), 0.51 / 255)


@pytest.mark.parametrize("method", ["exact", "grid"])
def test_a_guide_says_where_the_edges_are(command, picture, crop, tmp_path, method):
    path, image = picture
    guide = crop("chelsea.png", "guide.png", (100, 140), (200, 250))
    out = tmp_path / "out.png"
    assert command("bilateral", path, "--guide", guide, "--out", out, "--method", method)[0] == 0
    edges = read_image(guide, gray=method == "grid")
    expected = torchops.bilateral_filter(image, 3.0, 0.1, guide=edges, method=method)
    assert_close(read_image(out), expected.clamp(0, 1), 0.51 / 255)


@pytest.mark.parametrize("method", typing.get_args(Method))
def test_every_method_of_the_op(command, picture, tmp_path, method):
    path, image = picture
    out = tmp_path / "out.png"
    assert command("bilateral", path, "--out", out, "--method", method) == (0, "", "")
    guide = None if method == "exact" else read_image(path, gray=True)
    expected = torchops.bilateral_filter(image, 3.0, 0.1, guide=guide, method=method)
    assert_close(read_image(out), expected.clamp(0, 1), 0.51 / 255)


def test_window_and_backend(command, picture, tmp_path):
    path, image = picture
    out = tmp_path / "out.png"
    options = ("--window", "disc", "--radius", 4, "--backend", "torch")
    assert command("bilateral", path, "--out", out, *options) == (0, "", "")
    expected = torchops.bilateral_filter(image, 3.0, 0.1, radius=4, window="disc")
    assert_close(read_image(out), expected, 0.51 / 255)


def test_a_mask_says_which_pixels_count(command, picture, tmp_path):
    path, image = picture
    mask = torch.rand(1, 40, 50) > 0.3
    write_image(tmp_path / "mask.png", mask.float())
    out = tmp_path / "out.png"
    assert command("bilateral", path, "--out", out, "--mask", tmp_path / "mask.png")[0] == 0
    expected = torchops.bilateral_filter(image, 3.0, 0.1, mask=mask)
    assert_close(read_image(out), expected, 0.51 / 255)
    # What lies under black changes nothing.
    image[:, ~mask[0]] = 1.0
    guide = tmp_path / "guide.png"
    path.rename(guide)
    write_image(path, image)
    arguments = ("--guide", guide, "--mask", tmp_path / "mask.png")
    assert command("bilateral", path, "--out", tmp_path / "again.png", *arguments)[0] == 0
    assert_close(read_image(tmp_path / "again.png"), read_image(out), 0.51 / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 16])
def test_sigma_range_means_the_same_at_every_depth(command, tmp_path, channels, depth):
    levels = (torch.rand(channels, 20, 24) * 0.2 + 0.4) * (2**depth - 1)
    image = levels.round() / (2**depth - 1)
    write_image(tmp_path / "in.png", image, depth=depth)
    options = ("--sigma-space", 2, "--sigma-range", 0.05)
    out = tmp_path / "out.png"
    assert command("bilateral", tmp_path / "in.png", "--out", out, *options) == (0, "", "")
    found, stored = read_picture(out)
    assert stored == depth  # as deep as what came in
    expected = torchops.bilateral_filter(image, 2.0, 0.05)
    assert_close(found, expected, 0.51 / (2**depth - 1) + 1e-7)
    # The same in levels, as the op has it for integers and for values of any range.
    in_levels = torchops.bilateral_filter(levels.round(), 2.0, 0.05 * (2**depth - 1))
    assert_close(in_levels / (2**depth - 1), expected, 1e-5)
    if depth == 8:
        as_bytes = torchops.bilateral_filter(levels.round().byte(), 2.0, 0.05 * 255)
        assert_close(as_bytes / 255, found, 1.01 / 255)


def test_depth_of_the_result(command, fails, picture, tmp_path):
    path, image = picture
    deep = tmp_path / "deep.png"
    write_image(deep, image[:1], depth=16)
    for name, expected in (("a.png", 16), ("a.tif", 16), ("a.jpg", 8), ("a.bmp", 8)):
        assert command("bilateral", deep, "--out", tmp_path / name)[0] == 0
        assert read_picture(tmp_path / name)[1] == expected
    assert command("bilateral", path, "--out", tmp_path / "b.png", "--depth", 16)[0] == 0
    assert read_picture(tmp_path / "b.png")[1] == 16
    assert command("bilateral", tmp_path / "b.png", "--out", tmp_path / "b.tif")[0] == 0
    assert read_picture(tmp_path / "b.tif")[1] == 8  # colour
    assert command("bilateral", deep, "--out", tmp_path / "c.png", "--depth", 8)[0] == 0
    assert read_picture(tmp_path / "c.png")[1] == 8
    for name in ("d.jpg", "d.tif", "d.bmp"):
        message = fails("bilateral", path, "--out", tmp_path / name, "--depth", 16)
        assert message.endswith("cannot hold 16 bits: use .png, or .tif for a gray picture")


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
@pytest.mark.parametrize("method", ["exact", "grid"])
def test_radiance_keeps_its_values(command, fails, tmp_path, suffix, method):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    write_hdr(tmp_path / f"in{suffix}", 20 * torch.rand(3, 20, 24))
    image = read_hdr(tmp_path / f"in{suffix}")
    out = tmp_path / f"out{suffix}"
    options = ("--sigma-range", 5, "--sigma-space", 1.5, "--method", method)
    assert command("bilateral", tmp_path / f"in{suffix}", "--out", out, *options) == (0, "", "")
    guide = None if method == "exact" else luminance(image)
    expected = torchops.bilateral_filter(image, 1.5, 5.0, guide=guide, method=method)
    assert_close(read_hdr(out), expected, 20 / 256 if suffix == ".hdr" else 1e-5)
    message = fails("bilateral", tmp_path / f"in{suffix}", "--out", tmp_path / "out.png")
    assert "must end in .hdr, .exr" in message
    message = fails("bilateral", tmp_path / f"in{suffix}", "--out", out, "--depth", 16)
    assert message.startswith("--depth is for pictures")


def test_defaults_are_those_of_the_op():
    arguments = _parser().parse_args(["bilateral", "a.png", "--out", "b.png"])
    parameters = inspect.signature(torchops.bilateral_filter).parameters
    for name in ("radius", "guide", "method", "mask", "window", "backend"):
        assert getattr(arguments, name) == parameters[name].default


def test_bad_input(fails, picture, crop, tmp_path, monkeypatch):
    path, _ = picture
    out = tmp_path / "out.png"
    assert "no.png: No such file" in fails("bilateral", tmp_path / "no.png", "--out", out)
    assert "must end in .png" in fails("bilateral", path, "--out", tmp_path / "out.webp")
    assert "the folder" in fails("bilateral", path, "--out", tmp_path / "no" / "out.png")
    for option, name in (("--sigma-space", "sigma_space"), ("--sigma-range", "sigma_range")):
        for value in ("nan", "-1", "0", "inf"):
            assert f"{name} must be" in fails("bilateral", path, "--out", out, option, value)
    assert "radius must be" in fails("bilateral", path, "--out", out, "--radius", -1)
    guide = crop("chelsea.png", "guide.png", (0, 20), (0, 20))
    assert "guide" in fails("bilateral", path, "--out", out, "--guide", guide)
    assert "mask must have the spatial size" in fails(
        "bilateral", path, "--out", out, "--mask", guide
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if not torch.cuda.is_available():
        message = fails("bilateral", path, "--out", out, "--backend", "triton")
        assert "backend must be 'auto' or 'torch'" in message
    path.write_bytes(b"")
    assert "cup.png is not a picture" in fails("bilateral", path, "--out", out)
    assert not out.exists()
    assert torch.is_tensor(read_image(guide))


@pytest.mark.unhooked
def test_unknown_names_are_one_clear_line(fails, picture, tmp_path):
    arguments = (picture[0], "--out", tmp_path / "out.png")
    assert "method must be one of 'exact'" in fails("bilateral", *arguments, "--method", "magic")
    assert "backend must be one of" in fails("bilateral", *arguments, "--backend", "cuda")
