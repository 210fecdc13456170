"""Warping points and images by 3 x 3 matrices that map template pixels to image pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import (
    broadcast_batch,
    check_choice,
    check_image,
    check_integer,
    check_same_device,
)
from torchops._common.precision import compute_dtype, no_autocast
from torchops._common.sampling import sample_at
from torchops.alignment.motion import check_matrix, check_points


def apply_matrix(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Map the points (x, y) and say which lie before the horizon, where the denominator is > 0.

    x and y broadcast to the shape *points; ``matrix`` (*batch, 3, 3) gives (*batch, *points).
    What comes back for the others is finite and means nothing.
    """
    entries = matrix.flatten(-2).unbind(-1)
    extra = max(x.ndim, y.ndim)
    a, b, c, d, e, f, g, h, i = (m[(...,) + (None,) * extra] for m in entries)
    depth = g * x + (h * y + i)
    before = depth > 0
    depth = torch.where(before, depth, 1)
    return (a * x + (b * y + c)) / depth, (d * x + (e * y + f)) / depth, before


def interpolate(image: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate (1 or B, C, H, W) bilinearly at (B, h, w) float64 positions inside the image.

    The fractions are taken in float64, so float32 images lose nothing at large coordinates.

    Returns:
        Values (B, C, h, w), arbitrary outside the image, and which positions are inside (B, h, w).
    """
    channels, height, width = image.shape[-3:]
    x, y = _just_inside(u, width), _just_inside(v, height)
    # A warp may miss the centres of the border pixels by rounding.
    inside = torch.maximum((u - x).abs(), (v - y).abs()) < 1e-6
    left, top = x.detach().floor(), y.detach().floor()
    s = (x - left).to(image.dtype).flatten(-2).unsqueeze(-2)
    t = (y - top).to(image.dtype).flatten(-2).unsqueeze(-2)
    index = (top * width + left).long().flatten(-2).unsqueeze(-2)
    right, down = min(1, width - 1), min(1, height - 1) * width
    index = index.clamp(0, height * width - 1 - right - down)  # of a NaN, too
    index = index.expand(-1, channels, -1)
    flat = image.flatten(-2).expand(index.shape[0], -1, -1)
    a, b, c, d = (flat.gather(-1, index + step) for step in (0, right, down, down + right))
    if x.requires_grad:  # a NaN must not reach the gradient of the fractions
        spoilt = (a + b + c + d).detach().isnan()
        a, b, c, d = (torch.where(spoilt, 0, tap) for tap in (a, b, c, d))
    values = torch.lerp(torch.lerp(a, b, s), torch.lerp(c, d, s), t)
    if x.requires_grad:
        values = torch.where(spoilt, torch.nan, values)
    return values.unflatten(-1, u.shape[-2:]), inside


def _just_inside(position: Tensor, size: int) -> Tensor:
    # Below the last pixel's centre by rounding only, so that a pixel follows the one of the floor.
    return position.clamp(0, (size - 1) * (1 - 1e-15))


def sample_through(
    image: Tensor, matrix: Tensor, x: Tensor, y: Tensor, clear: bool
) -> tuple[Tensor, Tensor | None]:
    """Interpolate (1 or B, C, H, W) bilinearly at ``matrix`` applied to the points (x, y, 1).

    x are the columns (w,) and y the rows (h, 1) of a template. This is the fast path of the
    iterations, which need no gradient: PyTorch's own sampler. It rounds every position to the
    image's dtype, in float32 by some 1e-7 of the image's side, each by itself, so that an
    alignment to many pixels does not notice.

    Returns:
        Values (B, C, h, w), arbitrary outside the image, and which positions are inside
        (B, 1, h, w), None if ``clear`` says that all are.
    """
    height, width = image.shape[-2:]
    u, v, w = matrix.unbind(-2)
    # The sampler's coordinates: -1 and 1 are the centres of the first and the last pixel.
    to_grid = torch.stack([u * (2 / max(width - 1, 1)) - w, v * (2 / max(height - 1, 1)) - w, w], 1)
    a, b, c = to_grid[..., None, None].unbind(2)
    # Rounded by column and by row, not by entry of the matrix, which would move all pixels alike.
    points = (a * x).to(image.dtype) + (b * y + c).to(image.dtype)
    depth = points[:, 2:]
    before = None
    if not clear:
        before = depth > 0
        depth = depth.masked_fill(~before, 1)
    grid = points[:, :2].div_(depth)  # new memory costs more here than the division
    sampled = torch.nn.functional.grid_sample(
        image.expand(grid.shape[0], -1, -1, -1),
        grid.permute(0, 2, 3, 1),
        padding_mode="border",
        align_corners=True,
    )
    if before is None:
        return sampled, None
    # A warp may miss the centres of the border pixels by rounding.
    slack = max(4 * torch.finfo(image.dtype).eps, 2e-6 / max(height - 1, width - 1, 1))
    inside = (grid.abs() <= 1 + slack).all(1, keepdim=True)
    return sampled, inside & before


def warp_points(
    points: Float[Tensor, "*#batch n 2"], matrix: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*#out n 2"]:
    """Map points by a homography: (x', y') = (X / Z, Y / Z) with (X, Y, Z) = matrix (x, y, 1).

    Args:
        points: (*batch, N, 2) floating, (x, y) in pixels.
        matrix: (*batch, 3, 3) floating; batch dimensions broadcast.

    Returns:
        Points (*batch, N, 2); float64 if an argument is float64, else float32. A point on the
        horizon, where Z = 0, comes back as NaN.

    Raises:
        TypeError: An argument is no floating tensor.
        ValueError: Wrong shapes, batch dimensions that do not broadcast, different devices.

    Gradients:
        To both arguments, any order; zero for a point on the horizon.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 10.0], [0.0, 1.0, -4.0], [0.0, 0.0, 1.0]])
        >>> warp_points(torch.tensor([[1.0, 2.0]]), shift)
        tensor([[11., -2.]])
    """
    check_points(points)
    check_matrix("matrix", matrix)
    check_same_device(points=points, matrix=matrix)
    broadcast_batch(points=points.shape[:-2], matrix=matrix.shape[:-2])
    dtype = compute_dtype(points, matrix)
    x, y = points.to(dtype).unbind(-1)
    a, b, c, d, e, f, g, h, i = (m[..., None] for m in matrix.to(dtype).flatten(-2).unbind(-1))
    depth = g * x + h * y + i
    finite = depth != 0
    depth = torch.where(finite, depth, 1)
    warped = torch.stack([(a * x + b * y + c) / depth, (d * x + e * y + f) / depth], -1)
    return torch.where(finite[..., None], warped, torch.nan)


def warp_image(
    image: Float[Tensor, "*#batch c h w"],
    matrix: Float[Tensor, "*#batch 3 3"],
    size: tuple[int, int],
    *,
    mode: str = "bilinear",
    border: str = "zeros",
) -> Float[Tensor, "*#out c height width"]:
    """Resample an image by a homography: result(x) = image(matrix x).

    ``matrix`` maps result (template) pixels to image pixels, so this undoes the motion that
    :func:`torchops.align` found: ``warp_image(image, align(template, image).matrix,
    template.shape[-2:])`` looks like the template. It is what OpenCV calls the inverse map.

    Args:
        image: (*batch, C, H, W) floating.
        matrix: (*batch, 3, 3) floating; batch dimensions broadcast with those of ``image``.
        size: (height, width) of the result in pixels.
        mode: "bilinear", or "bicubic" (Keys, a = -0.5).
        border: What lies outside: "zeros", "replicate" or "reflect" (edge pixel not repeated).

    Returns:
        (*batch, C, height, width) of the dtype of ``image``. Pixels whose point lies on or beyond
        the horizon (denominator not positive) are 0 with every border.

    Raises:
        TypeError: ``image`` or ``matrix`` is no floating tensor, ``size`` is not of integers.
        ValueError: Wrong shapes, an unknown mode or border, different devices.

    Gradients:
        To both arguments; for the bilinear mode the gradient to ``matrix`` jumps where a point
        crosses a pixel's row or column.

    Example:
        >>> image = torch.arange(12.0).reshape(1, 3, 4)
        >>> shift = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> warp_image(image, shift, (2, 2))
        tensor([[[1., 2.],
                 [5., 6.]]])
    """
    check_image("image", image)
    check_matrix("matrix", matrix)
    check_same_device(image=image, matrix=matrix)
    if not isinstance(size, tuple | list | torch.Size) or len(size) != 2:
        raise TypeError(f"size must be two integers (height, width), got {size!r}")
    for length in size:
        if not isinstance(length, torch.SymInt):
            check_integer("size", length, minimum=1)
    check_choice("mode", mode, ("bilinear", "bicubic"))
    check_choice("border", border, ("zeros", "replicate", "reflect"))
    batch = broadcast_batch(image=image.shape[:-3], matrix=matrix.shape[:-2])
    with no_autocast(image):
        dtype = compute_dtype(image)
        exact = matrix.to(torch.float64)
        x = torch.arange(size[1], dtype=torch.float64, device=image.device)
        y = torch.arange(size[0], dtype=torch.float64, device=image.device)[:, None]
        u, v, before = apply_matrix(exact.expand(*batch, 3, 3), x, y)
        values = sample_at(
            image.to(dtype).expand(*batch, *image.shape[-3:]),
            u.to(dtype),
            v.to(dtype),
            mode=mode,
            border=border,
        )
        return torch.where(before.unsqueeze(-3), values, 0).to(image.dtype)
