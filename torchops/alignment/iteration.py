"""The iteration over a batch of alignments, with a status for each sample."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment.objective import evaluate
from torchops.alignment.steps import Problem, corners, updated
from torchops.alignment.sums import Sums, each
from torchops.alignment.system import solve_system

# Levenberg-Marquardt: the first damping, its bounds, and the factor between one and the next.
DAMPING, LEAST_DAMPING, MOST_DAMPING, DAMPING_STEP = 1e-3, 1e-8, 1e8, 10.0

# How far the cost may end above that of the start. Where the pictures differ by noise, the roots of
# the approximate equations of "inverse_compositional" and "esm" are not quite the least error. A
# robust standard deviation is a median besides, which goes up and down near the best warp.
MARGIN, ROBUST_MARGIN = 0.01, 0.1


class AlignmentStatus(IntEnum):
    """How the alignment of a sample ended.

    CONVERGED: the last update moved every template corner by less than ``tol`` pixels, and the
    error is not above the initial one, by more than 1 % of it: a start at the least error may end
    a little higher, at the root of an equation that noise enters. (With a robust function: its
    standard deviation of the residual is not above the initial one by more than 10 %.)
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
    """Per sample: the increment and its sums, the one to return, and how it goes."""

    increment: Tensor
    sums: Sums
    corners: Tensor
    damping: Tensor
    best: Tensor
    error: Tensor  # of the best
    least: Tensor  # the least cost so far
    limit: Tensor  # the cost above which the end is worse than the start
    status: Tensor
    iterations: Tensor
    running: Tensor


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.reshape(-1, *[1] * (chosen.ndim - 1)), chosen, other)


def _begin(problem: Problem, initial: Tensor | None) -> State:
    template, batch, device = problem.template, problem.start.shape[0], problem.start.device
    increment = torch.eye(3, dtype=torch.float64, device=device).expand(batch, 3, 3)
    points, proper = corners(problem, increment)
    sums = evaluate(problem, increment, clear=_clear(problem, points, proper), begin=True)
    seen = torch.isfinite(sums.error) & proper
    status = torch.where(
        seen, int(AlignmentStatus.ITERATION_LIMIT), int(AlignmentStatus.OUT_OF_VIEW)
    )
    status = torch.where(proper, status, int(AlignmentStatus.DIVERGED))
    # A template that does not determine the motion by itself is never aligned, whatever the image.
    singular = solve_system(
        template.matrix,
        torch.zeros_like(template.matrix[..., 0]),
        template.basis.scale,
        template.floor,
        torch.finfo(template.values.dtype).eps,
        fused=problem.fused,
    )[1]
    status = torch.where(seen & singular, int(AlignmentStatus.SINGULAR), status)
    return State(
        increment=increment,
        sums=sums,
        corners=points,
        damping=torch.full_like(sums.cost, DAMPING),
        best=increment,
        error=sums.error,
        least=sums.cost,
        limit=_limit(problem, sums.cost if initial is None else initial),
        status=status,
        iterations=torch.zeros(batch, dtype=torch.long, device=device),
        running=seen & ~singular,
    )


def _clear(problem: Problem, points: Tensor, proper: Tensor) -> Tensor | None:
    """Say of which templates (B,) surely all pixels fall on pixels of the image that count.

    A template whose corners lie inside the image, before the horizon, lies inside with all it has.
    None where that would help no one: an unknown image, or kernels, which look for themselves.
    """
    if problem.fused or not problem.whole_image:
        return None
    height, width = problem.image.shape[-2:]
    last = torch.tensor([width - 1.0, height - 1.0], dtype=points.dtype)[:, None]
    return proper & ((points >= 0) & (points <= last)).all(-1).all(-1)


