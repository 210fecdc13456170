"""Sums over all pairs of neighbouring pixels, each weight computed once for both pixels of a pair.

The weight of a pair is symmetric, w_pq = w_qp, so half of the window's offsets are enough: what p
gives to q and what q gives to p share one exponential. Pixels lie in one flat axis of padded rows,
where every offset of the window is a shift by a constant number of elements; work proceeds in
contiguous chunks of that axis which stay in the cache, and no intermediate outgrows the image.

The matrix of the weights is symmetric, so the gradient with respect to what is summed is the same
sum over the incoming gradient, and the backward recomputes the weights as the forward did.

    sums_p = sources_p + sum over q of w_pq sources_q
    total_p = 1 + sum over q of w_pq
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
    ones: bool,
) -> Tensor:
    """Return the sums (B, S, N) or, with ``ones``, sums and total (B, S + 1, N).

    Differentiable in all four arrays, any order.

    Args:
        sources: What is summed.
        guide: What is compared.
        sharpness: Factor of the squared distance in the exponents.
        exponents: Spatial part of the exponents.
        deltas: Flat offsets.
        distance: "l2" or "l1" across the channels of ``guide``.
        ones: Sum the weights too, as if the last channel of ``sources`` were 1.
    """
    return _PairSums.apply(sources, guide, sharpness, exponents, deltas, distance, ones)


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
        ones: bool,
    ) -> Tensor:
        # A compiler fuses whole taps by itself; chunks would only tie its code to one size.
        sums = _traceable_sums if torch.compiler.is_compiling() else _chunked_sums
        return sums(sources, guide, sharpness, exponents, deltas, distance, ones)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.deltas, ctx.distance, ctx.ones = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        sums = _PairSums.apply(*_fold(info, in_dims, inputs[:4]), *inputs[4:])
        return sums.unflatten(0, (info.batch_size, sums.shape[0] // info.batch_size)), 0

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        needs = tuple(ctx.needs_input_grad[:4])
        grads = iter(
            _PairGradients.apply(
                upstream, *ctx.saved_tensors, ctx.deltas, ctx.distance, ctx.ones, needs
            )
        )
        return (*(next(grads) if need else None for need in needs), None, None, None)


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
        ones: bool,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        arrays = (upstream, sources, guide, sharpness, exponents)
        compiling = torch.compiler.is_compiling()
        gradients = _traceable_gradients if compiling else _chunked_gradients
        return gradients(arrays, deltas, distance, ones, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.deltas, ctx.distance, ctx.ones, ctx.needs = inputs
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
            total[0] = pad(cotangents[0], (0, 0, 0, int(ctx.ones)))
        for k, delta in _taps(ctx.deltas):
            tap = partial(
                _tap_gradients,
                k=k,
                delta=delta,
                distance=ctx.distance,
                ones=ctx.ones,
                needs=ctx.needs,
            )
            pull = torch.func.vjp(tap, *arrays)[1]
            total = [t + g for t, g in zip(total, pull(cotangents), strict=True)]
        return (*total, None, None, None, None)


def _taps(deltas: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(k, delta) for k, delta in enumerate(deltas) if delta]


# --- The definition, offset by offset, in differentiable operations ------------------------------


def _compare(difference: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """Return the squared distances (B, 1, n) of guide differences, and half their gradient."""
    if distance == "l2":
        return difference.square().sum(1, keepdim=True), difference
    length = difference.abs().sum(1, keepdim=True)
    return length.square(), length * difference.sign()


def _with_ones(sources: Tensor, ones: bool) -> Tensor:
    return torch.cat([sources, torch.ones_like(sources[:, :1])], 1) if ones else sources


def _traceable_sums(
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    deltas: tuple[int, ...],
    distance: str,
    ones: bool,
) -> Tensor:
    # Centre by centre, both partners of a pair, and the channels one by one, so that they share
    # their weight: a compiler makes one loop over the image of it.
    size = sources.shape[-1]
    channels = sources.split(1, 1)
    margin = max(deltas, default=0)
    end = size - margin
    own = guide[..., margin:end]
    sums = [channel[..., margin:end] for channel in channels]
    total = torch.ones_like(sums[0])
    for k, delta in _taps(deltas):
        for shift in (delta, -delta):
            here = slice(margin + shift, end + shift)
            squared, _ = _compare(guide[..., here] - own, distance)
            weight = (exponents[:, k, None, None] - sharpness[:, None, None] * squared).exp2()
            sums = [s + weight * c[..., here] for s, c in zip(sums, channels, strict=True)]
            total = total + weight
    return pad(torch.cat([*sums, total] if ones else sums, 1), (margin, margin))


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
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Return what the pairs of one offset add to the needed gradients."""
    channels = sources.shape[1]
    sources = _with_ones(sources, ones)
    squared, slope = _compare(guide[..., delta:] - guide[..., :-delta], distance)
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
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    centre = arrays[0][:, : arrays[1].shape[1]].clone()
    start = [centre, *(torch.zeros_like(array) for array in arrays[2:])]
    total = [array for array, need in zip(start, needs, strict=True) if need]
    for k, delta in _taps(deltas):
        found = _tap_gradients(*arrays, k=k, delta=delta, distance=distance, ones=ones, needs=needs)
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


