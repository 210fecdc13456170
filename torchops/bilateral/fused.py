"""The exact filter by Triton kernels: the registered ops and their derivatives.

The ops carry no autograd formula and run wherever their kernels run. Derivatives are two
`autograd.Function`s: the forward's, and that of the backward, which refuses a second order.
Margins are made and folded back inside the ops: what autograd keeps is the image itself, and the
folding adds in a fixed order, so gradients are the same bits in every run.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchops.bilateral.arguments import Batch
from torchops.bilateral.exact import fold_margins, normalised, pad_sources, sources_of

_library = torch.library.Library("torchops", "FRAGMENT")
_library.define(
    "bilateral_forward(Tensor values, Tensor? counts, Tensor? guide, Tensor rates, int[] radii, "
    "str border, bool disc, bool l1) -> (Tensor, Tensor)"
)
_library.define(
    "bilateral_backward(Tensor values, Tensor? counts, Tensor? guide, Tensor rates, "
    "Tensor grad_sums, Tensor grad_total, int[] radii, str border, bool disc, bool l1, "
    "bool needs_guide, bool needs_rates) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.impl(_library, "bilateral_forward", "CompositeExplicitAutograd")
def _forward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    radii: list[int],
    border: str,
    disc: bool,
    l1: bool,
) -> tuple[Tensor, Tensor]:
    """Return sum_q w_pq values_q and sum_q w_pq counts_q; None stands for ones, and for values."""
    from torchops.bilateral.kernels_launch import launch_forward

    arrays = pad_sources(values, counts, guide, tuple(radii), border)
    with torch.cuda.device_of(values):  # Triton launches on the current device
        return launch_forward(*arrays, rates, radii, disc, l1)


@torch.library.impl(_library, "bilateral_backward", "CompositeExplicitAutograd")
def _backward(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    rates: Tensor,
    grad_sums: Tensor,
    grad_total: Tensor,
    radii: list[int],
    border: str,
    disc: bool,
    l1: bool,
    needs_guide: bool,
    needs_rates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of values, counts, guide and rates; empty for what is not needed."""
    from torchops.bilateral.kernels_launch import launch_backward

    arrays = pad_sources(values, counts, guide, tuple(radii), border)
    gradients = (grad_sums, grad_total)
    with torch.cuda.device_of(values):
        *found, grad_rates = launch_backward(
            *arrays, rates, *gradients, radii, disc, l1, needs_guide, needs_rates
        )
    first, second, third = (
        fold_margins(gradient, tuple(radii), border) if gradient.ndim > 1 else gradient
        for gradient in found
    )
    return first, second, third, grad_rates


@torch.library.register_fake("torchops::bilateral_forward", lib=_library)
def _forward_fake(
    values: Tensor, counts: Tensor | None, guide: Tensor | None, rates: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return rates.new_empty(values.shape), rates.new_empty(values.shape[0], 1, *values.shape[2:])


@torch.library.register_fake("torchops::bilateral_backward", lib=_library)
def _backward_fake(
    values: Tensor, counts: Tensor | None, guide: Tensor | None, rates: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, needs_guide, needs_rates = options
    likes = (values, counts, guide if needs_guide else None, rates if needs_rates else None)
    shapes = [(0,) if like is None else like.shape for like in likes]
    first, second, third, fourth = (rates.new_empty(shape) for shape in shapes)
    return first, second, third, fourth


def _fold_vmap(op: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    """Let the op's own batch dimension take the dimension that vmap adds."""
    size = info.batch_size
    folded = []
    for argument, dim in zip(arguments, in_dims, strict=True):
        if isinstance(argument, Tensor):
            mapped = argument.expand(size, *argument.shape) if dim is None else argument
            argument = mapped.movedim(dim or 0, 0).flatten(0, 1)
        folded.append(argument)
    outputs = op(*folded)
    dims = tuple(None if output.ndim == 1 else 0 for output in outputs)
    return tuple(
        output if dim is None else output.unflatten(0, (size, output.shape[0] // size))
        for output, dim in zip(outputs, dims, strict=True)
    ), dims


@torch.library.register_vmap("torchops::bilateral_forward", lib=_library)
def _forward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return _fold_vmap(torch.ops.torchops.bilateral_forward, info, in_dims, arguments)


@torch.library.register_vmap("torchops::bilateral_backward", lib=_library)
def _backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    return _fold_vmap(torch.ops.torchops.bilateral_backward, info, in_dims, arguments)


class _WindowSums(torch.autograd.Function):
    generate_vmap_rule = True

    # The arguments have names: the compiler of torch 2.11 takes a *arguments for the context.
    @staticmethod
    def forward(
        values: Tensor,
        counts: Tensor | None,
        guide: Tensor | None,
        rates: Tensor,
        radii: list[int],
        border: str,
        disc: bool,
        l1: bool,
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.torchops.bilateral_forward(
            values, counts, guide, rates, radii, border, disc, l1
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.options = inputs[4:]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        gradients = _WindowGradients.apply(
            *ctx.saved_tensors, *upstream, *ctx.options, needs[2], needs[3]
        )
        found = [g if need else None for g, need in zip(gradients, needs, strict=False)]
        return (*found, *[None] * len(ctx.options))


class _WindowGradients(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        values: Tensor,
        counts: Tensor | None,
        guide: Tensor | None,
        rates: Tensor,
        grad_sums: Tensor,
        grad_total: Tensor,
        radii: list[int],
        border: str,
        disc: bool,
        l1: bool,
        needs_guide: bool,
        needs_rates: bool,
    ) -> tuple[Tensor, ...]:
        arrays = (values, counts, guide, rates, grad_sums, grad_total)
        return torch.ops.torchops.bilateral_backward(
            *arrays, radii, border, disc, l1, needs_guide, needs_rates
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise RuntimeError(
            "backend must be 'torch' for derivatives of second order, got the Triton kernel, "
            "which has those of first order only"
        )


def exact_filter_fused(
    batch: Batch, radii: tuple[int, ...], *, window: str, distance: str, border: str
) -> Tensor:
    """Filter a batch with one window: `exact.exact_filter` by the kernels."""
    own = None if batch.guide is batch.image else batch.guide
    values, counts, guide, finite = sources_of(batch.image, own, batch.mask)
    missing = 3 - len(radii)  # the kernels know volumes only
    arrays = [
        None if array is None else array.reshape(*array.shape[:2], *[1] * missing, *array.shape[2:])
        for array in (values, counts, guide)
    ]
    space = (0.5 / batch.sigma_space.square()).expand(len(values), -1)
    level = (0.5 / batch.sigma_range.square()).expand(len(values))
    rates = torch.cat([pad(space, (missing, 0)), level[:, None]], 1)
    sums, total = _WindowSums.apply(
        *arrays, rates, [0] * missing + list(radii), border, window == "disc", distance == "l1"
    )
    return normalised(sums.reshape(values.shape), total.reshape(finite.shape), finite)