def _advance(problem: Problem, state: State, tol: float) -> State:
    template, running = problem.template, state.running
    damps = problem.method.solver == "levenberg_marquardt"
    step, singular = solve_system(
        state.sums.matrix,
        state.sums.vector,
        template.basis.scale,
        template.floor,
        torch.finfo(template.values.dtype).eps,
        damping=state.damping if damps else None,
        fused=problem.fused,
    )
    candidate = updated(problem, state.increment, step)
    points, proper = corners(problem, candidate.detach())
    solved = running & ~singular
    moving = solved & proper
    increment = _where(moving, candidate, state.increment)
    points = _where(moving, points, state.corners)
    clear = _clear(problem, points, proper | ~moving)
    sums = evaluate(problem, increment, clear=clear, before=state.sums)

    settled = _nearer(points, state.corners, tol)
    damping, status = state.damping, state.status
    status = status.masked_fill(running & singular, int(AlignmentStatus.SINGULAR))
    if damps:  # what would leave the image or raise the cost is undone, and tried more carefully
        limit = state.sums.objective
        accepted = moving & (sums.trial <= limit + _rounding(problem, limit))
        factor = torch.where(accepted, 1 / DAMPING_STEP, DAMPING_STEP)
        damping = (damping * factor).clamp(LEAST_DAMPING, MOST_DAMPING)
        settled = settled & moving
        going = solved
        increment = _where(accepted, increment, state.increment)
        sums = each(lambda new, old: _where(accepted, new, old), sums, state.sums)
        points = _where(accepted, points, state.corners)
    else:
        accepted = going = moving & (sums.error < torch.inf)
        settled = settled & accepted
        status = status.masked_fill(solved & ~proper, int(AlignmentStatus.DIVERGED))
        status = status.masked_fill(moving & ~accepted, int(AlignmentStatus.OUT_OF_VIEW))

    lower = sums.cost <= state.limit
    converged = settled & lower
    status = status.masked_fill(converged, int(AlignmentStatus.CONVERGED))
    status = status.masked_fill(settled & ~lower, int(AlignmentStatus.DIVERGED))
    margin = 0 if problem.method.robust is None else ROBUST_MARGIN
    better = converged | (accepted & (sums.cost < (1 + margin) * state.least))
    return State(
        increment=increment,
        sums=sums,
        corners=points,
        damping=damping,
        best=_where(better, increment, state.best),
        error=torch.where(better, sums.error, state.error),
        least=torch.where(accepted, state.least.minimum(sums.cost), state.least),
        limit=state.limit,
        status=status,
        iterations=state.iterations + going,
        running=going & ~settled,
    )


def _nearer(points: Tensor, others: Tensor, tol: float) -> Tensor:
    """Say of which samples (B,) no corner (B, 2, 4) is as far as ``tol`` from where it was."""
    return (points - others).square().sum(-2).amax(-1) < tol**2


def _limit(problem: Problem, initial: Tensor) -> Tensor:
    """Return the cost above which an end is worse than a start of the cost ``initial``."""
    margin = MARGIN if problem.method.robust is None else ROBUST_MARGIN
    return (1 + margin) * initial + problem.template.slack


def _rounding(problem: Problem, objective: Tensor) -> Tensor:
    if problem.method.robust is None:
        return problem.template.slack
    return 1e-6 * objective


def _finish(state: State) -> State:
    risen = state.running & (state.sums.cost > state.limit)
    status = torch.where(risen, int(AlignmentStatus.DIVERGED), state.status)
    # Without an estimate there is nothing to differentiate.
    found = status <= int(AlignmentStatus.ITERATION_LIMIT)
    best = torch.where(found[:, None, None], state.best, state.best.detach())
    return state._replace(status=status, best=best)


def _put(whole: State, part: State, rows: Tensor | None) -> State:
    """Write the rows of a part of the batch back."""
    if rows is None:
        return part
    return each(lambda old, new: old.index_copy(0, rows, new), whole, part)


def iterate(problem: Problem, iterations: int, tol: float, initial: Tensor | None = None) -> State:
    """Run the batch until every sample has ended, or for all ``iterations`` if ``tol`` is 0.

    ``initial`` (B,) is what the cost at the end is held against, if not that of the start.
    """
    whole = state = _begin(problem, initial)
    rows = None  # which of the whole batch are still looked at; None: all
    for _ in range(iterations):
        if tol > 0:  # the one place that waits for the device
            number = int(state.running.sum())
            if number == 0:
                break
            if state.running.device.type == "cpu" and number <= len(state.running) / 2:
                # The samples that have ended go, as soon as that saves half of the work.
                left = state.running.nonzero()[:, 0]
                whole = _put(whole, state, rows)
                rows = left if rows is None else rows[left]
                problem = problem.rows(left)
                state = each(lambda field, left=left: field[left], state)
        state = _advance(problem, state, tol)
    return _finish(_put(whole, state, rows))
