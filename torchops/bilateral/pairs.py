"""Sums over all pairs of neighbouring pixels, each weight computed once for both pixels of a pair.

The weight of a pair is symmetric, w_pq = w_qp, so half of the window's offsets are enough: what p
gives to q and what q gives to p share one exponential. Pixels lie in one flat axis of padded rows,
where every offset of the window is a shift by a constant number of elements; work proceeds in
contiguous chunks of that axis which stay in the cache, and no intermediate outgrows the image.

The matrix of the weights is symmetric, so the gradient with respect to what is summed is the same
sum over the incoming gradient, and the backward recomputes the weights as the forward did.

    sums_p = sources_p + sum over q of w_pq sources_q
    w_pq = 2^(exponent of the offset - sharpness * distance(guide_p, guide_q)^2)

Arrays: ``sources`` (B, S, N); ``guide`` (B, D, N); ``sharpness`` (B,); ``exponents`` (B, K), one
per offset; ``deltas``, the K positive flat offsets, 0 where the window leaves an offset out. The
first and last max(deltas) positions are margin: the sums are complete everywhere else. Powers of
two instead of exponentials because ``torch.exp2`` takes half the time of ``torch.exp`` on CPUs.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 1 << 18  # elements per work array: fewer pay for dispatch, more for leaving the cache


def pair_sums(
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    deltas: tuple[int, ...],
    distance: str,
    differentiable: int,
) -> Tensor:
    """Return the sums (B, S, N), differentiable in all four arrays.

    Args:
        sources: What is summed.
        guide: What is compared.
        sharpness: Factor of the squared distance in the exponents.
        exponents: Spatial part of the exponents.
        deltas: Flat offsets.
        distance: "l2" or "l1" across the channels of ``guide``.
        differentiable: Only that many leading channels of ``sources`` get a gradient; the others
            are taken for constants, which saves their share of the backward.
    """
    return _PairSums.apply(sources, guide, sharpness, exponents, deltas, distance, differentiable)


def _fold(info: Any, in_dims: tuple[Any, ...], arrays: tuple[Tensor, ...]) -> list[Tensor]:
    """Make the dimension of vmap part of the batch, so that work in place stays possible."""
    folded = []
    for array, dim in zip(arrays, in_dims, strict=False):
        if dim is None:
            array = array.expand(info.batch_size, *array.shape)
        else:
            array = array.movedim(dim, 0)
        folded.append(array.flatten(0, 1))
    return folded


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(
        sources: Tensor,
        guide: Tensor,
        sharpness: Tensor,
        exponents: Tensor,
        deltas: tuple[int, ...],
        distance: str,
        differentiable: int,
    ) -> Tensor:
        # A compiler fuses whole taps by itself; chunks would only tie its code to one size.
        if torch.compiler.is_compiling():
            return _traceable_sums(sources, guide, sharpness, exponents, deltas, distance)
        return _chunked_sums(sources, guide, sharpness, exponents, deltas, distance)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.deltas, ctx.distance, ctx.differentiable = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        sums = _PairSums.apply(*_fold(info, in_dims, inputs[:4]), *inputs[4:])
        return sums.unflatten(0, (info.batch_size, sums.shape[0] // info.batch_size)), 0

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        needs = tuple(ctx.needs_input_grad[:4])
        sources, *others = ctx.saved_tensors
        channels = ctx.differentiable
        grads = iter(
            _PairGradients.apply(
                upstream, sources, *others, ctx.deltas, ctx.distance, channels, needs
            )
        )
        found = [next(grads) if need else None for need in needs]
        if found[0] is not None:
            found[0] = pad(found[0], (0, 0, 0, sources.shape[1] - channels))
        return (*found, None, None, None)


class _PairGradients(torch.autograd.Function):
    """The first derivatives of `_PairSums`, as a function that can be differentiated again."""

    @staticmethod
    def forward(
        upstream: Tensor,
        sources: Tensor,
        guide: Tensor,
        sharpness: Tensor,
        exponents: Tensor,
        deltas: tuple[int, ...],
        distance: str,
        channels: int,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        arrays = (upstream, sources, guide, sharpness, exponents)
        if torch.compiler.is_compiling():
            return _traceable_gradients(arrays, deltas, distance, channels, needs)
        return _chunked_gradients(arrays, deltas, distance, channels, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.deltas, ctx.distance, ctx.channels, ctx.needs = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        grads = _PairGradients.apply(*_fold(info, in_dims, inputs[:5]), *inputs[5:])
        return tuple(
            g.unflatten(0, (info.batch_size, g.shape[0] // info.batch_size)) for g in grads
        ), (0,) * len(grads)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        # One offset at a time: second derivatives do not cost k^2 memory either.
        arrays = ctx.saved_tensors
        total = [torch.zeros_like(array) for array in arrays]
        if ctx.needs[0]:  # the centre passes its gradient straight through
            dropped = arrays[0].shape[1] - ctx.channels
            total[0] = pad(cotangents[0], (0, 0, 0, dropped))
        for k, delta in _taps(ctx.deltas):
            tap = partial(
                _tap_gradients,
                k=k,
                delta=delta,
                distance=ctx.distance,
                channels=ctx.channels,
                needs=ctx.needs,
            )
            pull = torch.func.vjp(tap, *arrays)[1]
            total = [t + g for t, g in zip(total, pull(cotangents), strict=True)]
        return (*total, None, None, None, None)


def _taps(deltas: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(k, delta) for k, delta in enumerate(deltas) if delta]


# --- The definition, offset by offset, in differentiable operations ------------------------------


def _compare(guide: Tensor, delta: int, distance: str) -> tuple[Tensor, Tensor]:
    """Return the squared distance (B, 1, N - delta) of all pairs, and half its gradient."""
    difference = guide[..., delta:] - guide[..., :-delta]
    if distance == "l2":
        return difference.square().sum(1, keepdim=True), difference
    length = difference.abs().sum(1, keepdim=True)
    return length.square(), length * difference.sign()


def _traceable_sums(
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    deltas: tuple[int, ...],
    distance: str,
) -> Tensor:
    total = sources
    for k, delta in _taps(deltas):
        squared, _ = _compare(guide, delta, distance)
        weight = (exponents[:, k, None, None] - sharpness[:, None, None] * squared).exp2()
        total = total + pad(weight * sources[..., delta:], (0, delta))
        total = total + pad(weight * sources[..., :-delta], (delta, 0))
    return total


def _tap_gradients(
    upstream: Tensor,
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    *,
    k: int,
    delta: int,
    distance: str,
    channels: int,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Return what the pairs of one offset add to the needed gradients."""
    squared, slope = _compare(guide, delta, distance)
    weight = (exponents[:, k, None, None] - sharpness[:, None, None] * squared).exp2()
    to_near = weight * upstream[..., delta:]
    to_far = weight * upstream[..., :-delta]
    # The derivative of the loss by the logarithm of the pair's weight.
    shared = to_near * sources[..., :-delta] + to_far * sources[..., delta:]
    shared = math.log(2) * shared.sum(1, keepdim=True)
    found = []
    if needs[0]:
        found.append(pad(to_near[:, :channels], (0, delta)) + pad(to_far[:, :channels], (delta, 0)))
    if needs[1]:
        pull = 2 * sharpness[:, None, None] * shared * slope
        found.append(pad(pull, (0, delta)) - pad(pull, (delta, 0)))
    if needs[2]:
        found.append(-(shared * squared).sum((1, 2)))
    if needs[3]:
        found.append(pad(shared.sum(-1), (k, exponents.shape[1] - 1 - k)))
    return tuple(found)


