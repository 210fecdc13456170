"""Real pairs of photographs of a plane, with a homography that others have measured."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from alignment_protocol import corners, through_points, translation
from torch import Tensor

from torchops import warp_points

# Two views, the matrix that takes pixels of the first to pixels of the second.
PAIRS = {
    "graf": ("graf1.png", "graf3.png", "H1to3p.txt"),
    "adam": ("adamA.png", "adamB.png", "H_A_to_B.txt"),
}
SCALE = 2


class Pair(NamedTuple):
    """A square template from the middle of the first view, and the second view, at half size."""

    template: Tensor
    image: Tensor
    true: Tensor
    side: int

    @staticmethod
    def pixels(distance: Tensor) -> Tensor:
        """Tell a distance in pixels of the photographs as they are."""
        return SCALE * distance


def _half(path: Path, blur: float) -> Tensor:
    array = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    size = (array.shape[1] // SCALE, array.shape[0] // SCALE)
    small = cv2.resize(array.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(cv2.GaussianBlur(small, (0, 0), blur))[None]


def real_pair(folder: Path, name: str, blur: float) -> Pair:
    """Read a pair; ``blur`` is a Gaussian's standard deviation in pixels of the half size."""
    first, second, file = PAIRS[name]
    one, two = (_half(folder / name / path, blur) for path in (first, second))
    # (0, 0) is the centre of a pixel, at half size that of a block of 2 x 2.
    shrink = torch.tensor(np.diag([1 / SCALE, 1 / SCALE, 1.0]))
    shrink[:2, 2] = (1 / SCALE - 1) / 2
    true = shrink @ torch.from_numpy(np.loadtxt(folder / name / file)) @ torch.linalg.inv(shrink)
    height, width = one.shape[-2:]
    side = min(height, width) * 5 // 8
    left, top = (width - side) // 2, (height - side) // 2
    true = true @ translation(left, top)
    template = one[:, top : top + side, left : left + side].contiguous()
    return Pair(template, two, true / true[2, 2], side)


def attempts(pair: Pair, count: int, distance: float = 10.0, seed: int = 0) -> Tensor:
    """Draw starts (count, 3, 3) whose corners are each ``distance`` px off the ground truth."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(count, 4, generator=generator, dtype=torch.float64)
    away = distance / SCALE * torch.stack([angle.cos(), angle.sin()], -1)
    place = corners(pair.side)
    return through_points(place, warp_points(place, pair.true) + away, "homography")
