"""The colorization loss: neighbours alike in luma should be alike in chroma."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchops._common.checks import (
    FLOATING,
    broadcast_batch,
    check_choice,
    check_image,
    check_same_device,
)
from torchops._common.precision import compute_dtype, no_autocast
from torchops.colorization.residual import Residual
from torchops.colorization.weights import Weighting, check_options

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


def colorization_loss(
    chroma: Float[Tensor, "... c h w"],
    luma: Float[Tensor, "... 1 h w"],
    *,
    radius: int = 1,
    weighting: Weighting = "levin",
    mask: Bool[Tensor, "... 1 h w"] | Float[Tensor, "... 1 h w"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Penalise chroma that differs where luma does not.

    J(U) = sum_r mask(r) (U(r) - sum_s w_rs U(s))^2, summed over the chroma channels too, with the
    weights w of :func:`levin_weights`; ``reduction`` says by what it is divided.

    A constant chroma costs nothing: this is a smoothness term, and alone it is minimised by one
    colour for the whole image. It needs data beside it, such as a squared error on sparse hints.
    Minimised over all rows it also is not what :func:`colorize` solves, which leaves out the rows
    of hinted pixels; exclude those with ``mask`` and both have the same solution.

    Args:
        chroma: The colour U, (*batch, C, H, W), any number of channels, any units, floating.
        luma: Brightness Y, (*batch, 1, H, W), in [0, 1]. Leading dimensions of the three tensors
            broadcast.
        radius: Radius of the window in pixels, at least 1. Default 1, the paper's 3 x 3 window.
        weighting: Kind of weights, see :func:`levin_weights`.
        mask: Which rows r count, (*batch, 1, H, W): boolean, or float weights, at least 0. A row
            that does not count still serves its neighbours as a source. Default: all.
        reduction: "mean" divides by the number (the sum of the weights) of counted entries, C per
            pixel; if none counts the loss is 0. "sum" divides by nothing. "none" returns the
            weighted squares.

    Returns:
        A scalar, or (*batch, C, H, W) for "none"; float32, or float64 if chroma or luma is float64.

    Raises:
        TypeError: If a tensor is not floating (the mask: nor boolean) or radius not an integer.
        ValueError: If shapes or devices do not fit, radius < 1, or an option is unknown.

    Gradients:
        To chroma, luma and a float mask, any order. To luma with the kinks of
        :func:`levin_weights`; detach luma to leave it alone, which also saves half of the backward
        time. Memory does not grow with the radius: weights are recomputed in the backward pass.

    References:
        Levin, Lischinski and Weiss, Colorization using optimization, 2004, equation 1.

    Example:
        >>> import torch
        >>> luma = torch.rand(2, 1, 16, 16)
        >>> chroma = torch.zeros(2, 2, 16, 16, requires_grad=True)
        >>> colorization_loss(chroma + 0.3, luma).item()
        0.0
    """
    check_image("chroma", chroma)
    check_image("luma", luma, channels=1)
    check_options(radius, weighting)
    check_choice("reduction", reduction, REDUCTIONS)
    if mask is not None:
        check_image("mask", mask, channels=1, dtypes=(torch.bool, *FLOATING))
    check_same_device(chroma=chroma, luma=luma, mask=mask)
    shapes = {"chroma": chroma, "luma": luma} | ({} if mask is None else {"mask": mask})
    for name, value in shapes.items():
        if value.shape[-2:] != chroma.shape[-2:]:
            raise ValueError(
                f"{name} must have the height and width of chroma, {tuple(chroma.shape[-2:])}, "
                f"got {tuple(value.shape[-2:])}"
            )
    batch = broadcast_batch(**{name: value.shape[:-3] for name, value in shapes.items()})
    with no_autocast(chroma):
        dtype = compute_dtype(chroma, luma)
        residual = Residual.apply(
            chroma.to(dtype).expand(*batch, *chroma.shape[-3:]),
            luma.to(dtype).expand(*batch, *luma.shape[-3:]),
            radius,
            weighting,
        )
        return _reduce(residual, mask, reduction)


def _reduce(residual: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    if mask is None:
        cost = residual * residual
        weight: Tensor | int = residual.numel()
    elif mask.dtype == torch.bool:
        residual = torch.where(mask, residual, 0)  # before squaring: no NaN from what is left out
        cost = residual * residual
        weight = mask.to(residual.dtype).expand_as(residual).sum()
    else:
        mask = mask.to(residual.dtype).expand_as(residual)
        cost = mask * (residual * residual)
        weight = mask.sum()
    if reduction == "none":
        return cost
    if reduction == "sum":
        return cost.sum()
    if isinstance(weight, Tensor):
        return cost.sum() / torch.where(weight != 0, weight, 1)
    return cost.sum() / max(weight, 1)


class ColorizationLoss(nn.Module):
    """Loss module with fixed options; see :func:`colorization_loss`.

    Example:
        >>> import torch
        >>> loss = ColorizationLoss(radius=2, weighting="gaussian")
        >>> loss(torch.ones(1, 2, 8, 8), torch.rand(1, 1, 8, 8)).item()
        0.0
    """

    def __init__(
        self,
        *,
        radius: int = 1,
        weighting: Weighting = "levin",
        reduction: Reduction = "mean",
    ) -> None:
        check_options(radius, weighting)
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__()
        self.radius = radius
        self.weighting = weighting
        self.reduction = reduction

    def forward(
        self,
        chroma: Float[Tensor, "... c h w"],
        luma: Float[Tensor, "... 1 h w"],
        mask: Bool[Tensor, "... 1 h w"] | Float[Tensor, "... 1 h w"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Return the loss of ``chroma``; arguments as in :func:`colorization_loss`."""
        return colorization_loss(
            chroma,
            luma,
            radius=self.radius,
            weighting=self.weighting,
            mask=mask,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Show the options."""
        return f"radius={self.radius}, weighting={self.weighting!r}, reduction={self.reduction!r}"
