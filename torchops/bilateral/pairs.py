"""Weighted means over all pairs of neighbouring pixels, each weight computed for both of a pair.

The weight of a pair is symmetric, w_pq = w_qp, so half of the window's offsets are enough: what p
gives to q and what q gives to p share one exponential. The matrix of the weights is symmetric, so
the gradient with respect to what is summed is the same sum over the incoming gradient. The backward
recomputes the weights as the forward did, and no intermediate outgrows the image::

    means_p = sums_p / total_p
    sums_p = sources_p + sum over q of w_pq sources_q
    total_p = 1 + sum over q of w_pq, or the last channel of the sums where that counts the sources
    w_pq = 2^(exponent of the offset - sharpness * distance(guide_p, guide_q)^2)

The division belongs to the function so that nothing but its own output and ``total`` is kept for
it. ``total`` is infinite where the mean is 0 by definition.

Padding is part of the function too, so that a backward makes the padded arrays again.

Arrays: ``sources`` (B, S, *padded), S = C or, with counts, C + 1; ``guide`` (B, D, *padded), None
where the sources are their own; ``finite`` (B, 1, *spatial), boolean; ``sharpness`` (B,);
``exponents`` (B, K), one per offset of the half window; ``taps``, number and offset of those that
the window keeps. Padded arrays have margins of ``radii``. Powers of two instead of exponentials
because ``torch.exp2`` takes half the time of ``torch.exp`` on CPUs.
"""

import math
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchops.bilateral.chunks import Layout, Taps, chunked_gradients, chunked_means


