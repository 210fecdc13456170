import inspect
import json
import math
import sys

import numpy as np
import pytest
import torch
from helpers import assert_close
from PIL import Image

import torchops
from torchops.alignment.motion import MOTIONS
from torchops.alignment.objective import OBJECTIVES, ROBUST, SOLVERS
from torchops.alignment.steps import ALGORITHMS
from torchops.cli.align.convergence import trace
from torchops.cli.align.overlay import before_after
from torchops.cli.app import _parser
from torchops.cli.io import read_image, read_matrix, sample_path, write_image


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
    for name in ("motion", "algorithm", "solver", "objective", "robust", "levels", "iterations"):
        assert getattr(arguments, name) == parameters[name].default
    for name in ("tol", "initial", "template_mask", "image_mask"):
        assert getattr(arguments, name) == parameters[name].default


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("motion", MOTIONS),
        ("algorithm", ALGORITHMS),
        ("solver", SOLVERS),
        ("objective", OBJECTIVES),
        ("robust", ROBUST[1:]),
    ],
)
def test_the_choices_are_those_of_the_op(option, choices):
    for choice in choices:
        arguments = _parser().parse_args(["align", "a", "b", f"--{option}", choice])
        assert getattr(arguments, option) == choice
    assert ROBUST[0] is None


KNOWN = torch.tensor([[1.02, -0.05, 12.3], [0.04, 0.99, 9.1], [1e-4, -5e-5, 1.0]])
CORNERS = torch.tensor([[0.0, 0.0], [119.0, 0.0], [119.0, 99.0], [0.0, 99.0]])


@pytest.fixture
def warped(crop, tmp_path):
    """A photograph, and what it shows under KNOWN, with a little noise."""
    image = crop("camera.png", "image.png", (60, 210), (170, 350))
    template = torchops.warp_image(read_image(image), KNOWN, (100, 120))
    noise = torch.randn(template.shape, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "template.png", template + noise / 255)
    return tmp_path / "template.png", image


def corner_error(matrix):
    places = [torchops.warp_points(CORNERS, m) for m in (torch.as_tensor(matrix), KNOWN)]
    return float((places[0] - places[1]).norm(dim=-1).max())


@pytest.mark.parametrize(
    "options",
    [
        (),
        *(("--algorithm", algorithm) for algorithm in ALGORITHMS),
        ("--solver", "levenberg_marquardt", "--algorithm", "esm"),
        ("--objective", "ecc"),
        ("--robust", "huber", "--levels", 2),
        ("--robust", "tukey"),
    ],
)
def test_a_known_warp_is_found_again(command, warped, options):
    status, out, _ = command("align", *warped, "--json", *options)
    assert status == 0
    assert corner_error(json.loads(out)["matrix"]) < 0.05


def test_options_reach_the_op(command, warped):
    options = {"solver": "levenberg_marquardt", "robust": "huber", "levels": 2, "iterations": 40}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    out = command("align", *warped, "--json", "--algorithm", "esm", "--tol", 0.01, *words)[1]
    template, image = map(read_image, warped)
    found = torchops.align(template, image, algorithm="esm", tol=0.01, **options)
    assert json.loads(out)["matrix"] == found.matrix.tolist()
    assert json.loads(out)["iterations"] == int(found.iterations)


def test_ecc_does_not_mind_another_exposure(command, warped, tmp_path):
    image = read_image(warped[1])
    write_image(warped[1], image * 0.55 + 0.3)
    status, out, _ = command("align", *warped, "--objective", "ecc", "--json")
    assert status == 0
    assert corner_error(json.loads(out)["matrix"]) < 0.1


