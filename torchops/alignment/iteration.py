"""The iteration over a batch of alignments, with a status for each sample."""

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment.steps import (
    Problem,
    View,
    corners,
    look,
    normal_equations,
    updated,
)
from torchops.alignment.system import solve_system
from torchops.alignment.template import Template

# Fewer visible pixels than this part of the template make a sample out of view: a sliver of a
# template fits almost anywhere.
VISIBLE_PART = 0.1

CACHED_VALUES = 1 << 17


class AlignmentStatus(IntEnum):
    """How the alignment of a sample ended.

    CONVERGED: the last update moved every template corner by less than ``tol`` pixels, and the
    error is not above the initial one.
    ITERATION_LIMIT: all iterations were used; always so with ``tol=0``, which tests nothing.
    DIVERGED: the iteration settled or ended at a higher error than it started from, or a warp
    became infinite, mirrored or collapsed the template or moved a corner behind the horizon.
    SINGULAR: the pixels do not determine the motion (a constant template, stripes), so there is
    no update.
    OUT_OF_VIEW: less than a tenth of the template's counting pixels fell on pixels of the image
    that count.
    """

    CONVERGED = 0
    ITERATION_LIMIT = 1
    DIVERGED = 2
    SINGULAR = 3
    OUT_OF_VIEW = 4


class State(NamedTuple):
    """Per sample: the increment, the one to return and its error, and how it goes."""

    increment: Tensor
    best: Tensor
    error: Tensor
    initial_error: Tensor
    latest_error: Tensor
    status: Tensor
    iterations: Tensor
    running: Tensor
    corners: Tensor


def measure(problem: Problem, view: View) -> Tensor:
    """Return the root mean square residual (B,), inf where too little of the template is seen."""
    number = view.counts.sum((-3, -2, -1))
    residual = view.residual.detach()
    squares = (residual * residual).sum((-3, -2, -1), dtype=torch.float64)
    seen = (number > 0) & (number >= VISIBLE_PART * problem.template.number)
    mean = squares / (number.clamp(min=1) * residual.shape[-3])
    return torch.where(seen, mean.sqrt(), torch.inf)


def noise_floor(template: Template) -> Tensor:
    """Return what the rounding of a constant image adds to the Gauss-Newton matrix."""
    eps = torch.finfo(template.values.dtype).eps
    return template.number * (8 * eps * template.amplitude * template.grid.scale) ** 2


def _begin(problem: Problem, initial_error: Tensor | None) -> tuple[State, View]:
    template, batch, device = problem.template, problem.start.shape[0], problem.start.device
    increment = torch.eye(3, dtype=torch.float64, device=device).expand(batch, 3, 3)
    view = look(problem, increment)
    error = measure(problem, view)
    points, proper = corners(problem, increment)
    seen = torch.isfinite(error) & proper
    status = torch.where(
        seen, int(AlignmentStatus.ITERATION_LIMIT), int(AlignmentStatus.OUT_OF_VIEW)
    )
    status = torch.where(proper, status, int(AlignmentStatus.DIVERGED))
    # A template that does not determine the motion by itself is never aligned, whatever the image.
    singular = solve_system(
        template.matrix,
        torch.zeros_like(template.matrix[..., 0]),
        template.basis.scale,
        noise_floor(template),
        torch.finfo(template.values.dtype).eps,
    )[1]
    status = torch.where(seen & singular, int(AlignmentStatus.SINGULAR), status)
    seen = seen & ~singular
    count = torch.zeros(batch, dtype=torch.long, device=device)
    if initial_error is None:
        initial_error = error
    state = State(increment, increment, error, initial_error, error, status, count, seen, points)
    return state, view


def _slack(template: Template) -> Tensor:
    # What rounding adds to the error of a perfect alignment.
    return 4 * torch.finfo(template.values.dtype).eps * template.amplitude


def _advance(
    problem: Problem, state: State, view: View, tol: float, whole: bool
) -> tuple[State, View]:
    template = problem.template
    eps = torch.finfo(template.values.dtype).eps
    matrix, vector = normal_equations(problem, view, whole)
    step, singular = solve_system(matrix, vector, template.basis.scale, noise_floor(template), eps)
    candidate = updated(problem, state.increment, step)
    points, proper = corners(problem, candidate.detach())
    singular = state.running & singular
    improper = state.running & ~singular & ~proper
    moving = state.running & ~singular & proper
    increment = torch.where(moving[:, None, None], candidate, state.increment)

    view = look(problem, increment)
    error = measure(problem, view)
    lost = moving & ~torch.isfinite(error)
    moving = moving & ~lost
    distance = (points - state.corners).square().sum(-2).amax(-1).sqrt()
    settled = moving & (distance < tol)
    lower = error <= state.initial_error + _slack(template)
    converged, risen = settled & lower, settled & ~lower
    better = moving & (converged | (error < state.error))

    status = state.status
    for cases, name in (
        (singular, AlignmentStatus.SINGULAR),
        (improper | risen, AlignmentStatus.DIVERGED),
        (lost, AlignmentStatus.OUT_OF_VIEW),
        (converged, AlignmentStatus.CONVERGED),
    ):
        status = torch.where(cases, int(name), status)
    state = State(
        increment,
        torch.where(better[:, None, None], increment, state.best),
        torch.where(better, error, state.error),
        state.initial_error,
        torch.where(moving, error, state.latest_error),
        status,
        state.iterations + moving,
        moving & ~settled,
        points,
    )
    return state, view


def _finish(problem: Problem, state: State) -> State:
    risen = state.running & (state.latest_error > state.initial_error + _slack(problem.template))
    status = torch.where(risen, int(AlignmentStatus.DIVERGED), state.status)
    # Without an estimate there is nothing to differentiate.
    found = status <= int(AlignmentStatus.ITERATION_LIMIT)
    best = torch.where(found[:, None, None], state.best, state.best.detach())
    return state._replace(status=status, best=best)


def _iterate(problem: Problem, iterations: int, tol: float, initial_error: Tensor | None) -> State:
    state, view = _begin(problem, initial_error)
    for _ in range(iterations):
        whole = False
        if tol > 0:  # the one place that waits for the device
            seen_whole = (view.counts == problem.template.counts).all()
            running, whole = torch.stack([state.running.any(), seen_whole]).tolist()
            if not running:
                break
        state, view = _advance(problem, state, view, tol, whole)
    return _finish(problem, state)


def iterate(
    problem: Problem, iterations: int, tol: float, initial_error: Tensor | None = None
) -> State:
    """Run the batch until every sample has ended, or for all ``iterations`` if ``tol`` is 0.

    ``initial_error`` (B,) is what the error at the end is held against, if not that of the start.
    On a CPU the batch is run in pieces whose images stay in the cache.
    """
    batch = problem.start.shape[0]
    piece = max(1, CACHED_VALUES // math.prod(problem.template.values.shape[1:]))
    if problem.start.device.type != "cpu" or torch.compiler.is_compiling() or batch <= piece:
        return _iterate(problem, iterations, tol, initial_error)
    parts = []
    for first in range(0, batch, piece):
        rows = slice(first, first + piece)
        error = None if initial_error is None else initial_error[rows]
        parts.append(_iterate(problem.rows(rows), iterations, tol, error))
    return State(*(torch.cat(field) for field in zip(*parts, strict=True)))
