"""Colour from scribbles: the square system of the released code, solved and differentiated."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchops._common.checks import (
    broadcast_batch,
    check_image,
    check_integer,
    check_number,
    check_same_device,
    check_tensor,
    describe,
)
from torchops._common.precision import compute_dtype, no_autocast
from torchops.colorization.implicit import Adjoint, Implicit
from torchops.colorization.krylov import gcr
from torchops.colorization.multigrid import Multigrid
from torchops.colorization.system import System
from torchops.colorization.weights import Weighting, check_options, raw_weights


class Colorization(NamedTuple):
    """What :func:`colorize` returns.

    Attributes:
        chroma: The colours (*batch, C, H, W).
        error: Bound of the error of ``chroma`` in its own units, one number per image, (*batch).
        iterations: Iterations that each image took, (*batch), integers.
        converged: Whether error <= tol, (*batch), boolean.
    """

    chroma: Float[Tensor, "*batch c h w"]
    error: Float[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]


def colorize(
    luma: Float[Tensor, "... 1 h w"],
    hints: Float[Tensor, "... c h w"],
    mask: Bool[Tensor, "... 1 h w"],
    *,
    confidence: Float[Tensor, "... 1 h w"] | None = None,
    radius: int = 1,
    weighting: Weighting = "levin",
    tol: float = 1e-5,
    max_iterations: int = 500,
    initial: Float[Tensor, "... c h w"] | None = None,
) -> Colorization:
    """Spread the colours of hinted pixels over an image, along its luma.

    Solves the square system of the authors' released code, with w of :func:`levin_weights`::

        U(r) = hint(r)                                                   hinted pixels
        U(r) - sum_s w_rs U(s) = 0                                       free pixels
        c (U(r) - hint(r)) + (1 - c) (U(r) - sum_s w_rs U(s)) = 0        hints of confidence c

    Every free pixel is a weighted mean of its neighbours, so no colour leaves the range of the
    hints. (This is not the minimum of :func:`colorization_loss` over all rows, which overshoots.)

    The error is bounded, not guessed. The inverse of this matrix A has no negative entry, so for
    any z with A z > 0 the error of an iterate with residual r is at most
    max(z) max_r (|r| / A z). The solver finds such a z, close to the number of steps that a walk
    along the weights takes to a hint, by one more plane beside the colours.

    Args:
        luma: Brightness (*batch, 1, H, W), in [0, 1], floating. Leading dimensions of the tensors
            broadcast.
        hints: Colours (*batch, C, H, W), read where ``mask`` is True; any number of channels, any
            units: chroma of YUV or YIQ, or RGB.
        mask: Hinted pixels, boolean, (*batch, 1, H, W).
        confidence: How far each hint is to be trusted, (*batch, 1, H, W), in (0, 1], read where
            ``mask`` is True. Default: 1, hinted pixels keep their hint exactly.
        radius: Radius of the window in pixels, at least 1. Default 1, the 3 x 3 window.
        weighting: "levin" or "gaussian", see :func:`levin_weights`.
        tol: Bound of the error in the units of ``hints`` at which an image is finished. The default
            is 1/400 of an 8-bit level of a chroma in [0, 1]; float64 can reach about 1e-11.
        max_iterations: At most so many iterations for any image.
        initial: First guess (*batch, C, H, W), for instance of the previous frame; default 0.

    Returns:
        A :class:`Colorization`. An image without any hint has no solution: its chroma is
        ``initial``, or 0, its error infinite, and ``converged`` is False. Chroma and error are
        float32, or float64 if luma or hints is float64; the arithmetic is float64. A NaN in an
        image stays in that image, with ``converged`` False.

    Raises:
        TypeError: If a tensor has the wrong dtype, or mask is not boolean.
        ValueError: If shapes or devices do not fit, an option is out of range, or weighting is
            "correlation": its negative weights break the bounds above, and the system may even be
            singular.

    Gradients:
        To hints, confidence and luma, any order, by the implicit function theorem: one solve with
        the transposed matrix, whatever the number of iterations. To luma with the kinks of
        :func:`levin_weights`. None to ``initial``. Images without hints give exactly zero.
        Reads convergence on the host in every iteration, so it does not compile or export and
        does not run under ``torch.func``.

    References:
        Levin, Lischinski and Weiss, Colorization using optimization, 2004, and their released code.

    Example:
        >>> import torch
        >>> luma = torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8, 0.8]).expand(1, 4, 6)
        >>> hints, mask = torch.zeros(1, 4, 6), torch.zeros(1, 4, 6, dtype=torch.bool)
        >>> hints[0, 0, 0], hints[0, 0, 5] = -0.3, 0.3
        >>> mask[0, 0, 0] = mask[0, 0, 5] = True
        >>> [round(v, 2) for v in colorize(luma, hints, mask).chroma[0, 2].tolist()]
        [-0.3, -0.3, -0.3, 0.3, 0.3, 0.3]
    """
    optional = {"confidence": confidence, "initial": initial}
    tensors = {"luma": luma, "hints": hints, "mask": mask}
    tensors |= {name: value for name, value in optional.items() if value is not None}
    _check(tensors, radius, weighting, tol, max_iterations)
    batch = broadcast_batch(**{name: value.shape[:-3] for name, value in tensors.items()})
    dtype = compute_dtype(luma, hints)
    height, width = luma.shape[-2:]

    def flat(value: Tensor) -> Tensor:
        value = value if value.dtype == torch.bool else value.double()
        return value.expand(*batch, *value.shape[-3:]).reshape(-1, value.shape[-3], height, width)

    with no_autocast(luma):
        marked = flat(mask)
        pull = torch.where(marked, 1.0 if confidence is None else flat(confidence), 0.0).double()
        target = torch.where(marked, flat(hints), 0)
        start = torch.zeros_like(target) if initial is None else flat(initial).detach()
        hinted = (pull != 0).flatten(1).any(1)[:, None, None, None]
        # Without a hint the matrix is singular: the system becomes U = start, pixel by pixel.
        pull = torch.where(hinted, pull, 1)
        target = torch.where(hinted, target, start)
        coupling = (1 - pull) * raw_weights(flat(luma), radius, weighting)
        solution = _solve(coupling, pull, pull * target, start, tol, max_iterations)
        error = torch.where(hinted[:, 0, 0, 0], solution.error, math.inf).to(dtype)
    return Colorization(
        chroma=solution.chroma.to(dtype).reshape(*batch, *hints.shape[-3:]),
        error=error.reshape(batch),
        iterations=solution.iterations.reshape(batch),
        converged=(error <= tol).reshape(batch),
    )


def _check(
    tensors: dict[str, Tensor], radius: int, weighting: str, tol: float, max_iterations: int
) -> None:
    for name, value in tensors.items():
        if name == "mask":
            check_tensor(name, value)
            if value.dtype != torch.bool:
                raise TypeError(
                    f"mask must be of dtype bool, got {describe(value)}; "
                    "soft hints go through confidence"
                )
            check_image(name, value, channels=1, dtypes=(torch.bool,))
        else:
            check_image(name, value, channels=1 if name in ("luma", "confidence") else None)
        if value.shape[-2:] != tensors["luma"].shape[-2:]:
            raise ValueError(
                f"{name} must have the height and width of luma, "
                f"{tuple(tensors['luma'].shape[-2:])}, got {tuple(value.shape[-2:])}"
            )
    if "initial" in tensors and tensors["initial"].shape[-3] != tensors["hints"].shape[-3]:
        raise ValueError(
            f"initial must have the {tensors['hints'].shape[-3]} channel(s) of hints, "
            f"got {tensors['initial'].shape[-3]}"
        )
    check_same_device(**tensors)
    check_options(radius, weighting)
    if weighting == "correlation":
        raise ValueError(
            "weighting must be 'levin' or 'gaussian', got 'correlation', whose negative weights "
            "make a system that is not an M-matrix: colours would leave the range of the hints "
            "and no error could be bounded"
        )
    check_number("tol", tol, above=0)
    check_integer("max_iterations", max_iterations, minimum=1)


def _solve(
    coupling: Tensor, pull: Tensor, rhs: Tensor, start: Tensor, tol: float, max_iterations: int
) -> Colorization:
    """Solve the flattened problem; the chroma carries the implicit gradient."""
    radius = (math.isqrt(coupling.shape[1] + 1) - 1) // 2
    with torch.no_grad():
        system = System(coupling, pull, radius)
        start = torch.where(system.fixed, rhs, start)
        walk = torch.ones_like(pull)

        def finished(x: Tensor, residual: Tensor) -> Tensor:
            bound = _bound(x, residual)
            return (bound <= tol) | bound.isnan()

        both = torch.cat([rhs, walk], 1)
        cycle = Multigrid(system)
        first = torch.cat([start, walk], 1)
        x, iterations = gcr(system.apply, cycle, both, first, finished, max_iterations)
        error = _bound(x, both - system.apply(x))
    chroma = Implicit.apply(
        coupling, pull, rhs, x[:, :-1], Adjoint(system, cycle, x[:, -1:]), False
    )
    return Colorization(chroma, error, iterations, error <= tol)


def _bound(x: Tensor, residual: Tensor) -> Tensor:
    """Bound max |error| of the planes but the last, which is z, by max(z) max |r| / A z."""
    z, product = x[:, -1:], 1 - residual[:, -1:]
    ratio = residual[:, :-1].abs() / product.clamp(min=torch.finfo(x.dtype).tiny)
    bound = z.amax((1, 2, 3)) * ratio.amax((1, 2, 3))
    return torch.where(product.amin((1, 2, 3)) <= 0, math.inf, bound)