def test_masks_keep_out_what_does_not_belong(command, warped, tmp_path):
    template, image = map(read_image, warped)
    template[:, 30:70, 40:80] = 1  # something in front of the template, another in the image
    image[:, 100:140, 20:70] = 0
    write_image(warped[0], template)
    write_image(warped[1], image)
    plain = json.loads(command("align", *warped, "--json")[1])
    masks = []
    for name, of, rows, columns in (
        ("t.png", template, slice(28, 72), slice(38, 82)),
        ("i.png", image, slice(98, 142), slice(18, 72)),
    ):
        mask = torch.ones_like(of)
        mask[:, rows, columns] = 0
        write_image(tmp_path / name, mask)
        masks.append(tmp_path / name)
    options = ("--template-mask", masks[0], "--image-mask", masks[1])
    status, out, _ = command("align", *warped, *options, "--json")
    assert status == 0
    assert corner_error(json.loads(out)["matrix"]) < 0.05 < corner_error(plain["matrix"])
    robust = json.loads(command("align", *warped, "--robust", "tukey", "--json")[1])
    assert corner_error(robust["matrix"]) < 0.1


def test_a_matrix_file_is_a_start_and_numpy_reads_it(command, warped, tmp_path):
    path = tmp_path / "w.txt"
    first = json.loads(command("align", *warped, "--json", "--matrix", path)[1])
    assert np.loadtxt(path).shape == (3, 3)
    assert read_matrix(path).tolist() == first["matrix"]
    status, out, _ = command("align", *warped, "--json", "--initial", path, "--levels", 1)
    again = json.loads(out)
    assert (status, again["status"]) == (0, "CONVERGED")
    assert again["iterations"] <= 2 < first["iterations"]


def test_numbers_as_print_writes_them_are_a_start(command, warped):
    words = [f"{number:.3g}" for number in KNOWN.flatten().tolist()]
    assert "-5e-05" in words  # which argparse alone would take for an option
    status, out, _ = command("align", *warped, "--initial", *words, "--json", "--levels", 1)
    assert status == 0
    assert corner_error(json.loads(out)["matrix"]) < 0.05


def test_the_overlay_is_gray_once_aligned(command, warped, tmp_path):
    path = tmp_path / "overlay.png"
    assert command("align", *warped, "--overlay", path)[0] == 0
    overlay = read_image(path)
    height, width = overlay.shape[-2:]
    before, after = overlay[..., height - 100 :, :120], overlay[..., height - 100 :, -120:]
    assert width > 240

    def colour(picture):
        return float((picture[0] - picture[1]).abs().mean())

    assert colour(after) < 0.01 < 5 * colour(after) < colour(before)
    assert_close(before[0], read_image(warped[0])[0], 0.51 / 255)  # the template is the red one
    assert_close(before[1], read_image(warped[1])[0, :100, :120], 0.51 / 255)
    for label in (overlay[..., : height - 100, :120], overlay[..., : height - 100, -120:]):
        assert label.min() < 0.3 < 0.9 < label.mean()


