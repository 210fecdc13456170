"""Pictures made of tensors: strokes, outlines, overlays, false colours."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

Points = Sequence[tuple[float, float]]

# Dark to bright, so that the map still reads in print and for the colour-blind.
_HEAT = [
    (0.05, 0.05, 0.15),
    (0.35, 0.10, 0.45),
    (0.80, 0.25, 0.35),
    (0.98, 0.60, 0.20),
    (1.00, 1.00, 0.75),
]


def stroke(points: Points, width: float, size: tuple[int, int]) -> Tensor:
    """Draw a polyline with round ends; True where it covers the (height, width) image."""
    height, columns = size
    canvas = Image.new("1", (columns, height))
    draw = ImageDraw.Draw(canvas)
    draw.line([(x, y) for x, y in points], fill=1, width=max(1, round(width)), joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return torch.from_numpy(np.array(canvas))[None]


def outline(image: Tensor, corners: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Draw the polygon through ``corners``, (N, 2) as x and y in pixels, onto an image."""
    canvas = _canvas(image)
    points = [(float(x), float(y)) for x, y in corners.cpu()]
    width = max(2, round(max(canvas.size) / 170))
    ImageDraw.Draw(canvas).line([*points, points[0], points[1]], fill=colour, width=width)
    return _tensor(canvas)


def _canvas(image: Tensor) -> Image.Image:
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return Image.fromarray(pixels.expand(3, -1, -1).movedim(0, -1).contiguous().numpy())


def _tensor(canvas: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(canvas)).movedim(-1, 0).float() / 255


def heat(values: Tensor) -> Tensor:
    """Colour values (1, H, W) in [0, 1] from dark to bright."""
    anchors = torch.tensor(_HEAT, dtype=torch.float32, device=values.device)
    position = values.detach().float().nan_to_num().clamp(0, 1)[0] * (len(_HEAT) - 1)
    lower = position.long().clamp(max=len(_HEAT) - 2)
    weight = (position - lower)[..., None]
    return (anchors[lower] * (1 - weight) + anchors[lower + 1] * weight).movedim(-1, 0)


def flow_colours(flow: Tensor, largest: float) -> Tensor:
    """Colour a flow (2, H, W): hue is the direction, saturation the length up to ``largest``."""
    from torchvision.utils import flow_to_image

    flow = flow.detach().float().cpu()
    length = flow.square().sum(0, keepdim=True).sqrt()
    flow = flow * (largest / length.clamp(min=1e-12)).clamp(max=1)
    # torchvision scales by the longest vector of the image: one extra row holds that vector.
    scale = torch.zeros(2, 1, flow.shape[-1])
    scale[0, 0, 0] = largest
    return flow_to_image(torch.cat([flow, scale], dim=1))[:, :-1].float() / 255


def flow_key(side: int) -> Tensor:
    """Draw the colour wheel that explains ``flow_colours``, as RGBA, transparent outside."""
    axis = torch.linspace(-1.05, 1.05, side)
    flow = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    length = flow.square().sum(0, keepdim=True).sqrt()
    opaque = ((1 - length) * side / 2.1).clamp(0, 1)  # one pixel of soft edge
    return torch.cat([flow_colours(flow, 1.0), opaque])


def smooth_flow(height: int, width: int, largest: float) -> Tensor:
    """Make a smooth motion field (2, H, W), at most about ``largest`` pixels: two slow swirls."""
    y = torch.arange(height, dtype=torch.float32)[:, None] / height * 2 * math.pi
    x = torch.arange(width, dtype=torch.float32)[None] / width * 2 * math.pi
    u = torch.sin(y) * (0.6 + 0.4 * torch.cos(x))
    v = torch.sin(x) * (0.6 - 0.4 * torch.cos(y))
    flow = torch.stack([u.expand(height, width), v.expand(height, width)])
    return flow * (largest / flow.square().sum(0).sqrt().max())
