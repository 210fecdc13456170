"""The kernels compile for real GPUs, and keep what they work on in registers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]


def check(architecture, which, number):
    script = Path(__file__).with_name("kernel_builds.py")
    result = subprocess.run(
        [sys.executable, str(script), which, str(architecture)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    builds = json.loads(result.stdout.splitlines()[-1])
    assert len(builds) == number
    for build in builds:
        assert 0 < build["registers"] <= build["limit"], build
        # Spilled registers live on the stack; a few bytes of it hold what a call needs.
        assert build["stack"] <= 8, build


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_compiles_without_spilling(architecture):
    check(architecture, "usual", 2)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_every_variant_compiles_without_spilling(architecture):
    check(architecture, "all", 14)