@pytest.mark.parametrize("width", [8, 40, 1000])
def test_overlays_of_any_width_have_labels(width):
    image = torch.rand(1, 10, width)
    picture = before_after(image, image, torch.eye(3), torch.eye(3))
    assert picture.shape[-1] == 2 * width + 8
    assert_close(picture[:, -10:, :width], image.expand(3, -1, -1), 1e-5)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_convergence_is_drawn(command, warped, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curve{suffix}"
    assert command("align", *warped, "--convergence", path)[0] == 0
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(head[suffix])
    if suffix == ".png":
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 1


def test_the_convergence_begins_at_the_start_and_ends_at_the_result(warped):
    template, image = map(read_image, warped)
    options = {"objective": "ssd", "iterations": 50, "levels": 1, "template_mask": None}
    options |= {
        "image_mask": None,
        "initial": KNOWN + torch.tensor([[0, 0, 2.0], [0] * 3, [0] * 3]),
    }
    curve = trace(template, image, options)
    del options["objective"]
    found = torchops.align(template, image, **options)
    assert len(curve.error) == len(curve.distance) == int(found.iterations) + 1
    assert math.isclose(curve.distance[0], 2, abs_tol=0.1)
    assert curve.distance[-1] == 0
    assert curve.error[-1] == float(found.error)
    assert curve.error[0] > 10 * curve.error[-1]


def test_convergence_without_matplotlib_names_the_extra(fails, pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = fails("align", *pair, "--convergence", tmp_path / "c.png", "-o", tmp_path / "o.png")
    assert message == "--convergence needs matplotlib: pip install 'torchops[demo]'"
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(("name", "depth"), [("a.png", 16), ("a.tif", 16), ("a.jpg", 8)])
def test_the_result_has_the_depth_of_the_image(command, pair, tmp_path, name, depth):
    write_image(pair[1], read_image(pair[1]), depth=16)
    out = tmp_path / name
    assert command("align", *pair, "-o", out, "--motion", "translation")[0] == 0
    with Image.open(out) as picture:
        assert picture.mode.startswith("I") == (depth == 16)
    assert command("align", *pair, "-o", tmp_path / "b.png", "--depth", 8)[0] == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.mode == "L"


def test_bad_input(fails, pair, tmp_path):
    out = tmp_path / "out.png"
    assert "no.png: No such file" in fails("align", pair[0], tmp_path / "no.png")
    assert "no.png: No such file" in fails("align", tmp_path / "no.png")
    assert "IMAGE is missing" in fails("align", pair[0])
    assert "must end in .png" in fails("align", *pair, "--out", tmp_path / "out.flo")
    assert "out.gif must end in" in fails("align", *pair, "--overlay", tmp_path / "out.gif")
    assert "out.gif must end in" in fails("align", *pair, "--convergence", tmp_path / "out.gif")
    assert "out.gif must end in .txt" in fails("align", *pair, "--matrix", tmp_path / "out.gif")
    assert "the folder" in fails("align", *pair, "--matrix", tmp_path / "no" / "w.txt")
    assert "iterations must be" in fails("align", *pair, "--iterations", 0, "--out", out)
    assert "levels must be" in fails("align", *pair, "--levels", 0, "--out", out)
    assert "tol must be" in fails("align", *pair, "--tol", -1, "--out", out)
    assert "robust must be None" in fails(
        "align", *pair, "--objective", "ecc", "--robust", "huber", "--out", out
    )
    assert "cannot hold 16 bits" in fails("align", *pair, "-o", tmp_path / "o.jpg", "--depth", 16)
    for option in ("--crop", "--reference 1", "--stack s.png", "--stack-mode mean", "--csv t.csv"):
        assert "is for a FOLDER of frames" in fails("align", *pair, *option.split())
    pair[1].write_bytes(pair[1].read_bytes()[:400])
    assert "image.png is truncated or damaged" in fails("align", *pair, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    ["1 0 0", "1 0 0 0 1 0 0 0 0", "1 0 0 0 1 0 0 nan 1", "1 0 0 0 1 0 0 0 1 1", "a b"],
)
def test_a_wrong_initial_matrix_is_bad_input(fails, pair, words):
    message = fails("align", *pair, "--initial", *words.split())
    assert message.startswith("--initial must be nine finite numbers, the last not 0, or the name")
    assert message.endswith(f"got {words}")


@pytest.mark.parametrize(
    "text", ["", "words", "1 0 0 0 1 0 0 0 1", "1 0 0\n0 1 0\n0 0 inf\n", "1 0\n0 1 0\n0 0 1"]
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_wrong_matrix_file_is_bad_input(fails, pair, tmp_path, text):
    path = tmp_path / "w.txt"
    path.write_text(text)
    message = f"{path} must hold three rows of three finite numbers, the last not 0"
    assert fails("align", *pair, "--initial", path) == message
    assert "no.txt: No such file" in fails("align", *pair, "--initial", tmp_path / "no.txt")
    assert "camera.png must hold" in fails("align", *pair, "--initial", sample_path("camera.png"))


def test_a_mask_of_another_size_is_bad_input(fails, pair, crop, tmp_path):
    small = crop("camera.png", "small.png", (0, 30), (0, 20))
    assert fails("align", *pair, "--template-mask", small) == (
        f"the mask {small} must be as large as {pair[0]}, 100 x 100, got 20 x 30"
    )
    assert f"as large as {pair[1]}, 140 x 140" in fails("align", *pair, "--image-mask", small)
    assert "no.png: No such" in fails("align", *pair, "--image-mask", tmp_path / "no.png")
