import inspect

import pytest
import torch

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import read_image, write_image


@pytest.fixture
def scribbled(crop, tmp_path):
    """A gray crop of the coffee cup and the same with two scribbles of its true colours."""
    colour = read_image(crop("coffee.png", "colour.png", (100, 148), (200, 264)))
    gray = read_image(tmp_path / "colour.png", gray=True)
    marked = gray.repeat(3, 1, 1)
    marked[:, 10:12, 5:40] = torch.tensor([0.8, 0.4, 0.2])[:, None, None]
    marked[:, 40:42, 5:60] = torch.tensor([0.2, 0.4, 0.7])[:, None, None]
    paths = tmp_path / "gray.png", tmp_path / "marked.png"
    for path, image in zip(paths, (gray, marked), strict=True):
        write_image(path, image)
    assert colour.shape[0] == 3
    return paths


def test_the_brightness_stays_and_the_scribbles_keep_their_colour(command, scribbled, tmp_path):
    out = tmp_path / "out.png"
    status, text, err = command("colorize", *scribbled, "--out", out)
    assert (status, err) == (0, "")
    assert text.startswith(f"{out}: error ")
    gray, marked, result = (read_image(path) for path in (*scribbled, out))
    yiq = torchops.rgb_to_yiq(result)
    inside = ((result > 0) & (result < 1)).all(0)  # elsewhere clipping changes the brightness
    assert inside.float().mean() > 0.9
    assert (yiq[0] - gray[0])[inside].abs().max() < 0.006
    scribble = (marked != gray).any(0) & inside
    difference = yiq[1:] - torchops.rgb_to_yiq(marked)[1:]
    assert difference[:, scribble].abs().max() < 0.006


def test_levins_child_comes_out_as_by_a_direct_solve(command, shared_data, tmp_path):
    folder = shared_data / "colorization" / "levin_child"
    out = tmp_path / "child.png"
    gray, marked = folder / "example.bmp", folder / "example_marked.bmp"
    assert command("colorize", gray, marked, "--out", out)[0] == 0
    difference = read_image(out) - read_image(folder / "levin_exact_full.png")
    assert (difference.abs().max() * 255).round() <= 1


def test_too_few_iterations_write_the_picture_and_give_status_1(command, scribbled, tmp_path):
    out = tmp_path / "out.png"
    status, text, err = command("colorize", *scribbled, "--out", out, "--max-iterations", 1)
    assert (status, text) == (1, "")
    assert err.startswith("torchops colorize: not converged: error ")
    assert err.count("\n") == 1
    assert read_image(out).shape == (3, 48, 64)


def test_defaults_are_those_of_the_ops():
    arguments = _parser().parse_args(["colorize", "a", "b", "--out", "c.png"])
    solver = inspect.signature(torchops.colorize).parameters
    for name in ("radius", "weighting", "max_iterations"):
        assert getattr(arguments, name) == solver[name].default
    marks = inspect.signature(torchops.scribbles_from_marked).parameters
    assert arguments.threshold == marks["threshold"].default


def test_bad_input(fails, scribbled, crop, tmp_path):
    gray, marked = scribbled
    out = tmp_path / "out.png"
    assert "has no scribbles: nowhere does it differ" in fails("colorize", gray, gray, "--out", out)
    small = crop("coffee.png", "small.png", (0, 20), (0, 30))
    assert "must be of one size, got 64 x 48 and 30 x 20" in fails(
        "colorize", gray, small, "--out", out
    )
    assert "tol must be" in fails("colorize", *scribbled, "--out", out, "--tol", -1)
    assert "radius must be" in fails("colorize", *scribbled, "--out", out, "--radius", 0)
    assert "threshold must be" in fails("colorize", *scribbled, "--out", out, "--threshold", "nan")
    assert "no.png: No such file" in fails("colorize", gray, tmp_path / "no.png", "--out", out)
    assert "must end in .png" in fails("colorize", *scribbled, "--out", tmp_path / "out.exr")
    marked.write_bytes(marked.read_bytes()[:300])
    assert "marked.png is truncated or damaged" in fails("colorize", *scribbled, "--out", out)
    assert not out.exists()
