import inspect

import pytest
import torch
from helpers import assert_close

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import read_image


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


def test_defaults_are_those_of_the_op():
    arguments = _parser().parse_args(["bilateral", "a.png", "--out", "b.png"])
    parameters = inspect.signature(torchops.bilateral_filter).parameters
    for name in ("radius", "guide", "method"):
        assert getattr(arguments, name) == parameters[name].default


def test_bad_input(fails, picture, crop, tmp_path):
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
    path.write_bytes(b"")
    assert "cup.png is not a picture" in fails("bilateral", path, "--out", out)
    assert not out.exists()
    assert torch.is_tensor(read_image(guide))
