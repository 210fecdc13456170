"""Folders of frames: stabilised, cropped, stacked."""

import csv
import itertools
import json
import math
import re

import pytest
import torch
from helpers import assert_close
from PIL import Image

import torchops
from torchops.cli.align import folder as folder_module
from torchops.cli.align.stack import Stack, common_rectangle
from torchops.cli.io import read_image, sample_path, write_image

SIZE = (96, 128)
NOISE = 6 / 255
COUNT = 6


def shake(number):
    """Where frame ``number`` looks: a turn and a shift; the first looks straight."""
    angle, x, y = 0.02 * math.sin(2.1 * number), 4.3 * math.sin(1.3 * number), 3.7 * (number % 3)
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, x], [s, c, y], [0.0, 0.0, 1.0]])


@pytest.fixture
def scene():
    """A photograph as soft as a lens makes it, so that sampling it twice loses little."""
    sharp = read_image(sample_path("astronaut.png"))[:, 30:190, 140:340]
    return torch.nn.functional.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)


def look(scene, matrix):
    middle = torch.tensor([[1.0, 0.0, 36.0], [0.0, 1.0, 32.0], [0.0, 0.0, 1.0]])
    return torchops.warp_image(scene, middle @ matrix, SIZE)


@pytest.fixture
def frames(scene, tmp_path):
    """A shaky, noisy film; what a frame shows at x the first shows at shake(x)."""
    (tmp_path / "frames").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        picture = look(scene, shake(number))
        picture = picture + NOISE * torch.randn(picture.shape, generator=generator)
        write_image(tmp_path / "frames" / f"f{number + 7}.png", picture)  # 7 to 12
    return tmp_path / "frames"


NAMES = [f"f{number + 7}.png" for number in range(COUNT)]
MOTION = ("--motion", "euclidean")


def corner_error(found, expected):
    corners = torch.tensor([[0.0, 0.0], [127.0, 0.0], [127.0, 95.0], [0.0, 95.0]])
    places = [torchops.warp_points(corners, torch.as_tensor(m)) for m in (found, expected)]
    return float((places[0] - places[1]).norm(dim=-1).max())


@pytest.mark.parametrize("reference", [None, 1, 4, COUNT])
def test_matrices_are_those_of_the_shake(command, frames, reference):
    options = () if reference is None else ("--reference", reference)
    status, out, err = command("align", frames, *MOTION, "--json", *options)
    assert (status, err) == (0, "")
    result = json.loads(out)
    base = 0 if reference is None else reference - 1
    assert result["reference"] == NAMES[base]
    assert [frame["name"] for frame in result["frames"]] == NAMES  # 9 before 10
    for number, frame in enumerate(result["frames"]):
        expected = shake(number).inverse() @ shake(base)
        assert corner_error(frame["matrix"], expected) < 0.15  # the noise of two frames
        assert frame["status"] == "CONVERGED"
    assert result["frames"][base]["matrix"] == torch.eye(3).tolist()


