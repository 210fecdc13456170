"""Baker and Matthews' experiment: templates whose corners were moved by noise, on a photograph.

The corners of a rectangle of the image move by N(0, sigma^2) in x and y; the template is cut out
through the warp that takes the rectangle's corners there; the start is the unmoved rectangle, half
a pixel off so that the first warp interpolates too. Converged: corners within 1 px, root mean
square, after at most 15 iterations. Asked are the *frequency* of convergence over sigma, and the
*rate*: the mean error after each iteration over the trials in which all methods converge.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchops import align, warp_image, warp_points

SIDE = 100
ITERATIONS = 15

# What `align` is asked for. Levels other than 1 are named.
METHODS: dict[str, dict[str, Any]] = {
    "inverse compositional": {"algorithm": "inverse_compositional"},
    "forward compositional": {"algorithm": "forward_compositional"},
    "forward additive": {"algorithm": "forward_additive"},
    "ESM": {"algorithm": "esm"},
    "inverse compositional, ECC": {"algorithm": "inverse_compositional", "objective": "ecc"},
    "ESM, ECC": {"algorithm": "esm", "objective": "ecc"},
    "ESM, LM": {"algorithm": "esm", "solver": "levenberg_marquardt"},
    "ESM, LM, 3 levels": {"algorithm": "esm", "solver": "levenberg_marquardt", "levels": 3},
}


class Trials(NamedTuple):
    """A batch of problems with one start.

    Attributes:
        templates: (N, C, side, side).
        images: (R, C, H, W): the first N / R templates belong to the first image, and so on.
        true: (N, 3, 3), template pixels to image pixels, float64.
        start: (3, 3), float64.
    """

    templates: Tensor
    images: Tensor
    true: Tensor
    start: Tensor

    def to(self, device: torch.device) -> "Trials":
        """Move what an aligner sees; the truth stays on the CPU."""
        return self._replace(
            templates=self.templates.to(device),
            images=self.images.to(device),
            start=self.start.to(device),
        )

    def pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Give each image (C, H, W) with its templates."""
        return zip(self.templates.chunk(len(self.images)), self.images, strict=True)


def corners(side: int = SIDE) -> Tensor:
    """The corners' pixel centres (4, 2)."""
    last = side - 1.0
    return torch.tensor([[0, 0], [last, 0], [0, last], [last, last]], dtype=torch.float64)


def through_points(source: Tensor, target: Tensor, motion: str) -> Tensor:
    """The homography through four points, or the affine map through the first three."""
    x, y = source.expand_as(target).unbind(-1)
    u, v = target.unbind(-1)
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], -1)
    if motion == "affine":
        rows_u, rows_v, u, v = rows_u[..., :3, :6], rows_v[..., :3, :6], u[..., :3], v[..., :3]
    solution = torch.linalg.solve(torch.cat([rows_u, rows_v], -2), torch.cat([u, v], -1))
    last = torch.zeros(*solution.shape[:-1], 9 - solution.shape[-1], dtype=solution.dtype)
    last[..., -1] = 1
    return torch.cat([solution, last], -1).unflatten(-1, (3, 3))


def translation(x: float, y: float) -> Tensor:
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


def trials(
    image: Tensor,
    sigma: float,
    count: int = 100,
    *,
    motion: str = "homography",
    seed: int = 0,
    at: tuple[int, int] | None = None,
    side: int = SIDE,
) -> Trials:
    """Draw trials on an image (C, H, W), around the rectangle at ``at`` (None: in the middle).

    A template that reaches beyond the image repeats the image's edge there. At the true warp those
    pixels are out of view and do not count.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 4, 2, generator=generator, dtype=torch.float64)
    height, width = image.shape[-2:]
    left, top = ((width - side) // 2, (height - side) // 2) if at is None else at
    place = corners(side) + torch.tensor((left, top), dtype=torch.float64)
    true = through_points(corners(side), place + sigma * noise, motion)
    templates = warp_image(image, true, (side, side), border="replicate")
    return Trials(templates, image[None], true, translation(left + 0.5, top + 0.5))


def with_noise(problem: Trials, level: float, where: str, *, realisations: int = 10) -> Trials:
    """Add Gaussian noise to every template, or to the image, ``realisations`` times anew."""
    generator = torch.Generator().manual_seed(1)

    def noisy(values: Tensor) -> Tensor:
        return values + level * torch.randn(values.shape, generator=generator, dtype=values.dtype)

    if where == "template":
        return problem._replace(templates=noisy(problem.templates))
    images = problem.images.expand(realisations, *problem.images.shape[1:])
    return problem._replace(images=noisy(images))


def corner_error(matrix: Tensor, true: Tensor, side: int = SIDE) -> Tensor:
    """Root mean square distance of the warped corners, in pixels."""
    found, goal = (warp_points(corners(side), m.double().cpu()) for m in (matrix, true))
    return (found - goal).square().sum(-1).mean(-1).sqrt()


def solve(problem: Trials, **options: Any) -> Tensor:
    """Align all trials; (N, 3, 3)."""
    options = {"initial": problem.start, "levels": 1, "iterations": ITERATIONS, **options}
    found = [align(templates, image, **options).matrix for templates, image in problem.pairs()]
    return torch.cat(found)


Solver = Callable[..., Tensor]  # (trials, motion=, iterations=) to matrices (N, 3, 3)


def solvers(peers: Mapping[str, Solver]) -> dict[str, Solver]:
    """Our methods, named, and the ``peers``."""

    def ours(options: dict[str, Any]) -> Solver:
        # A trial whose update moves no corner by 1e-4 px has ended, far below what is asked for.
        return lambda problem, **given: solve(problem, tol=1e-4, **options, **given)

    own = {f"torchops {name}": ours(options) for name, options in METHODS.items()}
    return {**own, **peers}


def frequency(errors: Tensor) -> float:
    """Share of the trials that converged."""
    return (errors < 1).double().mean().item()


def rates(curves: Mapping[str, Mapping[int, Tensor]]) -> dict[str, dict[int, float]]:
    """Mean error after n iterations over the trials in which all methods converge.

    Args:
        curves: Method -> number of iterations -> errors (N,). Converged is what converged after
            the largest number.
    """
    last = [curve[max(curve)] for curve in curves.values()]
    common = torch.stack([errors < 1 for errors in last]).all(0)
    if not common.any():
        raise ValueError("there is no trial in which all methods converge: take more trials")
    return {
        label: {n: errors[common].mean().item() for n, errors in curve.items()}
        for label, curve in curves.items()
    }
