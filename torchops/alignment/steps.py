"""One iteration: look at the image through the warp, linearise, update.

The warp of a sample is ``start @ D``: the initial warp after a member D of the motion group that
acts on normalised template coordinates and begins as the identity. Every algorithm changes D only,
so all of them refine a start outside the group alike.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment.motion import build_matrix
from torchops.alignment.template import Template, image_gradient
from torchops.alignment.warp import apply_matrix, interpolate, sample_through

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")


class Method(NamedTuple):
    """What is minimised over which warps, and how; see :func:`torchops.align`."""

    motion: str
    algorithm: str
    solver: str = "gauss_newton"
    objective: str = "ssd"
    robust: str | None = None


class Problem(NamedTuple):
    """A batch of alignments: templates, images (NaN where a pixel does not count), start warps."""

    template: Template
    image: Tensor
    start: Tensor
    method: Method
    # Known on the host, and only looked for where that costs no waiting: every pixel counts.
    whole_template: bool
    whole_image: bool
    # Whether kernels sum and solve. They need no gradient, and no condition looked for.
    fused: bool = False

    def rows(self, part: slice | Tensor) -> "Problem":
        """Return a part of the batch; what is shared by the whole batch stays."""
        image = self.image if self.image.shape[0] == 1 else self.image[part]
        return self._replace(template=self.template.rows(part), image=image, start=self.start[part])


class View(NamedTuple):
    """The image seen through a warp, on the template's pixels (B, C, h, w)."""

    warped: Tensor  # the template's own values where a pixel does not count
    counts: Tensor  # (1 or B, 1, h, w)
    number: Tensor  # (B,), of pixels that count
    residual: Tensor  # warped - template
    gradient: Tensor | None  # (B, 2, C, h, w); forward additive: the image's, after the warp
    clear: bool  # all that counts in the template is seen


def look(problem: Problem, increment: Tensor, clear: bool = False) -> View:
    """Sample the image at the warped template pixels and compare.

    ``clear`` says that every template pixel falls on image pixels that count.
    """
    template = problem.template
    matrix = problem.start @ increment
    u = v = seen = None
    if torch.is_grad_enabled():
        u, v, before = apply_matrix(matrix, template.grid.x, template.grid.y)
        sampled, inside = interpolate(problem.image, u, v)
        seen = (before & inside).unsqueeze(-3)
    else:
        grid = template.grid
        sampled, seen = sample_through(problem.image, matrix, grid.x, grid.y, clear)
    channels = template.values.shape[-3]
    counts, warped = template.counts, sampled[:, :channels]
    if seen is not None:
        counts = counts & seen & ~sampled.detach().isnan().any(-3, keepdim=True)
    if seen is not None or not problem.whole_template:
        warped = torch.where(counts, warped, template.values)
    gradient = None
    if problem.method.algorithm == "forward_additive":
        if u is None or v is None:
            u, v, _ = apply_matrix(matrix, template.grid.x, template.grid.y)
        slopes = torch.where(counts, sampled[:, channels:], 0).unflatten(1, (2, channels))
        gradient = _chain(slopes, matrix, u, v, template)
    number = template.number if clear else counts.sum((-3, -2, -1))
    return View(
        warped, counts, number.expand(len(matrix)), warped - template.values, gradient, clear
    )


def _chain(slopes: Tensor, matrix: Tensor, u: Tensor, v: Tensor, template: Template) -> Tensor:
    # The derivatives by template coordinates: those by image coordinates times dW / dx.
    a, b, _, d, e, _, g, h, i = (m[:, None, None] for m in matrix.flatten(-2).unbind(-1))
    depth = g * template.grid.x + (h * template.grid.y + i)
    depth = torch.where(depth > 0, depth, 1)
    u_x, u_y, v_x, v_y = (
        (entry / depth).unsqueeze(-3).to(slopes.dtype)
        for entry in (a - u * g, b - u * h, d - v * g, e - v * h)
    )
    du, dv = slopes.unbind(1)
    return torch.stack([du * u_x + dv * v_x, du * u_y + dv * v_y], 1)


