"""The page: runs the sections, fills the template, and moves everything into place at the end."""

import os
import platform
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import torch
from tqdm import tqdm

import torchops
from torchops.cli.demo.alignment import section as alignment
from torchops.cli.demo.bilateral import section as bilateral
from torchops.cli.demo.blocks import Section
from torchops.cli.demo.colorization import section as colorization
from torchops.cli.demo.erasing import section as erasing
from torchops.cli.demo.flow import section as flow
from torchops.cli.demo.learning import section as learning
from torchops.cli.demo.sheet import Sheet
from torchops.cli.demo.statistics import section as statistics
from torchops.cli.demo.tonemapping import section as tonemapping

_SECTIONS = {
    "statistics": statistics,
    "erasing": erasing,
    "colorization": colorization,
    "learning": learning,
    "bilateral": bilateral,
    "tonemapping": tonemapping,
    "flow": flow,
    "alignment": alignment,
}


def run(out: Path, device: str | torch.device | None = None, *, quick: bool = False) -> Path:
    """Run every op on the bundled photographs and write a page that shows the results.

    Args:
        out: Folder for ``index.html`` and its pictures; made if it does not exist. Files of an
            earlier run are replaced, other files are left alone. A run that fails changes nothing.
        device: Where to compute; the default is the GPU if there is one.
        quick: Small images and few steps, for tests.

    Returns:
        The path of ``index.html``.
    """
    # The pictures are made on the file system they will live on, so that the move is a rename.
    nearby = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
    if not nearby.is_dir():
        raise NotADirectoryError(f"out must be a folder, got {out}, but {nearby} is a file")
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=".torchops-demo-", dir=nearby) as unfinished:
        folder = Path(unfinished)
        sections = []
        seconds = {}
        with tqdm(_SECTIONS.items(), unit="section") as bar:
            for key, make in bar:
                bar.set_description(f"{key:12}")
                began = time.perf_counter()
                sections.append(make(Sheet(key, folder, chosen, quick=quick)))
                seconds[key] = time.perf_counter() - began
        page = _render(sections, seconds, _facts(chosen, time.perf_counter() - start))
        pictures = sorted(folder.iterdir())
        (folder / "index.html").write_text(page, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for path in [*pictures, folder / "index.html"]:  # the page last, when all is there
            path.replace(out / path.name)
    return out / "index.html"


def _render(sections: list[Section], seconds: dict[str, float], facts: list[str]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    source = files("torchops.cli.demo").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(sections=sections, seconds=seconds, facts=facts)


def _facts(device: torch.device, seconds: float) -> list[str]:
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    else:
        place = f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return [
        f"torchops {torchops.__version__}",
        f"PyTorch {torch.__version__}",
        place,
        f"{seconds:.1f} s in all",
        time.strftime("%Y-%m-%d %H:%M"),
    ]