@runtime_checkable
class Padding(Protocol):
    """How an image and its guide become sources and guide, and how gradients go back."""

    def prepare(self, image: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return sources, guide (None: the sources) and finite."""
        ...

    def restore(self, gradient: Tensor, finite: Tensor) -> Tensor:
        """Take the gradient by a padded array, which is used up, to the one by the array."""
        ...


def pair_means(
    sources: Tensor,
    guide: Tensor | None,
    finite: Tensor | None,
    sharpness: Tensor,
    exponents: Tensor,
    radii: tuple[int, ...],
    taps: Taps,
    distance: str,
    ones: bool,
    padding: Padding | None = None,
) -> Tensor:
    """Return the means (B, C, *spatial); differentiable in all floating arrays, any order.

    Args:
        sources: What is averaged; without ``ones`` its last channel says how much each counts.
        guide: What is compared; None for the sources.
        finite: Where the mean is not 0 by definition.
        sharpness: Factor of the squared distance in the exponents.
        exponents: Spatial part of the exponents.
        radii: Margins of sources and guide.
        taps: Which offsets: (number in ``exponents``, offset), each later in raster order than 0.
        distance: "l2" or "l1" across the channels of ``guide``.
        ones: Every source counts 1.
        padding: Makes sources, guide and finite of an image and its guide, given in their places.
            The backward makes them again, so that no padded array is kept.
    """
    arrays = (sources, guide, finite, sharpness, exponents)
    return _PairMeans.apply(*arrays, radii, taps, distance, ones, padding)[0]


def _fold(
    info: Any, in_dims: tuple[Any, ...], arrays: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Make the dimension of vmap part of the batch, so that work in place stays possible."""
    folded: list[Tensor | None] = []
    for array, dim in zip(arrays, in_dims, strict=False):
        if array is not None:
            if dim is None:
                array = array.expand(info.batch_size, *array.shape)
            else:
                array = array.movedim(dim, 0)
            array = array.flatten(0, 1)
        folded.append(array)
    return folded


def _unfold(info: Any, arrays: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = info.batch_size
    return tuple(x.unflatten(0, (size, x.shape[0] // size)) for x in arrays), (0,) * len(arrays)


class _PairMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        sources: Tensor,
        guide: Tensor | None,
        finite: Tensor | None,
        sharpness: Tensor,
        exponents: Tensor,
        radii: tuple[int, ...],
        taps: Taps,
        distance: str,
        ones: bool,
        padding: Padding | None,
    ) -> tuple[Tensor, Tensor]:
        if padding is not None:
            sources, guide, finite = padding.prepare(sources, guide)
        assert finite is not None
        # A compiler fuses whole taps by itself; chunks would only tie its code to one size.
        means = _traceable_means if torch.compiler.is_compiling() else chunked_means
        return means(sources, guide, finite, sharpness, exponents, radii, taps, distance, ones)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*output, *inputs[:2], *inputs[3:5])
        ctx.options, ctx.padding = inputs[5:9], inputs[9]
        if not torch.compiler.is_compiling():  # which does not know the method
            ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _unfold(info, _PairMeans.apply(*_fold(info, in_dims, inputs[:5]), *inputs[5:]))

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        means, total, *arrays, sharpness, exponents = ctx.saved_tensors
        if gradient is None:
            gradient = torch.zeros_like(means)
        if ctx.padding is not None:
            *arrays, finite = ctx.padding.prepare(*arrays)
        first, second, _, third, fourth = ctx.needs_input_grad[:5]
        needs = (first, second, third, fourth)
        upstream = (gradient, means, total, grad_total)
        grads = list(
            _PairGradients.apply(*upstream, *arrays, sharpness, exponents, *ctx.options, needs)
        )
        del arrays  # leaving the margins takes memory too
        if ctx.padding is not None:
            for _ in range(first + second):
                grads.append(ctx.padding.restore(grads.pop(0), finite))
            grads = [*grads[third + fourth :], *grads[: third + fourth]]
        found = iter(grads)
        first, second, third, fourth = (next(found) if need else None for need in needs)
        return (first, second, None, third, fourth, None, None, None, None, None)


class _PairGradients(torch.autograd.Function):
    """The first derivatives of `_PairMeans`, as a function that can be differentiated again.

    ``means`` and ``total`` are arguments like the others: what depends on the sources through them
    is the derivative of `_PairMeans` again.
    """

    @staticmethod
    def forward(
        gradient: Tensor,
        means: Tensor,
        total: Tensor,
        grad_total: Tensor | None,
        sources: Tensor,
        guide: Tensor | None,
        sharpness: Tensor,
        exponents: Tensor,
        radii: tuple[int, ...],
        taps: Taps,
        distance: str,
        ones: bool,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:
        upstream = [x for x in (gradient, means, total, grad_total) if x is not None]
        gradients = _traceable_gradients if torch.compiler.is_compiling() else chunked_gradients
        return gradients(
            upstream, sources, guide, sharpness, exponents, radii, taps, distance, ones, needs
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:8])
        ctx.radii, ctx.taps, ctx.distance, ctx.ones, ctx.needs = inputs[8:]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _unfold(info, _PairGradients.apply(*_fold(info, in_dims, inputs[:8]), *inputs[8:]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        # One offset at a time: second derivatives do not cost k^2 memory either.
        saved = ctx.saved_tensors
        first = [x for x in saved[:4] if x is not None]
        spread = partial(_padded_upstream, radii=ctx.radii)
        upstream, pull_first = torch.func.vjp(spread, *first)[:2]
        present = [x for x in saved[4:] if x is not None]
        flat = [upstream, *(x.flatten(2) if x.ndim > 2 else x for x in present)]
        total = [torch.zeros_like(array) for array in flat]
        cotangents = tuple(c.flatten(2) if c.ndim > 2 else c for c in cotangents)
        if ctx.needs[0]:  # the centre passes its gradient straight through
            total[0] = pad(cotangents[0], (0, 0, 0, int(ctx.ones)))
        for k, delta in _shifts(saved[4], ctx.radii, ctx.taps):
            tap = partial(
                _tap_gradients,
                k=k,
                delta=delta,
                distance=ctx.distance,
                ones=ctx.ones,
                needs=ctx.needs,
            )
            pull = torch.func.vjp(tap, *flat)[1]
            total = [t + g for t, g in zip(total, pull(cotangents), strict=True)]
        found = iter((*pull_first(total[0]), *total[1:]))
        grads = [None if x is None else next(found).reshape(x.shape) for x in saved]
        return (*grads, None, None, None, None, None)


# --- The definition, offset by offset, in differentiable operations ------------------------------


def _shifts(sources: Tensor, radii: tuple[int, ...], taps: Taps) -> list[tuple[int, int]]:
    """Return the taps with their offsets in a flat spatial axis."""
    layout = Layout.of(tuple(sources.shape[2:]), radii)
    return [(k, layout.shift(offset)) for k, offset in taps]


def _padded_upstream(
    gradient: Tensor,
    means: Tensor,
    total: Tensor,
    grad_total: Tensor | None = None,
    *,
    radii: tuple[int, ...],
) -> Tensor:
    """Return the gradient by sums and weight sums (B, C + 1, N), 0 in the margins."""
    some = total != torch.inf
    quotient = torch.where(some, gradient / total, 0)
    rest = -(quotient * means).sum(1, keepdim=True)
    if grad_total is not None:
        rest = rest + torch.where(some, grad_total, 0)
    widths = [width for radius in reversed(radii) for width in (radius, radius)]
    return pad(torch.cat([quotient, rest], 1), widths).flatten(2)


def _compare(difference: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """Return the squared distances (B, 1, n) of guide differences, and half their gradient."""
    if distance == "l2":
        return difference.square().sum(1, keepdim=True), difference
    length = difference.abs().sum(1, keepdim=True)
    return length.square(), length * difference.sign()


def _with_ones(sources: Tensor, ones: bool) -> Tensor:
    return torch.cat([sources, torch.ones_like(sources[:, :1])], 1) if ones else sources


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2^exponent for exponents <= 0, for a compiler to fuse.

    On a CPU in float32 by a polynomial, whose error is one rounding: a third less work than the
    vectorised exp2 that the compiler calls.
    """
    if exponent.dtype != torch.float32 or exponent.device.type != "cpu":
        return exponent.exp2()
    exponent = exponent.clamp(min=-127)  # whose power comes out as 0
    whole = exponent.round()
    rest = (exponent - whole) * math.log(2)
    power = torch.full_like(rest, 1 / math.factorial(6))
    for degree in reversed(range(6)):
        power = power * rest + 1 / math.factorial(degree)
    return power * ((whole.to(torch.int32) + 127) << 23).view(torch.float32)


def _traceable_means(
    sources: Tensor,
    guide: Tensor | None,
    finite: Tensor,
    sharpness: Tensor,
    exponents: Tensor,
    radii: tuple[int, ...],
    taps: Taps,
    distance: str,
    ones: bool,
) -> tuple[Tensor, Tensor]:
    # Centre by centre, both partners of a pair, and the channels one by one, so that they share
    # their weight: a compiler makes one loop over the image of it.
    guide = sources if guide is None else guide
    channels = sources.split(1, 1)
    size = finite.shape[2:]

    def shifted(array: Tensor, offset: tuple[int, ...]) -> Tensor:
        for dim, (length, radius, o) in enumerate(zip(size, radii, offset, strict=True), start=2):
            array = array.narrow(dim, radius + o, length)
        return array

    centre = (0,) * len(radii)
    own = shifted(guide, centre)
    sums = [shifted(channel, centre) for channel in channels]
    if ones:
        sums.append(torch.ones_like(sums[0]))
    along = (1,) * len(radii)
    blunt = sharpness.reshape(-1, 1, *along)
    for k, offset in taps:
        exponent = exponents[:, k].reshape(-1, 1, *along)
        for there in (offset, tuple(-o for o in offset)):
            squared, _ = _compare(shifted(guide, there) - own, distance)
            weight = _power_of_two(exponent - blunt * squared)
            terms = [weight * shifted(channel, there) for channel in channels]
            if ones:
                terms.append(weight)
            sums = [s + t for s, t in zip(sums, terms, strict=True)]
    *weighted, total = sums
    none = (total < torch.finfo(total.dtype).tiny) | ~finite
    total = torch.where(none, torch.inf, total)
    return torch.cat([torch.where(none, 0, w / total) for w in weighted], 1), total


def _tap_gradients(
    upstream: Tensor,
    sources: Tensor,
    *others: Tensor,
    k: int,
    delta: int,
    distance: str,
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Return what the pairs of one offset add to the needed gradients, all arrays flat."""
    *guides, sharpness, exponents = others
    guide = guides[0] if guides else sources
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
    if needs[1] or (needs[0] and not guides):
        pull = 2 * sharpness[:, None, None] * shared * slope
        pulled = pad(pull, (0, delta)) - pad(pull, (delta, 0))
        if guides:
            found.append(pulled)
        else:
            found[0] = found[0] + pulled
    if needs[2]:
        found.append(-(shared * squared).sum((1, 2)))
    if needs[3]:
        found.append(pad(shared.sum(-1), (k, exponents.shape[1] - 1 - k)))
    return tuple(found)


def _traceable_gradients(
    upstream: list[Tensor],
    sources: Tensor,
    guide: Tensor | None,
    sharpness: Tensor,
    exponents: Tensor,
    radii: tuple[int, ...],
    taps: Taps,
    distance: str,
    ones: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    arrays = [x for x in (sources, guide, sharpness, exponents) if x is not None]
    flat = [_padded_upstream(*upstream, radii=radii)]
    flat += [x.flatten(2) if x.ndim > 2 else x for x in arrays]
    start = [flat[0][:, : sources.shape[1]].clone(), *(torch.zeros_like(x) for x in flat[2:])]
    wanted = [need for need, x in zip(needs, (sources, guide, 0, 0), strict=True) if x is not None]
    total = [array for array, need in zip(start, wanted, strict=True) if need]
    for k, delta in _shifts(sources, radii, taps):
        found = _tap_gradients(*flat, k=k, delta=delta, distance=distance, ones=ones, needs=needs)
        total = [t + f for t, f in zip(total, found, strict=True)]
    shapes = [x.shape for x, need in zip(arrays, wanted, strict=True) if need]
    return tuple(t.reshape(shape) for t, shape in zip(total, shapes, strict=True))
