import contextlib
import inspect
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torchops
from torchops.cli.app import _parser, main
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


def test_skipped_pictures_are_part_of_the_answer(command, folder):
    path, pixels = folder
    (path / "text.png").write_text("no picture")
    status, out, err = command("stats", path, "--on-error", "skip")
    assert (status, err) == (0, "")
    assert "\n1 skipped:\n  " in out
    assert "text.png (" in out
    assert out.splitlines()[-1].startswith("Normalize(mean=[")
    table = json.loads(command("stats", path, "--on-error", "skip", "--json")[1])
    assert (table["images"], table["pixels"]) == (2, len(pixels))
    assert [Path(name.split(" (")[0]).name for name in table["skipped"]] == ["text.png"]


def test_a_finished_checkpoint_answers_without_reading(command, folder, fails):
    path, _ = folder
    file = path / "count.pt"
    first = command("stats", path, "--checkpoint", file, "--json")
    (path / "a.png").write_text("gone")
    assert command("stats", path, "--checkpoint", file, "--json") == first
    assert "checkpoint must belong to the same" in fails(
        "stats", path, "--checkpoint", file, "--limit", 1
    )


@pytest.fixture
def eleven(tmp_path):
    """Eleven small noisy pictures in a folder."""
    path = tmp_path / "pictures"
    path.mkdir()
    generator = np.random.default_rng(0)
    for k in range(11):
        array = generator.integers(0, 20 * (k + 1), (6 + k, 9, 3)).astype(np.uint8)
        Image.fromarray(array).save(path / f"{k:02}.png")
    return path


def as_rank(rank, size, port, folder, arguments):
    """Run the command as torchrun would have it run, without paying for its start."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="test",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with open(folder / f"{rank}.out", "w") as out, contextlib.redirect_stdout(out):
        status = main([str(argument) for argument in ("stats", *arguments)])
    os._exit(status)


def together(size, folder, *arguments):
    """Run the command in several processes: their exit statuses and what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        multiprocessing.get_context("fork").Process(
            target=as_rank, args=(rank, size, port, folder, arguments)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    printed = [(folder / f"{rank}.out").read_text() for rank in range(size)]
    return [process.exitcode for process in processes], printed


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("options", [(), ("--limit", 7, "--workers", 1)])
def test_processes_print_once_the_same_bits_as_one(command, eleven, tmp_path, size, options):
    arguments = (eleven, "--json", *options)
    _, expected, _ = command("stats", *arguments)
    status, printed = together(size, tmp_path, *arguments)
    assert status == [0] * size
    assert printed == [expected] + [""] * (size - 1)


def test_processes_list_what_all_of_them_skipped(command, eleven, tmp_path):
    for name in ("02.png", "05.png", "08.png"):
        (eleven / name).write_text("no picture")
    arguments = (eleven, "--on-error", "skip")
    _, expected, _ = command("stats", *arguments)
    assert together(4, tmp_path, *arguments) == ([0] * 4, [expected, "", "", ""])


def test_a_bad_picture_in_one_process_fails_the_job(eleven, tmp_path, capfd):
    (eleven / "05.png").write_text("no picture")
    status, printed = together(2, tmp_path, eleven)
    assert 0 not in status
    assert status[1] == 2
    assert printed == ["", ""]
    assert "05.png" in capfd.readouterr().err


def process_of_rank(rank, launcher):
    """Find the process that torchrun started for a rank; None if it has not yet."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
    return None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
def test_a_rank_that_dies_fails_torchrun_and_the_work_of_the_others_is_kept(
    command, eleven, tmp_path
):
    _, expected, _ = command("stats", eleven, "--json")
    last = (eleven / "09.png").read_bytes()
    (eleven / "09.png").unlink()
    os.mkfifo(eleven / "09.png")  # whoever opens it waits for ever: the second of two
    file = tmp_path / "count.pt"
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", "--standalone")
    stats = ("torchops", "stats", eleven, "--json", "--checkpoint", file)
    launcher = subprocess.Popen(
        [str(part) for part in (sys.executable, "-m", *torchrun, "-m", *stats)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        saved, victim = Path(f"{file}.0-of-2"), None
        while not (saved.exists() and victim):
            assert launcher.poll() is None
            assert time.monotonic() < end
            victim = process_of_rank(1, launcher.pid)
            time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        out, err = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    assert out == ""
    assert "SIGKILL" in err or "Signal 9" in err
    # The first one had finished: nothing of its share is read again, nothing counted twice.
    (eleven / "09.png").unlink()
    (eleven / "09.png").write_bytes(last)
    for k in range(0, 11, 2):
        (eleven / f"{k:02}.png").write_text("gone")
    status, printed = together(2, tmp_path, eleven, "--json", "--checkpoint", file)
    assert (status, printed) == ([0, 0], [expected, ""])


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
