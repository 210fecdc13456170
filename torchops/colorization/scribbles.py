"""Reading colour scribbles from a marked copy of a grey picture."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchops._common.checks import broadcast_batch, check_image, check_number, check_same_device
from torchops._common.precision import compute_dtype, no_autocast
from torchops.colorization.colorspace import rgb_to_yiq


def scribbles_from_marked(
    gray: Float[Tensor, "... 3 h w"], marked: Float[Tensor, "... 3 h w"], *, threshold: float = 0.01
) -> tuple[Float[Tensor, "... 2 h w"], Bool[Tensor, "... 1 h w"]]:
    """Take as hints the chroma of the pixels that were painted over.

    A pixel is hinted where sum over the channels of |gray - marked| exceeds ``threshold``.

    Args:
        gray: The grey picture as RGB with equal channels, (*batch, 3, H, W), in [0, 1], floating.
        marked: The same picture with colours painted on it, of the shape of ``gray`` up to leading
            dimensions, which broadcast.
        threshold: In units of the images, at least 0. The default is the released code's; with
            8-bit images it means a difference of at least 3 levels in all.

    Returns:
        Hints (*batch, 2, H, W), the YIQ chroma (I, Q) of ``marked``, 0 where nothing is marked, in
        float32 (float64 for float64 images); and the boolean mask (*batch, 1, H, W). Both are what
        ``colorize`` takes.

    Raises:
        TypeError: If an image is not a floating tensor.
        ValueError: If shapes or devices do not fit, or threshold is negative.

    Gradients:
        From the hints to ``marked``.

    References:
        Levin, Lischinski and Weiss, Colorization using optimization, 2004; their released code.

    Example:
        >>> import torch
        >>> gray = torch.full((3, 4, 4), 0.5)
        >>> marked = gray.clone()
        >>> marked[0, 1, 2] = 0.9
        >>> hints, mask = scribbles_from_marked(gray, marked)
        >>> mask.nonzero().tolist()
        [[0, 1, 2]]
    """
    check_image("gray", gray, channels=3)
    check_image("marked", marked, channels=3)
    if gray.shape[-2:] != marked.shape[-2:]:
        raise ValueError(
            f"marked must have the height and width of gray, {tuple(gray.shape[-2:])}, "
            f"got {tuple(marked.shape[-2:])}"
        )
    broadcast_batch(gray=gray.shape[:-3], marked=marked.shape[:-3])
    check_same_device(gray=gray, marked=marked)
    check_number("threshold", threshold, minimum=0)
    with no_autocast(gray):
        dtype = compute_dtype(gray, marked)
        gray, marked = torch.broadcast_tensors(gray.to(dtype), marked.to(dtype))
        mask = (gray - marked).abs().sum(-3, keepdim=True) > threshold
        return torch.where(mask, rgb_to_yiq(marked)[..., 1:, :, :], 0), mask