def _traceable_gradients(
    arrays: tuple[Tensor, ...],
    deltas: tuple[int, ...],
    distance: str,
    channels: int,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    centre = arrays[0][:, :channels].clone()
    start = [centre, *(torch.zeros_like(array) for array in arrays[2:])]
    total = [array for array, need in zip(start, needs, strict=True) if need]
    for k, delta in _taps(deltas):
        found = _tap_gradients(
            *arrays, k=k, delta=delta, distance=distance, channels=channels, needs=needs
        )
        total = [t + f for t, f in zip(total, found, strict=True)]
    return tuple(total)


# --- The same in place, chunk by chunk -----------------------------------------------------------


def _chunks(
    sources: Tensor, deltas: tuple[int, ...]
) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Yield ranges of pixels, each with its pairs: (offset number, range of the partners).

    A GPU takes the whole image as one range. Ranges leave out the margin at the end: its pixels
    have no later partner whose sum is complete.
    """
    batch, channels, size = sources.shape
    end = size - max(deltas, default=0)
    step = max(CHUNK // max(batch * channels, 1), 2048) if sources.device.type == "cpu" else end
    taps = _taps(deltas)
    for start in range(0, end, step):
        stop = min(start + step, end)
        yield slice(start, stop), [(k, slice(start + d, stop + d)) for k, d in taps]


def _chunk_compare(near: Tensor, far: Tensor, distance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squared distance of the pairs, the difference, and its length (l1 only)."""
    difference = far - near
    first, *rest = difference.split(1, 1)
    if distance == "l1" and rest:
        length = difference.abs().sum(1, keepdim=True)
        return length.square(), difference, length
    squared = first.square()
    for other in rest:
        squared.addcmul_(other, other)
    return squared, difference, first


def _chunked_sums(
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    deltas: tuple[int, ...],
    distance: str,
) -> Tensor:
    sums = sources.clone(memory_format=torch.contiguous_format)
    blunt = -sharpness[:, None, None]
    exponent = exponents[..., None, None].unbind(1)
    for here, pairs in _chunks(sources, deltas):
        near_guide, near_sources, near_sums = guide[..., here], sources[..., here], sums[..., here]
        for k, there in pairs:
            squared, _, _ = _chunk_compare(near_guide, guide[..., there], distance)
            weight = torch.addcmul(exponent[k], squared, blunt).exp2_()
            near_sums.addcmul_(weight, sources[..., there])
            sums[..., there].addcmul_(weight, near_sources)
    return sums


def _chunked_gradients(
    arrays: tuple[Tensor, ...],
    deltas: tuple[int, ...],
    distance: str,
    channels: int,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    upstream, sources, guide, sharpness, exponents = arrays
    grad_sources = upstream[:, :channels].clone(memory_format=torch.contiguous_format)
    grad_guide = torch.zeros_like(guide)
    # One sum per offset and quantity; small tensors kept in a list would fragment the heap.
    grad_sharpness = torch.zeros_like(exponents)
    grad_exponents = torch.zeros_like(exponents)
    blunt = -sharpness[:, None, None]
    exponent = exponents[..., None, None].unbind(1)
    for here, pairs in _chunks(sources, deltas):
        near_guide, near_sources, near_up = (
            guide[..., here],
            sources[..., here],
            upstream[..., here],
        )
        for k, there in pairs:
            far_up = upstream[..., there]
            squared, difference, length = _chunk_compare(near_guide, guide[..., there], distance)
            weight = torch.addcmul(exponent[k], squared, blunt).exp2_()
            if needs[0]:
                grad_sources[..., here].addcmul_(weight, far_up[:, :channels])
                grad_sources[..., there].addcmul_(weight, near_up[:, :channels])
            if not any(needs[1:]):
                continue
            product = (far_up * near_sources).addcmul_(near_up, sources[..., there])
            shared = product.sum(1, keepdim=True).mul_(weight)
            if needs[2]:
                grad_sharpness[:, k] -= squared.mul_(shared).sum((1, 2))
            if needs[3]:
                grad_exponents[:, k] += shared.sum((1, 2))
            if needs[1]:
                slope = difference if distance == "l2" else difference.sign().mul_(length.abs())
                grad_guide[..., here].addcmul_(shared, slope)
                grad_guide[..., there].addcmul_(shared, slope, value=-1)
    found = (
        grad_sources,
        grad_guide.mul_(-2 * math.log(2) * blunt),
        grad_sharpness.sum(1) * math.log(2),
        grad_exponents * math.log(2),
    )
    return tuple(g for g, need in zip(found, needs, strict=True) if need)