def linear_gradient(problem: Problem, view: View, gain: Tensor | None = None) -> Tensor:
    """Return the gradient that the algorithm linearises with, in normalised coordinates.

    ``gain`` (B,) is how many times the template's contrast the image has, 1 if None.
    """
    template = problem.template
    algorithm = problem.method.algorithm
    if algorithm == "inverse_compositional":
        return template.gradient
    if algorithm == "forward_additive":
        assert view.gradient is not None
        return view.gradient
    gradient = image_gradient(view.warped, view.counts, template.grid.scale)
    if algorithm == "forward_compositional":
        return gradient
    own = template.gradient
    if gain is not None:
        own = own * gain[:, None, None, None, None].to(own.dtype)
    return (gradient + own) / 2


def adjugate(matrix: Tensor) -> Tensor:
    """Return the inverse times the determinant: the inverse, for a homography."""
    a, b, c = matrix.unbind(-1)
    cross = torch.linalg.cross
    return torch.stack([cross(b, c), cross(c, a), cross(a, b)], -2)


def scaled_to_one(matrix: Tensor) -> Tensor:
    """Divide by the bottom-right entry; by 1 where that is 0."""
    last = matrix[..., 2:, 2:]
    return matrix / last.masked_fill(last == 0, 1)


def _add(increment: Tensor, step: Tensor, motion: str) -> Tensor:
    # p + dp. The derivative of the warp by p spans the same images as the derivative by a
    # compositional step, so the system is solved for that step, and dp is what the tangent D L
    # along it does to the parameters.
    if motion == "euclidean":
        step = torch.cat([torch.zeros_like(step[..., :1]), step], -1)
    chart = "similarity" if motion == "euclidean" else motion
    identity = torch.eye(3, dtype=step.dtype, device=step.device)
    tangent = increment @ (build_matrix(step, chart) - identity)
    tangent = tangent - increment * tangent[..., 2:, 2:]
    if motion != "euclidean":
        return increment + tangent
    angle = torch.atan2(increment[..., 1, 0], increment[..., 0, 0]) + step[..., 1]
    shift = increment[..., :2, 2] + tangent[..., :2, 2]
    return build_matrix(torch.cat([angle[..., None], shift], -1), motion)


def updated(problem: Problem, increment: Tensor, step: Tensor) -> Tensor:
    """Apply the solution of the normal equations, H step = sum SD^T (warped - template)."""
    if problem.method.algorithm == "forward_additive":
        return _add(increment, -step, problem.method.motion)
    if problem.method.algorithm == "inverse_compositional":
        return scaled_to_one(increment @ adjugate(build_matrix(step, problem.method.motion)))
    return scaled_to_one(increment @ build_matrix(-step, problem.method.motion))


def corners(problem: Problem, increment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the template's corners in the image (B, 2, 4), and whether the warp is proper (B,).

    Proper: finite, not mirrored against the start, not shrunk a thousandfold or more at the
    centre, all corners before the horizon.
    """
    matrix = problem.start @ increment
    points = matrix @ problem.template.grid.corners
    depth = points[:, 2:]
    points = points[:, :2] / depth.masked_fill(depth <= 0, 1)
    finite = points.abs().amax((-2, -1)) < torch.inf  # a NaN is not
    turned, area = _determinant(torch.stack([increment, matrix]))
    # The image's area for one of the template's, at the centre.
    area = area / (matrix[:, 2, 2] ** 3 * problem.template.grid.scale**2)
    before = depth.amin((-2, -1)) > 0
    return points, before & finite & (turned > 0) & (area.abs() > 1e-6)


def _determinant(matrix: Tensor) -> Tensor:
    a, b, c = matrix.unbind(-1)
    return torch.linalg.vecdot(torch.linalg.cross(a, b), c)