def test_a_shaky_film_is_stable_afterwards(command, frames, scene, tmp_path):
    out = tmp_path / "new" / "stable"
    status, text, err = command("align", frames, *MOTION, "-o", out, "--crop")
    assert (status, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    crop = text.splitlines()[-1]
    assert crop.startswith("crop: ")
    width, height, *size, x, y = map(int, re.findall(r"\d+", crop))
    assert size == [128, 96]
    stable = torch.stack([read_image(out / name) for name in NAMES])
    assert stable.shape == (COUNT, 3, height, width)
    assert 0.75 * SIZE[0] < height < SIZE[0]
    truth = look(scene, torch.eye(3))[:, y : y + height, x : x + width]
    assert (stable - truth).square().mean().sqrt() < 1.1 * NOISE
    shaky = torch.stack([read_image(frames / name) for name in NAMES])
    assert stable.std(0).mean() < 0.4 * shaky.std(0).mean()
    for side in (0, -1):  # no black border is left
        for rim in ((..., side), (..., side, slice(None))):
            assert (stable[rim] - truth[rim]).square().mean().sqrt() < 1.3 * NOISE


@pytest.mark.parametrize(("mode", "part"), [("mean", 0.55), ("median", 0.65)])
def test_a_stack_has_less_noise_than_a_frame(command, frames, scene, tmp_path, mode, part):
    path = tmp_path / "stack.png"
    options = ("--stack", path, "--stack-mode", mode)
    assert command("align", frames, *MOTION, *options)[0] == 0
    stack, truth = read_image(path), look(scene, torch.eye(3))
    assert stack.shape == (3, *SIZE)
    inner = (slice(None), slice(12, -12), slice(12, -12))

    def noise(picture):
        return float((picture - truth)[inner].square().mean().sqrt())

    assert noise(stack) < part * noise(read_image(frames / NAMES[0]))
    assert (stack.amax(0) > 0).all()  # pixels that only the reference shows, too
    assert len(list(frames.iterdir())) == COUNT


def test_a_median_leaves_out_what_passes_by(command, frames, scene, tmp_path):
    for k, name in enumerate(NAMES[1:]):
        picture = read_image(frames / name)
        picture[:, 20:44, 16 * k + 8 : 16 * k + 24] = 1
        write_image(frames / name, picture)
    errors = {}
    for mode in ("mean", "median"):
        path = tmp_path / f"{mode}.png"
        options = ("--stack", path, "--stack-mode", mode, "--robust", "tukey")
        assert command("align", frames, *MOTION, *options)[0] == 0
        difference = read_image(path) - look(scene, torch.eye(3))
        errors[mode] = float(difference[:, 12:-12, 12:-12].square().mean().sqrt())
    assert errors["median"] < 0.5 * errors["mean"]


def test_the_table_holds_every_matrix(command, frames, tmp_path):
    path = tmp_path / "table.csv"
    out = command("align", frames, *MOTION, "--json", "--csv", path)[1]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, frame in zip(rows, json.loads(out)["frames"], strict=True):
        assert (row["name"], row["status"]) == (frame["name"], frame["status"])
        assert int(row["iterations"]) == frame["iterations"]
        entries = [float(row[f"w{i}{j}"]) for i in (1, 2, 3) for j in (1, 2, 3)]
        assert entries == [number for line in frame["matrix"] for number in line]


def test_a_template_of_its_own(command, frames, scene, tmp_path):
    """The frames as a template sees them that is none of them and is smaller."""
    inside = torch.tensor([[1.0, 0.0, 30.0], [0.0, 1.0, 20.0], [0.0, 0.0, 1.0]])
    template = torchops.warp_image(look(scene, torch.eye(3)), inside, (50, 60))
    write_image(tmp_path / "template.png", template)
    start = (1, 0, 28, 0, 1, 21, 0, 0, 1)
    options = (*MOTION, "--json", "-o", tmp_path / "out", "--initial", *start)
    status, out, _ = command("align", tmp_path / "template.png", frames, *options)
    assert status == 0
    result = json.loads(out)
    assert result["reference"] == str(tmp_path / "template.png")
    for number, frame in enumerate(result["frames"]):
        assert corner_error(frame["matrix"], shake(number).inverse() @ inside) < 0.4
    for name in NAMES:
        assert (read_image(tmp_path / "out" / name) - template).abs().mean() < 2 * NOISE


def test_each_frame_starts_from_the_one_before(command, frames, tmp_path, monkeypatch):
    starts = []

    class Aligner(torchops.LucasKanadeAligner):
        def forward(self, image, initial=None, image_mask=None):
            result = super().forward(image, initial, image_mask)
            starts.append((initial, result.matrix))
            return result

    monkeypatch.setattr(folder_module, "LucasKanadeAligner", Aligner)
    assert command("align", frames, *MOTION, "--reference", 3)[0] == 0
    forward, backward = starts[:3], starts[3:]  # 4, 5, 6 and 2, 1
    for way in (forward, backward):
        assert torch.equal(way[0][0], torch.eye(3))
        for before, after in itertools.pairwise(way):
            assert torch.equal(after[0], before[1])
    assert len(backward) == 2


def test_frames_that_do_not_converge_are_named_and_left_out_of_the_stack(command, frames, tmp_path):
    write_image(frames / "f9.png", torch.full((3, *SIZE), 0.5))
    out, stack = tmp_path / "out", tmp_path / "stack.png"
    status, text, err = command(
        "align", frames, *MOTION, "-o", out, "--stack", stack, "--crop", "--json"
    )
    assert status == 1
    assert err.count("\n") == 1
    assert err.startswith("torchops align: 1 of 6 frames did not converge (written with the best")
    frame = json.loads(text, parse_constant=pytest.fail)["frames"][2]
    assert err.endswith(f": f9.png {frame['status']}\n")
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    good = [read_image(out / name) for name in NAMES if name != "f9.png"]
    assert (read_image(stack) - torch.stack(good).mean(0)).abs().max() < 0.51 / 255 * 2


def test_no_stack_is_written_if_nothing_converged(command, frames, tmp_path):
    write_image(tmp_path / "flat.png", torch.full((1, 60, 80), 0.5))
    options = ("--stack", tmp_path / "stack.png")
    status, _, err = command("align", tmp_path / "flat.png", frames, *options)
    assert status == 1
    assert "6 of 6 frames did not converge" in err
    assert err.count("SINGULAR") == 6
    assert not (tmp_path / "stack.png").exists()


def test_masked_pixels_do_not_reach_the_stack(command, frames, tmp_path):
    """A date in the corner of every frame, and of the reference."""
    mask = torch.ones(1, *SIZE)
    mask[:, :14, :40] = 0
    write_image(tmp_path / "mask.png", mask)
    for name in NAMES:
        picture = read_image(frames / name)
        picture[:, :14, :40] = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
        write_image(frames / name, picture)
    masks = ("--template-mask", tmp_path / "mask.png", "--image-mask", tmp_path / "mask.png")
    stack = tmp_path / "stack.png"
    assert command("align", frames, *MOTION, *masks, "--stack", stack)[0] == 0
    red, green, blue = read_image(stack)
    assert not ((red > 0.9) & (green < 0.1) & (blue > 0.9)).any()


def test_depth(command, frames, tmp_path):
    for name in NAMES:
        write_image(frames / name, read_image(frames / name).mean(0, keepdim=True), depth=16)
    stack = tmp_path / "stack.tif"
    assert command("align", frames, *MOTION, "-o", tmp_path / "out", "--stack", stack)[0] == 0
    for path in (tmp_path / "out" / NAMES[0], stack):
        with Image.open(path) as picture:
            assert picture.mode.startswith("I")


def test_a_stack_may_be_deeper_than_its_frames(command, frames, tmp_path):
    stack = tmp_path / "stack.png"
    assert command("align", frames, *MOTION, "--stack", stack, "--depth", 16)[0] == 0
    levels = read_image(stack) * 255
    assert ((levels - levels.round()).abs() > 0.1).float().mean() > 0.5


def test_gray_and_coloured_frames_go_together(command, frames, tmp_path):
    write_image(frames / "f9.png", read_image(frames / "f9.png", gray=True))
    for mode in ("mean", "median"):
        stack = tmp_path / f"{mode}.png"
        options = ("--stack", stack, "--stack-mode", mode, "-o", tmp_path / "out")
        assert command("align", frames, *MOTION, *options)[0] == 0
        assert read_image(stack).shape == (3, *SIZE)
    assert len(read_image(tmp_path / "out" / "f9.png")) == 1
    assert len(read_image(tmp_path / "out" / "f10.png")) == 3


def test_a_progress_bar_shows_on_a_terminal_only(command, frames, monkeypatch, capsys):
    assert command("align", frames, *MOTION)[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    err = command("align", frames, *MOTION)[2]
    assert "aligning: 100%" in err
    assert "6/6" in err


def test_bad_input(fails, frames, crop, tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no picture")
    picture = frames / NAMES[0]
    assert "empty holds no pictures (.png" in fails("align", empty, "-o", out)
    assert "nowhere: No such file" in fails("align", tmp_path / "nowhere", "-o", out)
    assert "nowhere: No such file" in fails("align", picture, tmp_path / "nowhere")
    assert "TEMPLATE must be a picture" in fails("align", frames, frames, "-o", out)
    assert "the folder comes last" in fails("align", frames, picture, "-o", out)
    assert f"must be a folder, but {picture} is a file" in fails("align", frames, "-o", picture)
    assert "must be another folder" in fails("align", frames, "-o", frames / ".." / "frames")
    assert "--stack must not be one of the frames" in fails("align", frames, "--stack", picture)
    assert "must end in .png" in fails("align", frames, "-o", out, "--stack", tmp_path / "s.exr")
    assert "s.jpg cannot hold 16 bits" in fails(
        "align", frames, "--stack", tmp_path / "s.jpg", "--depth", 16
    )
    assert "must end in .csv" in fails("align", frames, "-o", out, "--csv", tmp_path / "s.txt")
    assert "--stack-mode needs --stack" in fails("align", frames, "--stack-mode", "median")
    assert "--reference must be from 1 to 6, got 7" in fails("align", frames, "--reference", 7)
    assert "--reference must be from 1 to 6, got 0" in fails("align", frames, "--reference", 0)
    assert "TEMPLATE is given" in fails("align", picture, frames, "--reference", 2)
    assert "--initial needs a TEMPLATE" in fails("align", frames, "--initial", "w.txt")
    for option in ("--matrix w.txt", "--overlay o.png", "--convergence c.png"):
        assert "not for a FOLDER" in fails("align", frames, *option.split())
    small = crop("camera.png", "small.png", (0, 30), (0, 20))
    assert f"as large as {picture}, 128 x 96" in fails("align", frames, "--image-mask", small)
    assert f"as large as {picture}, 128 x 96" in fails("align", frames, "--template-mask", small)
    assert "iterations must be" in fails("align", frames, "-o", out, "--iterations", 0)
    small.rename(frames / "f8.png")
    assert "f8.png must be as large as f7.png, 128 x 96, got 20 x 30" in fails(
        "align", frames, "-o", out
    )
    (frames / "f12.png").write_bytes((frames / "f12.png").read_bytes()[:500])
    (frames / "f8.png").unlink()
    assert "f12.png is truncated or damaged" in fails("align", frames, "-o", out)
    for name in NAMES[2:]:
        (frames / name).unlink()
    assert "f7.png is the only picture" in fails("align", frames, "-o", out)
    assert not out.exists()


def test_a_crop_of_nothing_is_bad_input(fails, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(
        folder_module, "_seen_by_all", lambda *_: torch.zeros(SIZE, dtype=torch.bool)
    )
    out = tmp_path / "out"
    assert "no region that all frames show" in fails("align", frames, "-o", out, "--crop")
    assert not out.exists()


def test_the_common_rectangle_of_shifted_views_is_their_intersection():
    seen = torch.ones(20, 30, dtype=torch.bool)
    seen[:3] = False
    seen[:, 25:] = False
    assert common_rectangle(seen) == (0, 3, 25, 20)
    assert common_rectangle(torch.ones(4, 5, dtype=torch.bool)) == (0, 0, 5, 4)
    with pytest.raises(ValueError, match="no region"):
        common_rectangle(torch.zeros(4, 5, dtype=torch.bool))


def test_the_common_rectangle_of_turned_views_loses_little():
    ones = torch.ones(1, 100, 140)
    seen = torchops.warp_image(ones, shake(2), (100, 140))[0] > 0.999
    x0, y0, x1, y1 = common_rectangle(seen)
    assert seen[y0:y1, x0:x1].all()
    assert (x1 - x0) * (y1 - y0) > 0.85 * int(seen.sum())


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_stacks_against_loops_over_pixels(count):
    generator = torch.Generator().manual_seed(count)
    values = torch.rand(count, 3, 70, 4, generator=generator)
    seen = torch.rand(count, 1, 70, 4, generator=generator) > 0.4
    stacks = {mode: Stack(mode) for mode in ("mean", "median")}
    for stack in stacks.values():
        for frame, part in zip(values, seen, strict=True):
            stack.add(frame, part)
    for c, y, x in [(0, 0, 0), (1, 65, 2), (2, 69, 3), (0, 33, 1), (1, 64, 0), (2, 63, 3)]:
        chosen = sorted(values[seen[:, 0, y, x], c, y, x].tolist())
        n = len(chosen)
        mean = sum(chosen) / n if n else 0
        median = (chosen[(n - 1) // 2] + chosen[n // 2]) / 2 if n else 0
        assert_close(stacks["mean"].picture()[c, y, x], torch.tensor(mean).double(), 1e-6)
        assert_close(stacks["median"].picture()[c, y, x], torch.tensor(median), 1e-6)
