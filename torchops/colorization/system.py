"""The square linear system of colorization, applied without ever forming a matrix."""

import torch
from torch import Tensor

from torchops.colorization.weights import crop, neighbours, to_neighbour, window_offsets


class System:
    """Rows pull(r) x(r) + sum_s coupling_rs (x(r) - x(s)) of every pixel r of a batch of images.

    pull >= 0 draws a pixel to its hint, couplings >= 0 draw it to its neighbours. Written with
    differences, so that no digits are lost where x is nearly constant.

    Args:
        coupling: (B, K, H, W), 0 towards neighbours outside the image.
        pull: (B, 1, H, W).
        radius: Radius of the window that K belongs to.
    """

    def __init__(self, coupling: Tensor, pull: Tensor, radius: int) -> None:
        self.coupling, self.pull, self.radius = coupling, pull, radius
        self.fixed = pull == 1  # these rows read x = rhs: nothing to solve
        self.diagonal = pull + coupling.sum(-3, keepdim=True)

    def apply(self, x: Tensor) -> Tensor:
        """Multiply (B, P, H, W) by the matrix."""
        result = self.pull * x
        for k, neighbour in enumerate(neighbours(x, self.radius)):
            result += self.coupling[:, k, None] * (x - neighbour)
        return result

    def apply_transposed(self, y: Tensor) -> Tensor:
        """Multiply (B, P, H, W) by the transposed matrix."""
        arrived = torch.zeros_like(to_neighbour(y, (0, 0), self.radius))
        for k, offset in enumerate(window_offsets(self.radius)):
            arrived += to_neighbour(self.coupling[:, k, None] * y, offset, self.radius)
        return self.diagonal * y - crop(arrived, self.radius)
