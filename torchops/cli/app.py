"""The program `torchops`: picks the command, and turns what went wrong into one line.

Exit status: 0 done, 1 ran but did not converge, 2 bad input. Importing the files of the
commands is cheap: torch, Pillow and the ops are imported by the command that runs.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torchops import __version__
from torchops.cli import align, bilateral, colorize, erase, flow, stats, tonemap
from torchops.cli.options import Commands, add_device, pick_device


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # argparse before Python 3.14 takes -2e-05 for an option, and matrices are full of those.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        # argparse would print the usage first; one line says what is wrong, --help the rest.
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: The arguments, without the program's name. Default: those of the process.

    Raises:
        SystemExit: for `--help` (0) and arguments that cannot be parsed (2).
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"torchops {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="torchops",
        description="Six classic image algorithms on files. Every command has its own --help.",
        epilog="Exit status: 0 done, 1 ran but did not converge, 2 bad input.",
    )
    parser.add_argument("--version", action="version", version=f"torchops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    for command in (stats, erase, bilateral, tonemap, colorize, flow, align):
        command.add_command(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="run every op on real photographs and write a page about it",
        description="Run every op on the bundled photographs and write DIR/index.html.",
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=Path, required=True, help="made if missing"
    )
    add_device(parser)
    parser.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> int:
    from torchops.cli import demo

    print(demo.run(arguments.out, pick_device(arguments.device)))
    return 0


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
