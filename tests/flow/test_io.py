import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from torchops import read_flo, write_flo


def test_round_trip_and_opencv_reads_the_same(tmp_path):
    flow = torch.randn(2, 7, 5)
    path = tmp_path / "motion.flo"
    write_flo(path, flow)
    assert torch.equal(read_flo(path), flow)
    assert torch.equal(read_flo(str(path)), flow)
    theirs = cv2.readOpticalFlow(str(path))
    assert np.array_equal(theirs, flow.permute(1, 2, 0).numpy())


def test_opencv_writes_what_we_read(tmp_path):
    flow = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    path = tmp_path / "motion.flo"
    cv2.writeOpticalFlow(str(path), flow)
    assert np.array_equal(read_flo(path).permute(1, 2, 0).numpy(), flow)


@pytest.mark.parametrize("unknown", [float("nan"), float("inf"), 2e9, -1.0e10])
def test_unknown_pixels_are_nan_in_both_channels(tmp_path, unknown):
    flow = torch.zeros(2, 3, 4)
    flow[1, 2, 1] = unknown
    write_flo(tmp_path / "motion.flo", flow)
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[2, 1] = True
    assert torch.equal(read_flo(tmp_path / "motion.flo").isnan(), expected.expand(2, 3, 4))
    stored = np.fromfile(tmp_path / "motion.flo", np.float32, offset=12)
    assert np.isfinite(stored).all()
    assert (stored > 1e9).sum() == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_layouts_and_graphs_are_stored(tmp_path, dtype):
    flow = torch.randn(5, 4, 2).to(dtype).permute(2, 1, 0).requires_grad_()
    write_flo(tmp_path / "motion.flo", flow)
    assert torch.equal(read_flo(tmp_path / "motion.flo"), flow.detach().float())


HEADER = struct.pack("<fii", 202021.25, 4, 3)
BAD = {
    "empty": (b"", "starts with 'PIEH'"),
    "garbage": (b"not a flow file at all", "starts with 'PIEH'"),
    "header cut": (HEADER[:7], "header of 12 bytes"),
    "pixels cut": (HEADER + b"\0" * 95, "108 bytes long for 4 x 3 pixels, got 107 bytes"),
    "too long": (HEADER + b"\0" * 97, "got 109 bytes"),
    "negative size": (struct.pack("<fii", 202021.25, -4, 3), "got -4 x 3"),
    "no size": (struct.pack("<fii", 202021.25, 4, 0), "got 4 x 0"),
    "absurd size": (struct.pack("<fii", 202021.25, 2**30, 2**30), "in 1..99999"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_named(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "broken.flo"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_flo(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.flo"):
        read_flo(tmp_path / "nothing.flo")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    path = tmp_path / "motion.flo"
    write_flo(path, torch.ones(2, 3, 4))

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:5])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_flo(path, torch.zeros(2, 3, 4))
    assert torch.equal(read_flo(path), torch.ones(2, 3, 4))
    assert os.listdir(tmp_path) == ["motion.flo"]
