"""Measure torchops beside its peers, in one process and one run.

A benchmark file declares cases and calls ``main``; everything else is here: warm-up, interleaved
repeats (so that a machine that slows down slows everybody), median and quartiles, peak memory,
the versions and the commit, a table on screen and one JSON file per run.

    python benchmarks/bench_stats.py            # one room
    python benchmarks/harness.py                # all rooms, what `make bench` runs
    python benchmarks/harness.py --quick        # a smoke test: small budget, nothing stored

Read ratios, not milliseconds: the ratio column divides each row by the case's baseline, measured
in the same run.
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
M_MMAP_THRESHOLD = -3  # of the C library's mallopt
PEERS = (
    "torchvision",
    "numpy",
    "pillow",
    "scipy",
    "kornia",
    "opencv-python-headless",
    "scikit-image",
    "timm",
    "albumentations",
    "triton",
)


@dataclass(frozen=True)
class Case:
    """One comparison: the same work done by several candidates.

    Attributes:
        name: What is measured, with its sizes: "1024x1024 gray, 9x9, forward".
        candidates: Label -> function without arguments. Set-up (inputs, modules) belongs outside.
        baseline: Label of the candidate that ratios are taken against.
        metrics: Name -> function of a candidate's output, e.g. the error to a reference.
        items: How many items one call handles; times are reported per call and per item.
        image_bytes: Size of one image in bytes; peak memory is then also reported in images.
        target: What the project wants to reach here, in words, printed below the table.
        once: An experiment, whose result is its metrics: every candidate runs once, its time is
            that of this one call and its memory is not measured. The metrics are taken when all
            candidates have run, so that one may depend on what another found.
        setup: What an experiment needs before its candidates run; not timed.
        skipped: Why this case cannot run here; it then needs no candidates.
    """

    name: str
    candidates: Mapping[str, Callable[[], Any]]
    baseline: str
    metrics: Mapping[str, Callable[[Any], float]] = field(default_factory=dict)
    items: int = 1
    image_bytes: int | None = None
    target: str | None = None
    once: bool = False
    setup: Callable[[], Any] | None = None
    skipped: str | None = None


def main(
    room: str, cases: Callable[[torch.device], Iterable[Case]], argv: list[str] | None = None
) -> None:
    """Run the cases of one room: parse the options, measure, print, store."""
    parser = argparse.ArgumentParser(description=f"benchmark of torchops.{room} and its peers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--filter", default="", help="only cases whose name contains this text")
    parser.add_argument("--seconds", type=float, default=2.0, help="time budget of a candidate")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quick", action="store_true", help="one repeat each, nothing stored")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"torchops.{room} on {device_name(device)}", flush=True)

    def chosen() -> Iterable[Case]:
        return (case for case in cases(device) if options.filter in case.name)

    peaks = resident_peaks(chosen) if device.type == "cpu" and not options.quick else {}
    keep = not options.quick and not options.filter
    folder = options.out / device_name(device).replace(" ", "_").replace("/", "-")
    path = folder / f"{room}.json"
    results: list[dict[str, Any]] = []

    def store() -> None:  # after every case: what was measured survives an interruption
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
            record = {"room": room, **metadata(device), "results": results}
            path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")

    for case in chosen():
        if case.skipped:
            print(f"\n{case.name}\n  skipped: {case.skipped}", flush=True)
            results.append({"case": case.name, "skipped": case.skipped})
            store()
            continue
        rows = measure_case(case, device, 0.0 if options.quick else options.seconds, peaks)
        print(table(case, rows), flush=True)
        results.append({"case": case.name, "baseline": case.baseline, "rows": rows})
        if case.target:
            results[-1]["target"] = case.target
        store()
    if results and keep:
        print(
            f"stored in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
        )


def measure_case(
    case: Case, device: torch.device, seconds: float, peaks: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Time every candidate of a case, taking turns, and read its peak memory and its metrics.

    ``peaks`` holds the memory where `resident_peaks` has measured it.
    """
    if case.baseline not in case.candidates:
        raise ValueError(f"baseline {case.baseline!r} is not a candidate of {case.name!r}")
    if case.once:
        return run_once(case, device)
    rows: dict[str, dict[str, Any]] = {}
    estimates: dict[str, float] = {}
    for label, candidate in case.candidates.items():
        candidate()  # first call: compilation, caches, lazy imports
        output, peak = allocator_peak(candidate, device)
        rows[label] = {"label": label, "peak_bytes": peaks.get(f"{case.name}/{label}", peak)}
        rows[label]["metrics"] = {name: float(f(output)) for name, f in case.metrics.items()}
        del output
        estimates[label] = once(candidate, device)
    samples: dict[str, list[float]] = {label: [] for label in case.candidates}
    repeats = {
        label: int(min(max(seconds / max(estimate, 1e-9), 3 if seconds else 1), 200))
        for label, estimate in estimates.items()
    }
    for turn in range(max(repeats.values())):
        for label, candidate in case.candidates.items():
            if turn < repeats[label]:
                samples[label].append(once(candidate, device))
    for label, times in samples.items():
        rows[label]["milliseconds"] = spread(times)
    return relative(case, rows)


