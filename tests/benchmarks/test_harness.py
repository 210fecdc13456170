"""The harness itself: what it stores can be trusted and read back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness, report

ROOT = Path(__file__).resolve().parents[2]


def cases(device):
    data = torch.zeros(1 << 20, device=device)
    yield harness.Case(
        name="add one",
        candidates={"torchops": lambda: data + 1, "copies": lambda: [data + 1 for _ in range(8)]},
        baseline="torchops",
        metrics={"calls": lambda output: 8.0 if isinstance(output, list) else 1.0},
        image_bytes=4 << 20,
        target="<= 1",
    )


def test_a_run_is_stored_with_its_circumstances_and_read_back(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "resident_peaks", lambda cases: {"add one/copies": 32 << 20})
    harness.main("stats", cases, ["--device", "cpu", "--seconds", "0.01", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*/stats.json")
    record = json.loads(path.read_text())
    assert record["versions"]["torch"] == torch.__version__
    rows = {row["label"]: row for row in record["results"][0]["rows"]}
    assert rows["torchops"]["ratio"] == 1
    assert rows["torchops"]["milliseconds"]["repeats"] >= 3
    assert rows["copies"]["metrics"] == {"calls": 8.0}
    assert rows["copies"]["peak_images"] == 8
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["report.py", "stats"])
    report.main()
    printed = capsys.readouterr().out
    assert "**add one**" in printed
    assert "Target: <= 1." in printed


MEMORY = """
import json, torch
from benchmarks import harness
def cases():
    hold = {"one": lambda: torch.ones(1 << 24), "three": lambda: [torch.ones(1 << 24)] * 1
            + [torch.ones(1 << 24), torch.ones(1 << 24)]}
    yield harness.Case(name="hold", candidates=hold, baseline="one")
print(json.dumps(harness.resident_peaks(cases)))
"""


def test_peak_memory_counts_what_one_call_holds():
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not let a process reset its peak memory")
    # A fresh process, because threads do not survive the fork.
    command = [sys.executable, "-c", MEMORY]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    peaks = json.loads(result.stdout)
    assert peaks["hold/one"] == pytest.approx(64 << 20, rel=0.05)
    assert peaks["hold/three"] == pytest.approx(192 << 20, rel=0.05)


def test_a_quick_or_filtered_run_stores_nothing(tmp_path):
    harness.main("stats", cases, ["--device", "cpu", "--quick", "--out", str(tmp_path)])
    harness.main("stats", cases, ["--device", "cpu", "--filter", "no such", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_an_experiment_runs_once_and_its_metrics_see_all_candidates(tmp_path, capsys, monkeypatch):
    calls = ["what was there"]

    def experiment(device):
        candidates = {
            name: lambda name=name: calls.append(name) or len(name) for name in ("a", "bc")
        }
        metrics = {"share": lambda output: output / sum(map(len, calls))}
        setup = calls.clear  # before the candidates
        yield harness.Case("lengths", candidates, "a", metrics, once=True, setup=setup)
        yield harness.Case("far away", {}, "", skipped="no road leads there")

    harness.main("stats", experiment, ["--device", "cpu", "--out", str(tmp_path)])
    assert calls == ["a", "bc"]
    (path,) = tmp_path.glob("*/stats.json")
    first, second = json.loads(path.read_text())["results"]
    assert [row["metrics"]["share"] for row in first["rows"]] == pytest.approx([1 / 3, 2 / 3])
    assert [row["milliseconds"]["repeats"] for row in first["rows"]] == [1, 1]
    assert second == {"case": "far away", "skipped": "no road leads there"}
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["report.py", "stats"])
    report.main()
    printed = capsys.readouterr().out
    assert "Skipped: no road leads there." in printed
    assert "| bc |" in printed


def test_a_case_without_its_baseline_is_refused():
    case = harness.Case(name="x", candidates={"a": lambda: None}, baseline="b")
    with pytest.raises(ValueError, match="baseline 'b' is not a candidate of 'x'"):
        harness.measure_case(case, torch.device("cpu"), 0.0, {})
