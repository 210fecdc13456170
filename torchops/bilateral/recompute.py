"""Functions that keep nothing for the backward: it computes them again.

Cut into strips of such functions, an op needs memory for a strip's intermediates only, instead of
for all of them at once. What is recomputed is made of differentiable operations, so that the
backward can be differentiated, mapped and transformed as well.

These functions must not be nested: torch.func cannot map the backward of one inside another.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Stage = Callable[..., Tensor]


def recomputed(stages: Sequence[Sequence[Stage]], *tensors: Tensor) -> Tensor:
    """Return what a chain of stages makes of ``tensors``.

    A stage is a list of functions, each of which returns a strip; strips are joined along dim 2.
    The functions of the first stage are called with ``tensors``, those of a later one with the
    joined result of the stage before and ``tensors``. They must not use any other tensor that has
    a gradient.
    """
    # A compiler decides by itself what to keep.
    if torch.compiler.is_compiling() or not differentiated(*tensors):
        return _run(stages, tensors)[-1]
    return _Recomputed.apply(stages, *tensors)


def differentiated(*tensors: Tensor) -> bool:
    """Say whether a backward may follow."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def joined(strips: Sequence[Tensor]) -> Tensor:
    """Join strips along dim 2."""
    return strips[0] if len(strips) == 1 else torch.cat(list(strips), 2)


def _run(stages: Sequence[Sequence[Stage]], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the result of each stage."""
    results: list[Tensor] = []
    for functions in stages:
        results.append(joined([f(*results[-1:], *tensors) for f in functions]))
    return results


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(stages: Sequence[Sequence[Stage]], *tensors: Tensor) -> Tensor:
        return _run(stages, tensors)[-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.stages, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad[1:]
        needed = [t for t, need in zip(tensors, needs, strict=True) if need]
        results = _run(ctx.stages[:-1], tensors)
        total: list[Tensor] = []
        for k in reversed(range(len(ctx.stages))):
            before = results[k - 1 : k] if k else []
            found: list[Tensor] = []
            start = 0
            for function in ctx.stages[k]:
                of_needed = _of_needed(function, tensors, needs, len(before))
                length, grads = _pulled(of_needed, (*before, *needed), upstream, start)
                found = _added(found, grads)
                start += length
            results = results[:-1]
            upstream, found = (found[0], found[1:]) if before else (upstream, found)
            total = _added(total, found)
        rest = iter(total)
        return (None, *(next(rest) if need else None for need in needs))


def _pulled(
    function: Stage, tensors: Sequence[Tensor], upstream: Tensor, start: int
) -> tuple[int, Sequence[Tensor]]:
    """Return the length of a strip, and the gradients by ``tensors``.

    A function of its own, so that what it made is freed before the next strip.
    """
    strip, pull, *_ = torch.func.vjp(function, *tensors)
    length = strip.shape[2]
    return length, pull(upstream.narrow(2, start, length))


def _of_needed(
    function: Stage, tensors: Sequence[Tensor], needs: Sequence[bool], before: int
) -> Stage:
    """Make a function of those tensors alone that need a gradient."""

    def of_needed(*given: Tensor) -> Tensor:
        rest = iter(given[before:])
        everything = (next(rest) if need else t for t, need in zip(tensors, needs, strict=True))
        return function(*given[:before], *everything)

    return of_needed


def _added(total: Sequence[Tensor], terms: Sequence[Tensor]) -> list[Tensor]:
    if not total:
        return list(terms)
    return [a + b for a, b in zip(total, terms, strict=True)]
