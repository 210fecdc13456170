import inspect
import json

import numpy as np
import pytest
from PIL import Image

import torchops
from torchops.cli.app import _parser
from torchops.cli.io import sample_path


@pytest.fixture
def folder(tmp_path, crop):
    """Two pictures of different size in a folder, and all their pixels."""
    crop("coffee.png", "a.png", (0, 50), (0, 40))
    crop("chelsea.png", "b.png", (0, 30), (0, 70))
    pixels = [
        np.asarray(Image.open(tmp_path / name)).reshape(-1, 3) / 255 for name in ("a.png", "b.png")
    ]
    return tmp_path, np.concatenate(pixels)


def test_json_holds_the_pooled_statistics(command, folder):
    path, pixels = folder
    status, out, _ = command("stats", path, "--json")
    assert status == 0
    table = json.loads(out)
    assert (table["images"], table["pixels"]) == (2, 50 * 40 + 30 * 70)
    for name, expected in (
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
        ("min", pixels.min(0)),
        ("median", np.median(pixels, 0)),
        ("max", pixels.max(0)),
    ):
        np.testing.assert_allclose(table[name], expected, rtol=1e-12)


def test_the_table_ends_with_a_line_to_paste(command, folder):
    from torchvision.transforms.v2 import Normalize

    path, pixels = folder
    status, out, _ = command("stats", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "2 images, 4100 pixels, values in [0, 1]"
    assert lines[1].split() == ["R", "G", "B"]
    normalize = eval(lines[-1], {"Normalize": Normalize})
    np.testing.assert_allclose(normalize.mean, pixels.mean(0), atol=5.1e-7)
    np.testing.assert_allclose(normalize.std, pixels.std(0), atol=5.1e-7)


def test_a_sample_comes_with_its_standard_error(command, folder, crop):
    path, _ = folder
    crop("astronaut.png", "c.png", (0, 40), (0, 40))
    tables = []
    for seed in (1, 1, 2, 3, 4, 5, 6):
        status, out, _ = command("stats", path, "--limit", 2, "--seed", seed, "--json")
        assert status == 0
        tables.append(json.loads(out))
    assert tables[0] == tables[1]
    assert any(table != tables[0] for table in tables[2:])
    assert tables[0]["images"] == 2
    assert all(0 < error < 0.5 for error in tables[0]["mean_standard_error"])
    assert "\nmean_standard_error " in command("stats", path, "--limit", 2)[1]
    assert "mean_standard_error" not in command("stats", path, "--limit", 1)[1]


def test_pictures_of_8_and_16_bits_do_not_mix(fails, folder):
    path, _ = folder
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path / "deep.png")
    assert "uint16" in fails("stats", path)


def test_defaults_are_those_of_the_function():
    arguments = _parser().parse_args(["stats", "folder"])
    parameters = inspect.signature(torchops.dataset_stats).parameters
    assert arguments.limit is parameters["limit"].default
    assert arguments.seed == parameters["seed"].default


def test_bad_input(fails, folder, tmp_path):
    path, _ = folder
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in fails("stats", empty)
    assert "nowhere" in fails("stats", tmp_path / "nowhere")
    fails("stats", sample_path("camera.png"))  # a file, not a folder
    data = (path / "b.png").read_bytes()
    (path / "b.png").write_bytes(data[: len(data) // 2])
    assert "b.png" in fails("stats", path)


def test_bad_options(fails, folder):
    assert "num_workers must be" in fails("stats", folder[0], "--workers", -1)
    assert "limit must be" in fails("stats", folder[0], "--limit", 0)
