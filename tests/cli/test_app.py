"""The program as a whole: help, exit status, one line for whatever is wrong, real processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchops
from torchops.cli.app import _parser, main
from torchops.cli.io import read_image, sample_path, write_image

COMMANDS = ("demo", "stats", "erase", "bilateral", "tonemap", "colorize", "flow", "align")


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "torchops", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_a_device(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: torchops {command}")
    assert "--device {auto,cpu,cuda}" in text


def test_help_names_every_command_and_the_exit_statuses(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command}" in text for command in COMMANDS)
    assert "0 done, 1 ran but did not converge, 2 bad input" in text


def test_the_commands_files_import_nothing_heavy():
    # `import torchops` brings torch; beyond that, --help must cost nothing.
    code = (
        "import sys, types, pathlib\n"
        "package = types.ModuleType('torchops')\n"
        f"package.__path__ = [{str(sample_path('coffee.png').parents[1])!r}]\n"
        "package.__version__ = '0'\n"
        "sys.modules['torchops'] = package\n"
        "from torchops.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'tqdm', 'matplotlib', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("usage: torchops")
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "torchops: error: the following arguments are required: COMMAND"),
        (["sharpen"], "torchops: error: argument COMMAND: invalid choice: 'sharpen'"),
        (["flow", "a.png"], "torchops flow: error: the following arguments are required: SECOND"),
        (
            ["bilateral", "a.png", "--out", "b.png", "--sigma-space", "wide"],
            "torchops bilateral: error: argument --sigma-space: invalid float value: 'wide'",
        ),
        (
            ["align", "a.png", "b.png", "--motion", "spiral"],
            "torchops align: error: argument --motion: invalid choice: 'spiral'",
        ),
    ],
)
def test_arguments_that_cannot_be_parsed_give_one_line_and_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_bad_input(tmp_path, capsys):
    image = str(sample_path("camera.png"))
    assert main(["flow", image, image, "--out", str(tmp_path / "f.flo"), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == (
        "torchops flow: error: --device cuda needs a CUDA device, and this machine has none\n"
    )


def test_the_demo_command_prints_the_path_of_the_page(tmp_path, capsys, monkeypatch):
    from torchops.cli import demo

    monkeypatch.setattr(demo, "run", lambda out, device: out / f"{device}.html")
    assert main(["demo", "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cpu.html'}\n"


def test_as_a_process_the_command_line_works_from_end_to_end(tmp_path):
    for name, columns in (("first", slice(2, 66)), ("second", slice(0, 64))):
        write_image(
            tmp_path / f"{name}.png", read_image(sample_path("camera.png"))[:, :64, columns]
        )
    result = process(
        "flow", tmp_path / "first.png", tmp_path / "second.png", "--out", tmp_path / "f.png"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith("displacement: mean ")
    assert sorted(os.listdir(tmp_path)) == ["f.png", "first.png", "second.png"]


def test_as_a_process_bad_input_is_one_line_on_stderr_and_status_2(tmp_path):
    image = sample_path("camera.png")
    result = process("flow", image, tmp_path / "nothing.png", "--out", tmp_path / "f.flo")
    assert result.returncode == 2
    assert result.stdout == ""
    line = f"torchops flow: error: {tmp_path / 'nothing.png'}: No such file or directory\n"
    assert result.stderr == line
    assert os.listdir(tmp_path) == []


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"torchops {torchops.__version__}\n"


def test_the_readmes_command_lines_are_understood():
    readme = Path(__file__).resolve().parents[2] / "README.md"
    section = readme.read_text().partition("## Command line")[2].partition("\n## ")[0]
    lines = re.findall(r"^torchops ([^#\n]*)", section, re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        assert _parser().parse_args(line.split()).command in COMMANDS