class _Weights:
    """The weights of pairs of ranges, computed in work arrays that every chunk uses again."""

    def __init__(
        self, guide: Tensor, sharpness: Tensor, exponents: Tensor, distance: str, length: int
    ) -> None:
        self.guide, self.distance = guide, distance
        self.exponents = exponents[..., None, None].unbind(1)
        self.blunt = -sharpness[:, None, None]
        # One number for all samples is multiplied in the same pass. A GPU would wait for it.
        shared = sharpness.device.type == "cpu" and (
            len(sharpness) == 1 or sharpness.stride(0) == 0
        )
        self.number = float(self.blunt[0]) if shared and len(sharpness) else None
        self.difference = guide.new_empty(*guide.shape[:2], length)
        self.weight = guide.new_empty(len(guide), 1, length)
        self.length = self.weight  # replaced where l1 needs a third work array
        if distance == "l1" and guide.shape[1] > 1:
            self.length = torch.empty_like(self.weight)

    def __call__(self, k: int, here: slice, there: slice) -> tuple[Tensor, Tensor]:
        """Return weights (B, 1, n) and guide differences (B, D, n); valid until the next call."""
        size = here.stop - here.start
        difference, weight = self.difference[..., :size], self.weight[..., :size]
        torch.sub(self.guide[..., there], self.guide[..., here], out=difference)
        parts = difference.split(1, 1)
        if self.length is not self.weight:
            length = self.length[..., :size]
            torch.abs(parts[0], out=length)
            for part in parts[1:]:
                length += torch.abs(part, out=weight)
            parts = (length,)
        exponent: Tensor = self.exponents[k]
        if self.number is not None:
            for part in parts:
                exponent = torch.addcmul(exponent, part, part, value=self.number, out=weight)
        else:
            torch.mul(parts[0], parts[0], out=weight)
            for part in parts[1:]:
                weight.addcmul_(part, part)
            torch.addcmul(exponent, weight, self.blunt, out=weight)
        return weight.exp2_(), difference

    def squared(self, difference: Tensor) -> Tensor:
        """Return the squared distances of the last call."""
        if self.length is not self.weight:
            return self.length[..., : difference.shape[-1]].square()
        return difference.square().sum(1, keepdim=True)

    def slope(self, difference: Tensor) -> Tensor:
        """Return half the gradient of the squared distances of the last call."""
        if self.length is not self.weight:
            return difference.sign().mul_(self.length[..., : difference.shape[-1]])
        return difference


def _chunked_sums(
    sources: Tensor,
    guide: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    deltas: tuple[int, ...],
    distance: str,
    ones: bool,
) -> Tensor:
    batch, channels, size = sources.shape
    result = sources.new_empty(batch, channels + ones, size)
    sums, total = result[:, :channels].copy_(sources), result[:, channels:].fill_(1)
    chunks = list(_chunks(sources, deltas))
    longest = max((here.stop - here.start for here, _ in chunks), default=0)
    weights = _Weights(guide, sharpness, exponents, distance, longest)
    for here, pairs in chunks:
        near_sources, near_sums, near_total = sources[..., here], sums[..., here], total[..., here]
        for k, there in pairs:
            weight, _ = weights(k, here, there)
            near_sums.addcmul_(weight, sources[..., there])
            sums[..., there].addcmul_(weight, near_sources)
            if ones:
                near_total += weight
                total[..., there] += weight
    return result


def _chunked_gradients(
    arrays: tuple[Tensor, ...],
    deltas: tuple[int, ...],
    distance: str,
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    upstream, sources, guide, sharpness, exponents = arrays
    upstream, up_total = upstream.split([sources.shape[1], int(ones)], 1)
    grad_sources = upstream.clone(memory_format=torch.contiguous_format)
    grad_guide = torch.zeros_like(guide) if needs[1] else guide
    # One sum per offset and quantity; small tensors kept in a list would fragment the heap.
    grad_sharpness = torch.zeros_like(exponents)
    grad_exponents = torch.zeros_like(exponents)
    chunks = list(_chunks(sources, deltas))
    longest = max((here.stop - here.start for here, _ in chunks), default=0)
    weights = _Weights(guide, sharpness, exponents, distance, longest)
    for here, pairs in chunks:
        near_sources, near_up = sources[..., here], upstream[..., here]
        for k, there in pairs:
            far_sources, far_up = sources[..., there], upstream[..., there]
            weight, difference = weights(k, here, there)
            if needs[0]:
                grad_sources[..., here].addcmul_(weight, far_up)
                grad_sources[..., there].addcmul_(weight, near_up)
            if not any(needs[1:]):
                continue
            product = (far_up * near_sources).addcmul_(near_up, far_sources)
            shared = product if product.shape[1] == 1 else product.sum(1, keepdim=True)
            if ones:
                shared += up_total[..., here]
                shared += up_total[..., there]
            shared *= weight
            if needs[2]:
                squared = weights.squared(difference)
                grad_sharpness[:, k] -= squared.mul_(shared).sum((1, 2))
            if needs[3]:
                grad_exponents[:, k] += shared.sum((1, 2))
            if needs[1]:
                slope = weights.slope(difference)
                grad_guide[..., here].addcmul_(shared, slope)
                grad_guide[..., there].addcmul_(shared, slope, value=-1)
    found = (
        grad_sources,
        grad_guide.mul_(2 * math.log(2) * sharpness[:, None, None]) if needs[1] else grad_guide,
        grad_sharpness.sum(1) * math.log(2),
        grad_exponents * math.log(2),
    )
    return tuple(g for g, need in zip(found, needs, strict=True) if need)
