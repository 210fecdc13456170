import inspect
import typing

import pytest
import torch
from helpers import assert_close

import torchops
from torchops.bilateral.filter import Method
from torchops.cli.app import _parser
from torchops.cli.io import read_hdr, read_image, read_picture, sample_path, write_hdr


@pytest.fixture
def radiance(tmp_path):
    """A small part of the bundled courtyard, half in the sun, and its file."""
    image = read_hdr(sample_path("courtyard.hdr"))[:, 80:130, 150:220]
    write_hdr(tmp_path / "r.hdr", image)
    return tmp_path / "r.hdr", read_hdr(tmp_path / "r.hdr")


def test_the_file_holds_the_ops_values_to_the_power_of_one_over_gamma(command, radiance, tmp_path):
    path, image = radiance
    out = tmp_path / "out.png"
    assert command("tonemap", path, "--out", out) == (0, "", "")
    assert_close(
        read_image(out), torchops.durand_tonemap(image).clamp(0, 1) ** (1 / 2.2), 0.51 / 255
    )
    options = ("--contrast", 3, "--sigma-space", 4, "--sigma-range", 0.3, "--gamma", 1)
    assert command("tonemap", path, "--out", out, "--method", "exact", *options) == (0, "", "")
    linear = torchops.durand_tonemap(
        image, contrast=3.0, sigma_space=4.0, sigma_range=0.3, method="exact"
    )
    assert_close(read_image(out), linear.clamp(0, 1), 0.51 / 255)


def test_the_sample_shows_shade_and_sky(command, tmp_path):
    """Much of the plain exposure is nearly black; of the tone-mapped picture little is."""
    out = tmp_path / "out.png"
    path = sample_path("courtyard.hdr")
    assert command("tonemap", path, "--out", out)[0] == 0
    radiance = read_hdr(path)
    plain = (radiance / radiance.max()).clamp(0, 1) ** (1 / 2.2)
    assert (plain.mean(0) < 0.1).float().mean() > 0.4
    assert (read_image(out).mean(0) < 0.1).float().mean() < 0.1


def test_exr_gives_the_same_picture(command, radiance, tmp_path):
    pytest.importorskip("OpenEXR")
    path, image = radiance
    write_hdr(tmp_path / "r.exr", image)
    for source, name in ((path, "a.png"), (tmp_path / "r.exr", "b.png")):
        assert command("tonemap", source, "--out", tmp_path / name)[0] == 0
    assert torch.equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))


def test_exr_without_its_package_names_the_extra(fails, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "r.exr").write_bytes(b"")
    message = fails("tonemap", tmp_path / "r.exr", "--out", tmp_path / "out.png")
    assert message.endswith("pip install 'torchops[demo]'")


@pytest.mark.parametrize("method", typing.get_args(Method))
def test_every_method_at_16_bits(command, radiance, tmp_path, method):
    path, image = radiance
    out = tmp_path / "out.png"
    assert command("tonemap", path, "--out", out, "--method", method, "--depth", 16)[0] == 0
    found, depth = read_picture(out)
    assert depth == 16
    expected = torchops.durand_tonemap(image, method=method).clamp(0, 1) ** (1 / 2.2)
    assert_close(found, expected, 0.51 / 65535 + 1e-6)


def test_defaults_are_those_of_the_op():
    arguments = _parser().parse_args(["tonemap", "a.hdr", "--out", "b.png"])
    parameters = inspect.signature(torchops.durand_tonemap).parameters
    for name in ("contrast", "sigma_space", "sigma_range", "method"):
        assert getattr(arguments, name) == parameters[name].default


def test_bad_input(fails, radiance, tmp_path):
    path, _ = radiance
    out = tmp_path / "out.png"
    assert "must end in .hdr, .exr" in fails("tonemap", sample_path("camera.png"), "--out", out)
    assert "no.hdr: No such file" in fails("tonemap", tmp_path / "no.hdr", "--out", out)
    assert "must end in .png" in fails("tonemap", path, "--out", tmp_path / "out.hdr")
    assert "contrast must be" in fails("tonemap", path, "--out", out, "--contrast", -2)
    assert "sigma_range must be" in fails("tonemap", path, "--out", out, "--sigma-range", 0)
    assert "--gamma must be a finite number > 0, got 0" in fails(
        "tonemap", path, "--out", out, "--gamma", 0
    )
    assert "cannot hold 16 bits" in fails(
        "tonemap", path, "--out", tmp_path / "out.jpg", "--depth", 16
    )
    path.write_bytes(path.read_bytes()[:1000])
    assert "r.hdr is not a readable .hdr file: it is truncated" in fails(
        "tonemap", path, "--out", out
    )
    path.write_bytes(b"P6 2 2 255\n")
    assert "it does not begin with '#?RADIANCE'" in fails("tonemap", path, "--out", out)
    assert not out.exists()


def test_nan_radiance_is_bad_input(fails, tmp_path):
    pytest.importorskip("OpenEXR")
    write_hdr(tmp_path / "n.exr", torch.full((3, 4, 4), torch.nan))
    assert "n.exr holds NaN or infinite values" in fails(
        "tonemap", tmp_path / "n.exr", "--out", tmp_path / "out.png"
    )


@pytest.mark.unhooked
def test_an_unknown_method_is_one_clear_line(fails, radiance, tmp_path):
    arguments = (radiance[0], "--out", tmp_path / "out.png", "--method", "magic")
    assert "method must be one of 'exact'" in fails("tonemap", *arguments)
