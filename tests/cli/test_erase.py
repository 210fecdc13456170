import inspect
import re

import pytest
import torch

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import read_image


@pytest.fixture
def picture(crop):
    return crop("chelsea.png", "cat.png", (50, 130), (100, 220))


def test_the_printed_fraction_is_what_was_erased(command, picture, tmp_path):
    out = tmp_path / "out.png"
    status, text, err = command(
        "erase", picture, "--out", out, "--fraction", 0.2, "--count", 3, "--value", 1, 0, 1
    )
    assert (status, err) == (0, "")
    erased = int(re.match(rf"{out}: erased (\d+) of 9600 pixels \(0\.200000\) in 3 rec", text)[1])
    before, after = read_image(picture), read_image(out)
    magenta = (after == torch.tensor([1.0, 0, 1])[:, None, None]).all(0)
    assert magenta.sum() == erased == 1920
    assert torch.equal(after[:, ~magenta], before[:, ~magenta])


def test_the_seed_decides(command, picture, tmp_path):
    pictures = []
    for seed in (3, 3, 4):
        assert command("erase", picture, "--out", tmp_path / "o.png", "--seed", seed)[0] == 0
        pictures.append(read_image(tmp_path / "o.png"))
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize("value", ["random", "color", "0.5"])
def test_every_value_changes_only_the_rectangles(command, picture, tmp_path, value):
    out = tmp_path / "o.png"
    assert command("erase", picture, "--out", out, "--fraction", 0.1, "--value", value)[0] == 0
    changed = (read_image(out) != read_image(picture)).any(0)
    assert 0.08 < changed.float().mean() <= 0.1


def test_several_pictures_go_to_a_folder_each_with_its_own_rectangles(
    command, picture, crop, tmp_path
):
    (tmp_path / "erased").mkdir()
    other = crop("camera.png", "man.png", (0, 80), (0, 120))
    status, text, _ = command(
        "erase", picture, other, "--out", tmp_path / "erased", "--value", 1, "--fraction", 0.3
    )
    assert status == 0
    assert text.count("\n") == 2
    white = [(read_image(tmp_path / "erased" / n) == 1).all(0) for n in ("cat.png", "man.png")]
    assert not torch.equal(*white)


def test_defaults_are_those_of_the_transform():
    arguments = _parser().parse_args(["erase", "a.png", "--out", "b.png"])
    parameters = inspect.signature(torchops.RandomMultiErase).parameters
    for name in ("fraction", "count", "ratio"):
        assert tuple(getattr(arguments, name)) == parameters[name].default
    assert float(arguments.value[0]) == parameters["value"].default


def test_bad_input(fails, picture, tmp_path):
    out = tmp_path / "out.png"
    for options, message in (
        (("--fraction", 1.5), "fraction must be"),
        (("--fraction", 0.1, 0.2, 0.3), "--fraction must be one number or two, got 3"),
        (("--count", 0), "count must be"),
        (("--ratio", 2, 1), "ratio must be"),
        (("--value", "purple"), "--value must be a number in [0, 1], three of them, random"),
        (("--value", "2"), "--value must be"),
        (("--value", "nan"), "--value must be"),
        (("--value", "0", "1"), "--value must be"),
    ):
        assert message in fails("erase", picture, "--out", out, *options)
    assert "no.png: No such file" in fails("erase", tmp_path / "no.png", "--out", out)
    assert "--out must be an existing folder" in fails("erase", picture, picture, "--out", out)
    (tmp_path / "d").mkdir()
    assert "different names" in fails("erase", picture, picture, "--out", tmp_path / "d")
    assert "it would replace it" in fails("erase", picture, "--out", tmp_path)
    assert "must end in .png" in fails("erase", picture, "--out", tmp_path / "out.hdr")
    assert not out.exists()
