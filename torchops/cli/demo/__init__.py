"""The demo: every op on real photographs, shown on one self-contained page."""

from torchops.cli.demo.page import run

__all__ = ["run"]
