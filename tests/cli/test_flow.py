import inspect

import pytest
import torch
from helpers import assert_close

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import read_image


@pytest.fixture
def pair(crop):
    """Two frames; the content moves 2 px to the right and 1 px up."""
    first = crop("camera.png", "first.png", (100, 180), (200, 300))
    return first, crop("camera.png", "second.png", (101, 181), (198, 298))


def test_flow_is_written_as_numbers_and_as_colours(command, pair, tmp_path):
    flo, colours, confidence = tmp_path / "f.flo", tmp_path / "f.png", tmp_path / "c.png"
    status, out, err = command(
        "flow", *pair, "--out", flo, "--out", colours, "--confidence", confidence
    )
    assert (status, err) == (0, "")
    flow = torchops.read_flo(flo)
    assert_close(flow.flatten(1).median(1).values, torch.tensor([2.0, -1.0]), 0.05)
    assert read_image(colours).shape == (3, 80, 100)
    expected = torchops.lucas_kanade(*map(read_image, pair)).confidence
    assert_close(read_image(confidence), expected, 0.51 / 255)
    assert out.startswith("displacement: mean 2.")


def test_colours_are_those_of_torchvision(command, pair, tmp_path):
    from torchvision.utils import flow_to_image

    flo, colours = tmp_path / "f.flo", tmp_path / "f.png"
    assert command("flow", *pair, "--out", flo, "--out", colours, "--sigma", 3)[0] == 0
    expected = flow_to_image(torchops.read_flo(flo)) / 255
    assert torch.equal(read_image(colours), expected)


def test_defaults_are_those_of_the_op():
    arguments = _parser().parse_args(["flow", "a", "b", "--out", "c.flo"])
    parameters = inspect.signature(torchops.lucas_kanade).parameters
    for name in ("sigma", "levels", "warps"):
        assert getattr(arguments, name) == parameters[name].default


def test_bad_input(fails, pair, crop, tmp_path):
    first, second = pair
    out = tmp_path / "f.flo"
    assert "nothing.png: No such file" in fails(
        "flow", first, tmp_path / "nothing.png", "--out", out
    )
    assert "f.gif must end in .flo, .png" in fails("flow", *pair, "--out", tmp_path / "f.gif")
    assert "must end in .png" in fails("flow", *pair, "--out", out, "--confidence", out)
    assert "the folder" in fails("flow", *pair, "--out", tmp_path / "no" / "f.flo")
    small = crop("camera.png", "small.png", (0, 20), (0, 30))
    assert "must have the same channels, height and width" in fails(
        "flow", first, small, "--out", out
    )
    assert "sigma must be a finite number > 0, got -1" in fails(
        "flow", *pair, "--out", out, "--sigma", -1
    )
    assert "levels must be an integer >= 1, got 0" in fails(
        "flow", *pair, "--out", out, "--levels", 0
    )
    second.write_bytes(second.read_bytes()[:500])
    assert "second.png is truncated or damaged" in fails("flow", *pair, "--out", out)
    assert not out.exists()
