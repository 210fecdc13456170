"""What the iterations read of a template and an image, prepared once.

Template coordinates are centred and scaled by half the longer side, the same for x and y, so that
each motion group maps to itself. Without this the Gauss-Newton matrix of a homography has a
condition number near 1e9 on a 100 x 100 template; with it, below 100.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment.system import (
    Basis,
    gauss_newton_matrix,
    motion_basis,
    structure_products,
)


class Grid(NamedTuple):
    """The normalised coordinates x (w,) and y (h, 1) of a template's pixels, in float64."""

    x: Tensor
    y: Tensor
    corners: Tensor  # (3, 4): the columns (x, y, 1) of the first and last pixels
    centre: tuple[float, float]
    scale: float

    def from_pixels(self, matrix: Tensor) -> Tensor:
        """Make a matrix that acts on template pixels act on normalised coordinates."""
        a, b, c = matrix.unbind(-1)
        shifted = a * self.centre[0] + b * self.centre[1] + c
        return torch.stack([a * self.scale, b * self.scale, shifted], -1)

    def to_pixels(self, matrix: Tensor) -> Tensor:
        """Make a matrix that acts on normalised coordinates act on template pixels."""
        a, b, c = matrix.unbind(-1)
        a, b = a / self.scale, b / self.scale
        return torch.stack([a, b, c - a * self.centre[0] - b * self.centre[1]], -1)


class Template(NamedTuple):
    """A template (1 or B, C, h, w): values, which pixels count, and its inverse-warp terms."""

    values: Tensor
    counts: Tensor
    gradient: Tensor  # (.., 2, C, h, w), by normalised coordinates
    products: Tensor
    matrix: Tensor
    number: Tensor  # of pixels that count
    amplitude: Tensor  # largest absolute value
    grid: Grid
    basis: Basis

    def map(self, change: Callable[[Tensor], Tensor]) -> "Template":
        """Apply a function to every tensor that has a batch dimension."""
        return Template(
            change(self.values),
            change(self.counts),
            change(self.gradient),
            change(self.products),
            change(self.matrix),
            change(self.number),
            change(self.amplitude),
            self.grid,
            self.basis,
        )

    def rows(self, part: slice | Tensor) -> "Template":
        """Return a part of the batch, or all of a template that the batch shares."""
        return self if self.values.shape[0] == 1 else self.map(lambda field: field[part])


def template_grid(height: int, width: int, device: torch.device) -> Grid:
    """Return the normalised coordinates of a template of this size."""
    scale = max(height - 1, width - 1, 1) / 2
    cx, cy = (width - 1) / 2, (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64, device=device)
    rows = torch.arange(height, dtype=torch.float64, device=device)
    x, y = (columns - cx) / scale, ((rows - cy) / scale)[:, None]
    ends = [
        torch.stack([column, row, torch.ones_like(row)])
        for row in (y[0, 0], y[-1, 0])
        for column in (x[0], x[-1])
    ]
    return Grid(x, y, torch.stack(ends, 1), (cx, cy), scale)


def _difference(values: Tensor, counts: Tensor, dim: int) -> Tensor:
    # The mean of the differences to the left and right neighbour, of those that exist and count:
    # the central difference inside, one-sided at a border or hole, 0 for a pixel on its own.
    size = values.shape[dim]
    pairs = counts.narrow(dim, 1, size - 1) & counts.narrow(dim, 0, size - 1)
    steps = values.narrow(dim, 1, size - 1) - values.narrow(dim, 0, size - 1)
    steps = torch.where(pairs, steps, 0)
    weight = pairs.to(values.dtype)
    before, after = ((1, 0), (0, 1)) if dim == -1 else ((0, 0, 1, 0), (0, 0, 0, 1))
    pad = torch.nn.functional.pad
    total = pad(steps, before) + pad(steps, after)
    number = pad(weight, before) + pad(weight, after)
    return total / number.clamp(min=1)


def image_gradient(values: Tensor, counts: Tensor) -> Tensor:
    """Differentiate (B, C, h, w) along x and y per pixel, reading only pixels that count.

    The gradient (B, 2, C, h, w) is 0 where a pixel itself does not count.
    """
    return torch.stack([_difference(values, counts, -1), _difference(values, counts, -2)], 1)


def prepare_template(values: Tensor, mask: Tensor | None, motion: str) -> Template:
    """Compute the terms of a template that stay the same for every image and iteration."""
    grid = template_grid(values.shape[-2], values.shape[-1], values.device)
    basis = motion_basis(motion, grid.x, grid.y[:, 0])
    counts = torch.isfinite(values.detach()).all(-3, keepdim=True)
    if mask is not None:
        counts = counts & mask
    values = torch.where(counts, values, 0)
    gradient = image_gradient(values, counts) * grid.scale
    products = structure_products(gradient)
    return Template(
        values=values,
        counts=counts,
        gradient=gradient,
        products=products,
        matrix=gauss_newton_matrix(products, basis),
        number=counts.sum((-3, -2, -1)),
        amplitude=values.detach().abs().amax((-3, -2, -1)).double(),
        grid=grid,
        basis=basis,
    )


def surely_all(condition: Tensor) -> bool:
    """Say whether all of a condition holds, as far as that can be known without waiting."""
    if condition.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(condition.all())
    except RuntimeError:  # inside vmap there is no one value to read
        return False


def prepare_image(values: Tensor, mask: Tensor | None, *, gradients: bool) -> Tensor:
    """Put NaN where a pixel does not count; append the derivatives in x and y on request.

    Interpolation spreads the NaN to every position that would read such a pixel.
    """
    counts = torch.isfinite(values.detach()).all(-3, keepdim=True)
    if mask is not None:
        counts = counts & mask
    if gradients:
        clean = torch.where(counts, values, 0)
        values = torch.cat([clean, *image_gradient(clean, counts).unbind(1)], -3)
    return torch.where(counts, values, torch.nan)
