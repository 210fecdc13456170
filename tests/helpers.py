"""What several rooms' tests share: layouts, batch-equals-loop, numeric closeness, sample images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[1] / "torchops" / "samples"


def photograph(name="camera.png", *, dtype=torch.float64):
    """A bundled photograph as a (C, H, W) tensor in [0, 1]."""
    with Image.open(SAMPLES / name) as image:
        array = np.asarray(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy()).to(dtype) / 255


def assert_close(actual, expected, tolerance, message=""):
    """Fail unless shapes are equal and the largest difference is at most ``tolerance``."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} vs {tuple(expected.shape)}"
    if actual.numel() == 0:
        return
    assert torch.isfinite(actual).all(), f"not finite {message}"
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= tolerance, f"differs by {error:.3g} > {tolerance:.3g} {message}"


def layouts(image):
    """The same values under the layouts a user may pass: name, tensor pairs."""
    yield "contiguous", image.contiguous()
    yield "transposed", image.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield "sliced", torch.stack([image, image], -1)[..., 0]
    if image.ndim == 4:
        yield "channels_last", image.contiguous(memory_format=torch.channels_last)
    yield "expanded batch", image[None].expand(2, *image.shape)[1]


def smooth_image(*shape, seed=0, dtype=torch.float64):
    """Band-limited random texture in [0, 1]: a sum of a few cosines, different in each channel."""
    generator = torch.Generator().manual_seed(seed)
    *lead, height, width = shape
    y = torch.arange(height, dtype=dtype)[:, None]
    x = torch.arange(width, dtype=dtype)[None]
    image = torch.zeros(*lead, height, width, dtype=dtype)
    for _ in range(12):
        f = (torch.rand(*lead, 2, generator=generator, dtype=dtype) - 0.5) * 0.6
        phase = torch.rand(*lead, generator=generator, dtype=dtype)[..., None, None] * 6.2832
        image = image + torch.cos(f[..., 0, None, None] * x + f[..., 1, None, None] * y + phase)
    return 0.5 + image / 24
