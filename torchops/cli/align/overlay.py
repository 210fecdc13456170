"""Pictures of how well two images match."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from torchops import warp_image

_GAP = 8  # pixels between the two pictures


def red_cyan(red: Tensor, cyan: Tensor) -> Tensor:
    """Overlay two gray images: gray where they agree, red or cyan where they do not."""
    return torch.cat([red, cyan, cyan], dim=-3)


def before_after(template: Tensor, image: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Overlay a gray template, red, and the image warped by each matrix, cyan, side by side."""
    height, width = template.shape[-2:]
    pictures = [
        _labelled(red_cyan(template, warp_image(image, matrix, (height, width))), label)
        for label, matrix in (("before", before), ("after", after))
    ]
    gap = torch.ones(3, pictures[0].shape[-2], _GAP)
    return torch.cat([pictures[0], gap, pictures[1]], dim=-1)


def _labelled(picture: Tensor, label: str) -> Tensor:
    """Put a line of text above a picture, black on white."""
    width = picture.shape[-1]
    font = ImageFont.load_default(size=min(max(width // 14, 11), 40))
    height = round(font.getbbox("before, after")[3]) + 8  # the same for both
    canvas = Image.new("L", (width, height), 255)
    ImageDraw.Draw(canvas).text((4, 2), label, fill=0, font=font)
    strip = torch.from_numpy(np.array(canvas)).float() / 255
    return torch.cat([strip.expand(3, -1, -1), picture.detach().cpu().float()], dim=-2)
