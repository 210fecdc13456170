"""What the tests of the commands share: a way to call one, and small real pictures."""

import pytest

from torchops.cli.app import main
from torchops.cli.io import read_image, sample_path, write_image


@pytest.fixture
def command(capsys):
    """Run one command in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def fails(command):
    """Run a command that must end with status 2, one line on stderr and nothing on stdout."""

    def run(*arguments):
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith(f"torchops {arguments[0]}: error: ")
        return err.partition("error: ")[2].rstrip("\n")

    return run


@pytest.fixture
def crop(tmp_path):
    """Write a part of a bundled photograph as PNG and return its path."""

    def write(sample, name, rows, columns):
        image = read_image(sample_path(sample))[:, slice(*rows), slice(*columns)]
        write_image(tmp_path / name, image)
        return tmp_path / name

    return write
