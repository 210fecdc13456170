"""Sampling an image where a flow points."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import (
    broadcast_batch,
    check_choice,
    check_image,
    check_same_device,
)
from torchops._common.precision import compute_dtype, no_autocast
from torchops._common.sampling import sample_at


def warp_by_flow(
    image: Float[Tensor, "... channels image_height image_width"],
    flow: Float[Tensor, "... 2 height width"],
    *,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
    border: Literal["zeros", "replicate", "reflect"] = "replicate",
) -> Float[Tensor, "... channels height width"]:
    """Warp an image backwards: each output pixel x is read at x + flow(x).

    ``result(x) = image(x + flow(x))``. With the flow of ``lucas_kanade(reference, moving)``,
    warping ``moving`` gives ``reference``.

    Args:
        image: (*batch, C, H, W), floating.
        flow: (*batch, 2, h, w) in pixels, channel 0 to the right and channel 1 down, usually of
            the size of ``image``. Leading dimensions broadcast.
        mode: "bilinear", or "bicubic" (Keys, a = -0.5, exact for quadratic images; may overshoot
            the range of the image).
        border: What lies outside the image: the nearest edge pixel ("replicate"), "zeros", or the
            image mirrored about its edge pixels ("reflect").

    Returns:
        (*batch, C, h, w) in the dtype of ``image``. Where the flow is unknown (not finite) the
        result is NaN.

    Raises:
        TypeError: An argument is not a floating tensor.
        ValueError: Shapes or batches do not fit, an option is unknown, devices differ.

    Gradients: with respect to image and flow, any order. With "bilinear" the derivative by the
        flow jumps where a position crosses a pixel centre. Unknown flow gives gradient 0.

    Example:
        >>> image = torch.arange(5.0).expand(1, 3, 5)
        >>> flow = torch.stack([torch.full((3, 5), 0.5), torch.zeros(3, 5)])
        >>> warp_by_flow(image, flow)[0, 0]
        tensor([0.5000, 1.5000, 2.5000, 3.5000, 4.0000])
    """
    check_image("image", image)
    check_image("flow", flow, channels=2)
    check_choice("mode", mode, ("bilinear", "bicubic"))
    check_choice("border", border, ("zeros", "replicate", "reflect"))
    check_same_device(image=image, flow=flow)
    batch = broadcast_batch(image=image.shape[:-3], flow=flow.shape[:-3])
    with no_autocast(image):
        dtype = compute_dtype(image, flow)
        pixels = image.to(dtype).expand(*batch, *image.shape[-3:])
        shift = flow.to(dtype).expand(*batch, *flow.shape[-3:])
        known = shift.isfinite().all(-3, keepdim=True)
        u, v = torch.where(known, shift, 0).unbind(-3)
        y = torch.arange(flow.shape[-2], device=flow.device, dtype=dtype)[:, None]
        x = torch.arange(flow.shape[-1], device=flow.device, dtype=dtype)
        warped = sample_at(pixels, x + u, y + v, mode=mode, border=border)
        return torch.where(known, warped, torch.nan).to(image.dtype)
