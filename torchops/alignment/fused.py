"""The sums and systems of an alignment by Triton kernels: the registered ops.

The ops carry no autograd formula and run wherever their kernels run: the iterations need no
gradient. What a template or an image has once for the whole batch keeps its batch dimension of 1.
"""

from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("torchops", "FRAGMENT")
_library.define(
    "alignment_sums(Tensor template, Tensor counts, Tensor gradient, Tensor image, Tensor matrix, "
    "Tensor number, Tensor known, Tensor? extra, Tensor? residual, str motion, str algorithm, "
    "str objective) -> Tensor"
)
_library.define(
    "alignment_residual(Tensor template, Tensor counts, Tensor image, Tensor matrix) -> Tensor"
)
_library.define(
    "alignment_moments(Tensor template, Tensor counts, Tensor image, Tensor matrix) -> Tensor"
)
_library.define(
    "alignment_solve(Tensor matrix, Tensor vector, Tensor? damping, Tensor scale, Tensor floor, "
    "float eps) -> (Tensor, Tensor)"
)


@torch.library.impl(_library, "alignment_sums", "CompositeExplicitAutograd")
def _sums(
    template: Tensor,
    counts: Tensor,
    gradient: Tensor,
    image: Tensor,
    matrix: Tensor,
    number: Tensor,
    known: Tensor,
    extra: Tensor | None,
    residual: Tensor | None,
    motion: str,
    algorithm: str,
    objective: str,
) -> Tensor:
    from torchops.alignment.kernels import launch_sums

    images = (template, counts, gradient, image)
    with torch.cuda.device_of(image):  # Triton launches on the current device
        return launch_sums(
            *images, matrix, number, known, extra, residual, motion, algorithm, objective
        )


@torch.library.impl(_library, "alignment_residual", "CompositeExplicitAutograd")
def _residual(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    from torchops.alignment.kernels import launch_residual

    with torch.cuda.device_of(image):
        return launch_residual(template, counts, image, matrix)


@torch.library.impl(_library, "alignment_moments", "CompositeExplicitAutograd")
def _moments(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    from torchops.alignment.kernels import launch_moments

    with torch.cuda.device_of(image):
        return launch_moments(template, counts, image, matrix)


@torch.library.impl(_library, "alignment_solve", "CompositeExplicitAutograd")
def _solve(
    matrix: Tensor, vector: Tensor, damping: Tensor | None, scale: Tensor, floor: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from torchops.alignment.kernels import launch_solve

    with torch.cuda.device_of(matrix):
        return launch_solve(matrix, vector, damping, scale, floor, eps)


@torch.library.register_fake("torchops::alignment_sums", lib=_library)
def _sums_fake(
    template: Tensor,
    counts: Tensor,
    gradient: Tensor,
    image: Tensor,
    matrix: Tensor,
    number: Tensor,
    known: Tensor,
    extra: Tensor | None,
    residual: Tensor | None,
    motion: str,
    algorithm: str,
    objective: str,
) -> Tensor:
    count = known.shape[-1]
    length = count * count + (3 * count + 1 if objective == "ecc" else count + 2)
    return matrix.new_empty(matrix.shape[0], template.shape[1], length)


@torch.library.register_fake("torchops::alignment_residual", lib=_library)
def _residual_fake(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    return template.new_empty(matrix.shape[0], *template.shape[1:])


@torch.library.register_fake("torchops::alignment_moments", lib=_library)
def _moments_fake(template: Tensor, counts: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    return matrix.new_empty(matrix.shape[0], template.shape[1], 8)


@torch.library.register_fake("torchops::alignment_solve", lib=_library)
def _solve_fake(matrix: Tensor, vector: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return vector.new_empty(vector.shape), vector.new_empty(vector.shape[:1], dtype=torch.bool)


def _register_vmap(name: str, per_sample: int, shared: tuple[int, ...] = ()) -> None:
    """Let the op's own batch dimension take the dimension that vmap adds.

    Argument ``per_sample`` has the whole batch; the arguments in ``shared`` have none.
    """

    @torch.library.register_vmap(f"torchops::{name}", lib=_library)
    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        size = info.batch_size
        batch = arguments[per_sample].movedim(in_dims[per_sample] or 0, 0)
        batch = batch.shape[0 if in_dims[per_sample] is None else 1]
        folded = []
        for index, (argument, dim) in enumerate(zip(arguments, in_dims, strict=True)):
            if isinstance(argument, Tensor) and index not in shared:
                argument = argument[None] if dim is None else argument.movedim(dim, 0)
                # One for all stays one; one for the inner batch is repeated for each of it.
                if dim is not None or index == per_sample or argument.shape[1] > 1:
                    argument = argument.expand(size, batch, *argument.shape[2:])
                argument = argument.flatten(0, 1)
            folded.append(argument)
        outputs = getattr(torch.ops.torchops, name)(*folded)
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, batch)), 0
        return tuple(o.unflatten(0, (size, batch)) for o in outputs), (0,) * len(outputs)


_register_vmap("alignment_sums", 4)
_register_vmap("alignment_residual", 3)
_register_vmap("alignment_moments", 3)
_register_vmap("alignment_solve", 1, shared=(3,))
