import inspect
import json

import pytest
import torch
from helpers import assert_close

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import read_image


@pytest.fixture
def pair(crop):
    """A template and an image in which it lies 4 px right and 3 px down."""
    template = crop("camera.png", "template.png", (103, 203), (204, 304))
    return template, crop("camera.png", "image.png", (100, 240), (200, 340))


def test_json_holds_the_matrix_from_template_to_image(command, pair):
    status, out, err = command("align", *pair, "--motion", "translation", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    expected = torch.tensor([[1.0, 0, 4], [0, 1, 3], [0, 0, 1]])
    assert_close(torch.tensor(result["matrix"]), expected, 0.01)
    assert result["status"] == "CONVERGED"
    assert result["error"] < 0.001


def test_the_warped_image_is_the_template(command, pair, tmp_path):
    out = tmp_path / "aligned.png"
    status, text, err = command("align", *pair, "--out", out)
    assert (status, err) == (0, "")
    assert text.splitlines()[-1].startswith("status CONVERGED after ")
    assert_close(read_image(out), read_image(pair[0]), 1.51 / 255)


def test_a_colour_image_is_warped_in_colour(command, crop, tmp_path):
    template = crop("chelsea.png", "template.png", (103, 203), (204, 304))
    image = crop("chelsea.png", "image.png", (101, 211), (201, 311))
    out = tmp_path / "aligned.png"
    assert command("align", template, image, "--motion", "affine", "--out", out)[0] == 0
    assert (read_image(out) - read_image(template)).abs().mean() < 1 / 255


def test_an_initial_matrix_is_the_start(command, pair):
    matrix = (1, 0, 4, 0, 1, 3, 0, 0, 1)
    status, out, _ = command("align", *pair, "--initial", *matrix, "--json")
    assert status == 0
    assert json.loads(out)["iterations"] <= 2


def test_what_does_not_converge_gives_status_1_and_says_why(command, pair, tmp_path):
    out = tmp_path / "aligned.png"
    status, text, err = command("align", *pair, "--iterations", 1, "--out", out)
    assert status == 1
    assert "status ITERATION_LIMIT after 1 iterations" in text
    assert err == "torchops align: not converged: ITERATION_LIMIT\n"
    assert out.exists()


def test_a_flat_template_is_singular(command, pair, tmp_path):
    from torchops.cli.io import write_image

    write_image(tmp_path / "flat.png", torch.full((1, 100, 100), 0.5))
    status, _, err = command("align", tmp_path / "flat.png", pair[1], "--json")
    assert (status, err) == (1, "torchops align: not converged: SINGULAR\n")


def test_out_of_view_is_valid_json(command, pair):
    far = (1, 0, 1000, 0, 1, 0, 0, 0, 1)
    status, out, _ = command("align", *pair, "--initial", *far, "--json")
    result = json.loads(out, parse_constant=pytest.fail)
    assert (status, result["status"]) == (1, "OUT_OF_VIEW")


def test_defaults_are_those_of_the_op():
    arguments = _parser().parse_args(["align", "a", "b"])
    parameters = inspect.signature(torchops.align).parameters
    for name in ("motion", "algorithm", "iterations", "tol", "initial"):
        assert getattr(arguments, name) == parameters[name].default


def test_bad_input(fails, pair, tmp_path):
    out = tmp_path / "out.png"
    assert "no.png: No such file" in fails("align", pair[0], tmp_path / "no.png")
    assert "must end in .png" in fails("align", *pair, "--out", tmp_path / "out.flo")
    assert "iterations must be" in fails("align", *pair, "--iterations", 0, "--out", out)
    assert "tol must be" in fails("align", *pair, "--tol", -1, "--out", out)
    pair[1].write_bytes(pair[1].read_bytes()[:400])
    assert "image.png is truncated or damaged" in fails("align", *pair, "--out", out)
    assert not out.exists()
