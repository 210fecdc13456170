"""Curves, drawn by matplotlib when it is installed and printed as a table when it is not."""

import importlib.util
import io
from collections.abc import Mapping, Sequence

from torchops.cli.demo.blocks import Block, Gallery, Note, Table
from torchops.cli.demo.sheet import Sheet

_COLOURS = ["#3b82f6", "#ef4444", "#10b981", "#f59e0b", "#8b5cf6"]
_NEUTRAL = "#828a94"  # readable on a light and on a dark page
_ROWS = 9  # of a table that stands for a curve
_WIDTH = 420  # CSS pixels of a plot at least

Curve = tuple[Sequence[float], Sequence[float]]


def have_matplotlib() -> bool:
    """Say whether curves can be drawn."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except ValueError:  # what find_spec raises for a module that a test has blocked
        return False


def curves(
    sheet: Sheet,
    name: str,
    series: Mapping[str, Curve],
    *,
    x: str,
    y: str,
    caption: str,
    alt: str,
    log: bool = False,
    colours: Sequence[str] = _COLOURS,
) -> list[Block]:
    """Plot each of ``series``, label: (x values, y values), or tabulate some of its points."""
    if not have_matplotlib():
        note = "Curves need matplotlib: `pip install torchops[demo]`. Here are their numbers."
        return [Note(note), *_tables(series, x=x, y=y, caption=caption)]
    png = _draw(series, x=x, y=y, log=log, colours=colours)
    return [Gallery([sheet.keep(png, name, caption, alt=alt)], width=_WIDTH)]


def beside(*drawn: Sequence[Block]) -> list[Block]:
    """Put several plots into one row; tables stay below each other."""
    blocks = [block for blocks in drawn for block in blocks]
    galleries = [block for block in blocks if isinstance(block, Gallery)]
    pictures = [picture for gallery in galleries for picture in gallery.pictures]
    others = [block for block in blocks if not isinstance(block, Gallery)]
    return [*([Gallery(pictures, width=_WIDTH)] if pictures else []), *others]


def _draw(
    series: Mapping[str, Curve], *, x: str, y: str, log: bool, colours: Sequence[str]
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # never a window, whatever backend the user has configured
    axes = figure.add_subplot()
    for (label, (xs, ys)), colour in zip(series.items(), colours, strict=False):
        axes.plot(xs, ys, label=label, color=colour, linewidth=1.8)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(x, color=_NEUTRAL)
    axes.set_ylabel(y, color=_NEUTRAL)
    axes.tick_params(which="both", colors=_NEUTRAL)
    axes.grid(color=_NEUTRAL, alpha=0.25, linewidth=0.6)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_NEUTRAL)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_NEUTRAL)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def _tables(series: Mapping[str, Curve], *, x: str, y: str, caption: str) -> list[Block]:
    """Tabulate up to nine evenly spaced points; curves over the same x share a table."""
    groups: dict[tuple[float, ...], dict[str, Sequence[float]]] = {}
    for label, (xs, ys) in series.items():
        groups.setdefault(tuple(xs), {})[label] = ys
    tables: list[Block] = []
    for xs, columns in groups.items():
        last = len(xs) - 1
        rows = min(_ROWS, len(xs))
        picked = sorted({round(k * last / max(rows - 1, 1)) for k in range(rows)})
        cells = [[f"{xs[i]:.4g}", *(f"{ys[i]:.4g}" for ys in columns.values())] for i in picked]
        tables.append(Table(f"{caption} ({y})", [x, *columns], cells))
    return tables
