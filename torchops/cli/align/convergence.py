"""How an alignment converged, as a picture. The only user of matplotlib outside the demo."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from torchops import align, warp_image, warp_points
from torchops.cli.io import check_output, whole_file

SUFFIXES = (".png", ".svg", ".pdf")
_COLOURS = ("#3b82f6", "#ef4444")


class Trace(NamedTuple):
    """What is known after 0, 1, 2, ... iterations: the matrix of least error until then."""

    distance: list[float]  # of the corner that is farthest from the result, in pixels
    error: list[float]  # root mean square residual; at the start NaN where it is not known


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
    places = [corners if initial is None else warp_points(corners, initial)]
    errors = [_start_error(template, image, options)]
    # None: no bar where standard error is no terminal.
    for iterations in tqdm(range(1, options["iterations"] + 1), desc="convergence", disable=None):
        result = align(template, image, **{**options, "iterations": iterations})
        places.append(warp_points(corners, result.matrix))
        errors.append(float(result.error))
        if result.converged:
            break
    return Trace([float((p - places[-1]).norm(dim=-1).max()) for p in places], errors)


def _start_error(template: Tensor, image: Tensor, options: dict[str, Any]) -> float:
    """Return the root mean square residual at the start, NaN for "ecc", which has another one."""
    if options["objective"] != "ssd":
        return float("nan")
    initial = options["initial"]
    matrix = torch.eye(3, device=template.device) if initial is None else initial
    height, width = template.shape[-2:]
    mask = options["image_mask"]
    counts = torch.ones_like(image) if mask is None else mask.to(image)
    seen = warp_image(counts, matrix, (height, width)) > 0.999
    if options["template_mask"] is not None:
        seen = seen & options["template_mask"]
    residual = warp_image(image, matrix, (height, width)) - template
    return float(residual[seen].square().mean().sqrt())


def draw(path: Path, trace: Trace) -> None:
    """Draw both curves over the iterations, on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # never a window, whatever backend the user has configured
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, values, title, colour in (
        (left, trace.distance, "corners of TEMPLATE: largest distance from the result (px)", 0),
        (right, trace.error, "RMS error (of [0, 1])", 1),
    ):
        axes.plot(range(len(values)), _positive(values), "o-", color=_COLOURS[colour], ms=4)
        axes.set_title(title, fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("iterations, at most, at each level")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="both", alpha=0.25, linewidth=0.6)
    with whole_file(path) as partial:
        figure.savefig(partial)


def _positive(values: list[float]) -> list[float]:
    """Leave a gap where a logarithmic axis has no place for a value."""
    return [value if 0 < value < float("inf") else float("nan") for value in values]
