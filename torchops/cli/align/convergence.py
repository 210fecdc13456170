"""How an alignment converged, as a picture. The only user of matplotlib outside the demo."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from torchops import align, warp_points
from torchops.cli.io import check_output, whole_file

SUFFIXES = (".png", ".svg", ".pdf")


class Trace(NamedTuple):
    """What one more iteration changed: entry n - 1 is about the n-th."""

    movement: list[float]  # of the template's corner that moves most, in pixels
    error: list[float]  # root mean square residual


def check(path: Path) -> None:
    """Raise if `draw` could not write ``path``.

    Raises:
        OSError, ValueError: see `check_output`.
        ModuleNotFoundError: without matplotlib.
    """
    check_output(path, SUFFIXES)
    try:
        found = importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # what find_spec raises for a module that a test has blocked
        found = False
    if not found:
        raise ModuleNotFoundError("--convergence needs matplotlib: pip install 'torchops[demo]'")


def trace(template: Tensor, image: Tensor, options: dict[str, Any]) -> Trace:
    """Align with at most 1, 2, 3, ... iterations a level, until that converges."""
    height, width = template.shape[-2:]
    x, y = width - 1, height - 1
    corners = torch.tensor([[0, 0], [x, 0], [x, y], [0, y]]).to(template)
    initial = options["initial"]
    last = corners if initial is None else warp_points(corners, initial)
    trace = Trace([], [])
    # None: no bar where standard error is no terminal.
    for iterations in tqdm(range(1, options["iterations"] + 1), desc="convergence", disable=None):
        result = align(template, image, **{**options, "iterations": iterations})
        moved = warp_points(corners, result.matrix)
        trace.movement.append(float((moved - last).norm(dim=-1).max()))
        trace.error.append(float(result.error))
        last = moved
        if result.converged:
            break
    return trace


def draw(path: Path, trace: Trace, tol: float) -> None:
    """Draw both curves over the iterations, on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # never a window, whatever backend the user has configured
    movement, error = figure.subplots(1, 2)
    steps = range(1, len(trace.error) + 1)
    movement.plot(steps, _positive(trace.movement), "o-", color="#3b82f6", markersize=4)
    movement.set_title("largest movement of a corner of TEMPLATE (px)")
    if tol > 0:
        movement.axhline(tol, color="#828a94", linestyle="--", label=f"tol {tol:g}")
        movement.legend(frameon=False)
    error.plot(steps, _positive(trace.error), "o-", color="#ef4444", markersize=4)
    error.set_title("RMS error (of [0, 1])")
    for axes in (movement, error):
        axes.set_yscale("log")
        axes.set_xlabel("iterations (at most, at each level)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="both", alpha=0.25, linewidth=0.6)
    with whole_file(path) as partial:
        figure.savefig(partial)


def _positive(values: list[float]) -> list[float]:
    """Leave a gap where a logarithmic axis has no place for a value."""
    return [value if 0 < value < float("inf") else float("nan") for value in values]
