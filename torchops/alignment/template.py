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
    floor: Tensor  # what the rounding of a constant image adds to the matrix
    slack: Tensor  # what rounding adds to the error of a perfect alignment
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
            change(self.floor),
            change(self.slack),
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


def _difference(values: Tensor, counts: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    # What the next and the previous pixel differ by, and how far apart they are: a neighbour that
    # does not exist or count is replaced by the pixel itself. The central difference inside,
    # one-sided at a border or hole, 0 for a pixel on its own.
    last = values.shape[dim] - 1
    lower, upper = values.narrow(dim, 0, last), values.narrow(dim, 1, last)
    pairs = counts.narrow(dim, 1, last) & counts.narrow(dim, 0, last)
    ahead = torch.cat([torch.where(pairs, upper, lower), values.narrow(dim, last, 1)], dim)
    behind = torch.cat([values.narrow(dim, 0, 1), torch.where(pairs, lower, upper)], dim)
    before, after = ((1, 0), (0, 1)) if dim == -1 else ((0, 0, 1, 0), (0, 0, 0, 1))
    pad = torch.nn.functional.pad
    weight = pairs.to(values.dtype)
    return ahead - behind, (pad(weight, before) + pad(weight, after)).clamp(min=1)


def image_gradient(values: Tensor, counts: Tensor, scale: float = 1) -> Tensor:
    """Differentiate (B, C, h, w) along x and y by ``scale`` pixels, reading only those that count.

    The gradient (B, 2, C, h, w) is 0 where a pixel itself does not count.
    """
    if min(values.shape[-2:]) > 1 and surely_all(counts):
        return torch.stack(torch.gradient(values, spacing=1 / scale, dim=(-1, -2)), 1)
    differences = (_difference(values, counts, dim) for dim in (-1, -2))
    return torch.stack([total / (distance / scale) for total, distance in differences], 1)


def finite_pixels(values: Tensor) -> Tensor:
    """Say which pixels of (B, C, h, w) are finite in all channels: (B, 1, h, w)."""
    # torch.isfinite goes twice as often through the memory.
    return (values.detach().abs() < torch.inf).all(-3, keepdim=True)


def prepare_template(values: Tensor, mask: Tensor | None, motion: str) -> Template:
    """Compute the terms of a template that stay the same for every image and iteration."""
    grid = template_grid(values.shape[-2], values.shape[-1], values.device)
    basis = motion_basis(motion, grid.x, grid.y[:, 0])
    counts = finite_pixels(values)
    if mask is not None:
        counts = counts & mask
    values = torch.where(counts, values, 0)
    gradient = image_gradient(values, counts, grid.scale)
    products = structure_products(gradient)
    number = counts.sum((-3, -2, -1))
    # A unit in the last place of the largest value.
    unit = torch.finfo(values.dtype).eps * values.detach().abs().amax((-3, -2, -1)).double()
    return Template(
        values=values,
        counts=counts,
        gradient=gradient,
        products=products,
        matrix=gauss_newton_matrix(products, basis),
        number=number,
        floor=number * (8 * unit * grid.scale) ** 2,
        slack=4 * unit,
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
    counts = finite_pixels(values)
    if mask is not None:
        counts = counts & mask
    if gradients:
        clean = torch.where(counts, values, 0)
        values = torch.cat([clean, *image_gradient(clean, counts).unbind(1)], -3)
    return torch.where(counts, values, torch.nan)
