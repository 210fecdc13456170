"""`torchops align`: one pair of pictures, or a folder of frames."""

from torchops.cli.align.command import add_command

__all__ = ["add_command"]