def run_once(case: Case, device: torch.device) -> list[dict[str, Any]]:
    """Run every candidate of an experiment once, then take the metrics."""
    if case.setup:
        case.setup()
    outputs: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = {}
    for label, candidate in case.candidates.items():

        def keep(label: str = label, candidate: Callable[[], Any] = candidate) -> None:
            outputs[label] = candidate()

        rows[label] = {"label": label, "peak_bytes": None}
        rows[label]["milliseconds"] = spread([once(keep, device)])
    for label, row in rows.items():
        row["metrics"] = {name: float(f(outputs[label])) for name, f in case.metrics.items()}
    return relative(case, rows)


def spread(times: list[float]) -> dict[str, float]:
    """Sum up the seconds of some calls, in milliseconds."""
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {
        "median": 1e3 * statistics.median(times),
        "lower_quartile": 1e3 * quartiles[0],
        "upper_quartile": 1e3 * quartiles[2],
        "repeats": len(times),
    }


def relative(case: Case, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what the rows are in terms of the baseline, the items and the images."""
    reference = rows[case.baseline]["milliseconds"]["median"]
    for row in rows.values():
        row["ratio"] = row["milliseconds"]["median"] / reference
        row["milliseconds_per_item"] = row["milliseconds"]["median"] / case.items
        if case.image_bytes and row["peak_bytes"] is not None:
            row["peak_images"] = row["peak_bytes"] / case.image_bytes
    return list(rows.values())


def once(candidate: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    candidate()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def allocator_peak(candidate: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    """Return the output of one call and the most bytes it held beyond what was there before.

    On a GPU, by the allocator's count; elsewhere 0: see `resident_peaks`.
    """
    gc.collect()
    if device.type != "cuda":
        return candidate(), 0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    output = candidate()
    torch.cuda.synchronize(device)
    return output, torch.cuda.max_memory_allocated(device) - before


def resident_peaks(cases: Callable[[], Iterable[Case]]) -> dict[str, int]:
    """Return how far each candidate raises the resident memory of a process, in bytes.

    Measured in a child process whose C library takes every block of 1.5 MiB or more from the system
    and gives it back as soon as it is freed. In an ordinary process the library keeps freed blocks
    by rules of its own: what is measured then depends on what ran before. Timing is done elsewhere
    because these exchanges with the system cost time. Empty where the system is not Linux.
    """
    if sys.platform != "linux":
        return {}
    reading, writing = os.pipe()
    if child := os.fork():  # torch has started no threads yet
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the process that measures memory failed")
        return json.loads(text)
    status = 1
    try:
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 3 << 19)
        peaks = {}
        for case in cases():
            for label, candidate in case.candidates.items():
                if case.once:
                    continue
                candidate()  # compilation, caches, lazy imports
                candidate()  # small blocks find their place in the heap
                gc.collect()
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
                before = resident("VmRSS")
                candidate()
                peaks[f"{case.name}/{label}"] = max(resident("VmHWM") - before, 0)
        with os.fdopen(writing, "w") as pipe:
            json.dump(peaks, pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # without the parent's exit handlers


def resident(entry: str) -> int:
    """Return a memory figure of this process in bytes, as Linux tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {entry} in the process status")


def table(case: Case, rows: list[dict[str, Any]]) -> str:
    """Lay one case out as text."""
    names = list(case.metrics)
    lines = [f"\n{case.name}"]
    head = f"  {'':34}{'median ms':>11}{'quartiles':>20}{'ratio':>8}{'peak MiB':>10}"
    head += f"{'images':>8}" if case.image_bytes else ""
    lines.append(head + "".join(f"{name:>16}" for name in names))
    for row in rows:
        t = row["milliseconds"]
        quartiles = f"{t['lower_quartile']:.4g} - {t['upper_quartile']:.4g}"
        line = f"  {row['label']:34}{t['median']:>11.4g}{quartiles:>20}{row['ratio']:>8.3f}"
        line += f"{'-':>10}" if case.once else f"{row['peak_bytes'] / 2**20:>10.1f}"
        line += f"{row['peak_images']:>8.1f}" if case.image_bytes else ""
        lines.append(line + "".join(f"{row['metrics'][name]:>16.5g}" for name in names))
    if case.target:
        lines.append(f"  target: {case.target}")
    return "\n".join(lines)


def device_name(device: torch.device) -> str:
    """Name the hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return f"CPU {model or platform.machine()} x{os.cpu_count()}"


def metadata(device: torch.device) -> dict[str, Any]:
    """Say where, when and with what a run was made."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PEERS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(
            git("status", "--porcelain", "--", "torchops", "benchmarks/*.py")
        ),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def git(*arguments: str) -> str:
    """Ask git about this checkout; empty outside one."""
    try:
        call = subprocess.run(
            ["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return call.stdout.strip()


def run_all() -> int:
    """Run every benchmark file in its own process, passing the options on."""
    failed = [
        path.name
        for path in sorted(HERE.glob("bench_*.py"))
        if subprocess.run([sys.executable, str(path), *sys.argv[1:]], check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_all())
