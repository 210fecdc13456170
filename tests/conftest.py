"""Fixtures of the whole suite, and what must be set before torch or triton is first used."""

import os

import torch

# Without a GPU, Triton kernels run in their interpreter; the switch counts only before the import.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from hypothesis import settings


class _KernelsAsTheyAre:
    """Imports kernel files before the shape-checking hook sees them: Triton reads their source."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.endswith(".kernels") else None


sys.meta_path.insert(0, _KernelsAsTheyAre)

settings.register_profile("torchops", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("torchops")


def pytest_configure(config):
    # Fresh memory is filled with NaN, so that an output element that nobody wrote is seen.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    config.addinivalue_line("filterwarnings", "ignore:.*deterministic implementation.*:UserWarning")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of third-party images and ground truth, which is not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TORCHOPS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no test images at {folder}; set TORCHOPS_TEST_DATA")
    return folder
