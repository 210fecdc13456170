"""What every section works with: sample photographs, a clock, and a place for its pictures."""

import base64
import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from torchops.cli.demo.blocks import Picture
from torchops.cli.io import read_hdr, read_image, sample_path

Result = TypeVar("Result")


class Sheet:
    """The blank sheet of one section: its pictures go to ``folder`` under its ``key``.

    With ``quick`` the sections work on small images for few steps, which the tests use.
    """

    def __init__(self, key: str, folder: Path, device: torch.device, *, quick: bool = False):
        self.key = key
        self.folder = folder
        self.device = device
        self.quick = quick

    def scaled(self, full: int, quick: int) -> int:
        """Choose a size or a number of steps: ``full`` on the page, ``quick`` in the tests."""
        return quick if self.quick else full

    def generator(self, seed: int = 0) -> torch.Generator:
        """Make a generator on the CPU, so that every machine draws the same numbers."""
        return torch.Generator().manual_seed(seed)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Seed torch's global generators, and leave them afterwards as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield

    def photograph(self, name: str, size: tuple[int, int] | None = None) -> Tensor:
        """Read a bundled photograph as (C, H, W) in [0, 1], float32, on the device.

        With ``size`` = (height, width) it is cropped about its centre to that shape and resized.
        """
        image = read_image(sample_path(f"{name}.png")).to(self.device)
        return image if size is None else fit(image, size).clamp(0, 1)

    def environment(self) -> Tensor:
        """Read the bundled scene of high dynamic range: linear radiance (3, H, W), shrunk.

        Averaging removes the dark, oddly coloured lines along bright edges that the resampling of
        the published file has left.
        """
        radiance = read_hdr(sample_path("courtyard.hdr")).to(self.device)
        size = (48, 90) if self.quick else (270, 510)
        return interpolate(radiance[None], size, mode="bilinear", antialias=True)[0]

    def picture(
        self, image: Tensor, name: str, caption: str, *, alt: str, detail: str = ""
    ) -> Picture:
        """Save ``image``, (1 or 3 or 4, H, W) with values in [0, 1] or uint8, as a PNG."""
        pixels = to_bytes(image).cpu().movedim(-3, -1).squeeze(-1).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return self.keep(buffer.getvalue(), name, caption, alt=alt, detail=detail)

    def keep(self, png: bytes, name: str, caption: str, *, alt: str, detail: str = "") -> Picture:
        """Write an encoded PNG beside the page and hold it for embedding."""
        file = f"{self.key}-{name}.png"
        (self.folder / file).write_bytes(png)
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        return Picture(file, caption, detail, alt, width, height, uri)

    def timed(self, function: Callable[[], Result], repeats: int = 3) -> tuple[Result, float]:
        """Return the result of ``function`` and its median time in seconds.

        A GPU, and whatever is so short that it is repeated, gets an untimed run first.
        """
        repeats = 1 if self.quick else repeats
        if repeats > 1 or self.device.type == "cuda":
            function()
        seconds = []
        for _ in range(repeats):
            self._wait()
            start = time.perf_counter()
            result = function()
            self._wait()
            seconds.append(time.perf_counter() - start)
        return result, statistics.median(seconds)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def to_bytes(image: Tensor) -> Tensor:
    """Round values in [0, 1] to 8 bits; what lies outside is clipped, as a screen would."""
    if image.dtype == torch.uint8:
        return image
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop (C, H, W) about its centre to the shape of ``size`` and resample it to that size."""
    height, width = image.shape[-2:]
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    cropped = image[None, :, top : top + rows, left : left + columns]
    return interpolate(cropped, size, mode="bicubic", antialias=True)[0]
