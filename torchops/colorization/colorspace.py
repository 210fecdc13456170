"""Luma-chroma colour spaces: analogue YUV and YIQ, as 3x3 matrices and their true inverses.

Published inverses are rounded to three or four digits, so that a round trip with them is off by up
to a thousandth. Here each inverse is computed from its matrix in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import check_image
from torchops._common.precision import compute_dtype, no_autocast

Row = tuple[float, float, float]


def _from_luma(luma: Row, chroma: tuple[tuple[float, float], ...]) -> tuple[Row, ...]:
    """Build the matrix of Y and of combinations p (R - Y) + q (B - Y): grey has no chroma."""
    red, green, blue = luma
    rows = [(p - (p + q) * red, -(p + q) * green, q - (p + q) * blue) for p, q in chroma]
    return (luma, *rows)


def _inverse(matrix: tuple[Row, ...]) -> tuple[Row, ...]:
    rows = torch.linalg.inv(torch.tensor(matrix, dtype=torch.float64)).tolist()
    return tuple((row[0], row[1], row[2]) for row in rows)


# ITU-R BT.601 luma; U and V reach 0.436 and 0.615 on pure blue and pure red.
_YUV = _from_luma((0.299, 0.587, 0.114), ((0.0, 0.436 / (1 - 0.114)), (0.615 / (1 - 0.299), 0.0)))
# The FCC's NTSC: I = 0.74 (R - Y) - 0.27 (B - Y) and Q = 0.48 (R - Y) + 0.41 (B - Y).
_YIQ = _from_luma((0.30, 0.59, 0.11), ((0.74, -0.27), (0.48, 0.41)))
_RGB_FROM_YUV = _inverse(_YUV)
_RGB_FROM_YIQ = _inverse(_YIQ)


def _transform(image: Tensor, matrix: tuple[Row, ...]) -> Tensor:
    # Sums of products, channel by channel: no matrix product that TF32 or autocast could round.
    check_image("image", image, channels=3)
    with no_autocast(image):
        a, b, c = image.to(compute_dtype(image)).unbind(-3)
        rows = [p * a + q * b + r * c for p, q, r in matrix]
        return torch.stack(rows, -3).to(image.dtype)


def rgb_to_yuv(image: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Convert RGB to analogue YUV with the luma of ITU-R BT.601.

    Y = 0.299 R + 0.587 G + 0.114 B, U = 0.436 (B - Y) / 0.886, V = 0.615 (R - Y) / 0.701.

    Args:
        image: Gamma-encoded RGB (*batch, 3, H, W), floating, any range (usually [0, 1]).

    Returns:
        Y, U, V in the shape and dtype of ``image``. For RGB in [0, 1], Y lies in [0, 1], U in
        [-0.436, 0.436] and V in [-0.615, 0.615]; grey has no chroma.

    Raises:
        TypeError: If image is not a floating tensor.
        ValueError: If image does not have three channels.

    Gradients:
        To image; the map is linear.

    References:
        ITU-R Recommendation BT.601.

    Example:
        >>> import torch
        >>> blue = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> [round(v, 3) for v in rgb_to_yuv(blue).flatten().tolist()]
        [0.114, 0.436, -0.1]
    """
    return _transform(image, _YUV)


def yuv_to_rgb(image: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Convert YUV to RGB by the true inverse of the matrix of :func:`rgb_to_yuv`.

    Args:
        image: Y, U, V of shape (*batch, 3, H, W), floating.

    Returns:
        RGB in the shape and dtype of ``image``, not clipped: luma and chroma that were changed
        separately can lie outside the cube of displayable colours.

    Raises:
        TypeError: If image is not a floating tensor.
        ValueError: If image does not have three channels.

    Gradients:
        To image; the map is linear.

    References:
        ITU-R Recommendation BT.601.

    Example:
        >>> import torch
        >>> rgb = torch.rand(3, 4, 4, dtype=torch.float64)
        >>> torch.allclose(yuv_to_rgb(rgb_to_yuv(rgb)), rgb, rtol=0, atol=1e-14)
        True
    """
    return _transform(image, _RGB_FROM_YUV)


def rgb_to_yiq(image: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Convert RGB to YIQ as the FCC defined it for NTSC.

    Y = 0.30 R + 0.59 G + 0.11 B, I = 0.74 (R - Y) - 0.27 (B - Y), Q = 0.48 (R - Y) + 0.41 (B - Y);
    Python's ``colorsys`` computes the same.

    Args:
        image: Gamma-encoded RGB (*batch, 3, H, W), floating, any range (usually [0, 1]).

    Returns:
        Y, I, Q in the shape and dtype of ``image``; grey has no chroma.

    Raises:
        TypeError: If image is not a floating tensor.
        ValueError: If image does not have three channels.

    Gradients:
        To image; the map is linear.

    References:
        US Federal Communications Commission, 47 CFR 73.682 (NTSC colour).

    Example:
        >>> import torch
        >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        >>> [round(v, 3) for v in rgb_to_yiq(red).flatten().tolist()]
        [0.3, 0.599, 0.213]
    """
    return _transform(image, _YIQ)


def yiq_to_rgb(image: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Convert YIQ to RGB by the true inverse of the matrix of :func:`rgb_to_yiq`.

    Args:
        image: Y, I, Q of shape (*batch, 3, H, W), floating.

    Returns:
        RGB in the shape and dtype of ``image``, not clipped.

    Raises:
        TypeError: If image is not a floating tensor.
        ValueError: If image does not have three channels.

    Gradients:
        To image; the map is linear.

    References:
        US Federal Communications Commission, 47 CFR 73.682 (NTSC colour).

    Example:
        >>> import torch
        >>> rgb = torch.rand(3, 4, 4, dtype=torch.float64)
        >>> torch.allclose(yiq_to_rgb(rgb_to_yiq(rgb)), rgb, rtol=0, atol=1e-14)
        True
    """
    return _transform(image, _RGB_FROM_YIQ)
