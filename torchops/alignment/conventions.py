"""Warp matrices in the conventions of OpenCV and kornia."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import check_bool, check_integer, describe
from torchops._common.precision import compute_dtype
from torchops.alignment.motion import check_matrix, check_motion


def to_opencv(
    matrix: Float[Tensor, "*batch 3 3"], motion: str = "homography", *, inverse_map: bool = True
) -> np.ndarray:
    """Convert a warp (template pixels to image pixels) to the matrix OpenCV takes.

    OpenCV and torchops agree on pixel coordinates ((0, 0) is the centre of the first pixel), on
    (x, y, 1) columns, and ``findTransformECC(template, image, warp, ...)`` estimates the very same
    matrix. They differ in when it is inverted: ``warpPerspective`` and ``warpAffine`` invert what
    they get unless ``cv2.WARP_INVERSE_MAP`` is among the flags.

    Args:
        matrix: (*batch, 3, 3) floating, a warp of this package.
        motion: "homography" gives 3 x 3 matrices; any other group the 2 x 3 of ``warpAffine``.
        inverse_map: True for ``findTransformECC`` and for the warps with
            ``flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP``; False gives the inverse matrix, for
            ``warpPerspective(image, result, (width, height))`` without that flag.

    Returns:
        A float64 NumPy array (*batch, 3, 3) or (*batch, 2, 3) in main memory. findTransformECC
        wants ``.astype("float32")``.

    Raises:
        TypeError: ``matrix`` is no floating tensor.
        ValueError: Wrong shape or unknown ``motion``.

    Gradients:
        None: the result is not a tensor.

    Example:
        >>> to_opencv(torch.eye(3), "affine")
        array([[1., 0., 0.],
               [0., 1., 0.]])
    """
    check_matrix("matrix", matrix)
    check_motion(motion)
    check_bool("inverse_map", inverse_map)
    array: np.ndarray = matrix.detach().to("cpu", torch.float64).numpy()
    if not inverse_map:
        array = np.linalg.inv(array)
    array = array / array[..., 2:, 2:]
    return array if motion == "homography" else array[..., :2, :]


def from_opencv(
    matrix: np.ndarray | Sequence[Sequence[float]], *, inverse_map: bool = True
) -> Float[Tensor, "*batch 3 3"]:
    """Convert an OpenCV warp matrix to a warp (template pixels to image pixels).

    Args:
        matrix: Array (*batch, 2, 3) or (*batch, 3, 3): the result of ``findTransformECC``, or what
            one passes to ``warpAffine`` or ``warpPerspective``.
        inverse_map: True if it is used with ``cv2.WARP_INVERSE_MAP`` or came from
            ``findTransformECC``; False if it is used without that flag, or came from
            ``findHomography(image_points, template_points)``.

    Returns:
        Warps (*batch, 3, 3), float64, on the CPU, bottom-right entry 1.

    Raises:
        TypeError: ``matrix`` does not hold numbers.
        ValueError: Wrong shape.

    Example:
        >>> from_opencv([[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]])[:, 2]
        tensor([3., 4., 1.], dtype=torch.float64)
    """
    check_bool("inverse_map", inverse_map)
    try:
        array: np.ndarray = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"matrix must be an array of numbers, got {describe(matrix)}") from None
    if array.ndim < 2 or array.shape[-2:] not in ((2, 3), (3, 3)):
        raise ValueError(
            f"matrix must be of shape (*batch, 2, 3) or (*batch, 3, 3), got {array.shape}"
        )
    if array.shape[-2] == 2:
        last = np.broadcast_to([[0.0, 0.0, 1.0]], (*array.shape[:-2], 1, 3))
        array = np.concatenate((array, last), axis=-2, dtype=np.float64)
    if not inverse_map:
        array = np.linalg.inv(array)
    return torch.from_numpy(array / array[..., 2:, 2:])


def _normalizer(size: tuple[int, int], align_corners: bool, inverse: bool, like: Tensor) -> Tensor:
    """Return the matrix from pixels to kornia's [-1, 1] coordinates, or its inverse."""
    rows = []
    for axis, length in enumerate((size[1], size[0])):
        if align_corners:
            scale, offset = (2 / (length - 1), -1.0) if length > 1 else (1.0, 0.0)
        else:
            scale, offset = 2 / length, (1 - length) / length
        if inverse:
            scale, offset = 1 / scale, -offset / scale
        rows.append([scale if k == axis else 0.0 for k in range(2)] + [offset])
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64, device=like.device)


def _check_sizes(**sizes: object) -> None:
    for name, size in sizes.items():
        if not isinstance(size, tuple | list | torch.Size) or len(size) != 2:
            raise TypeError(f"{name} must be two integers (height, width), got {describe(size)}")
        for length in size:
            check_integer(name, length, minimum=1)


def to_kornia(
    matrix: Float[Tensor, "*batch 3 3"],
    template_size: tuple[int, int],
    image_size: tuple[int, int],
    *,
    align_corners: bool = False,
) -> Float[Tensor, "*batch 3 3"]:
    """Convert a warp to kornia's normalised homography, of the same direction.

    ``result = N_image matrix N_template^-1``, where N maps pixels to [-1, 1]. The result goes to
    ``kornia.geometry.homography_warp(image, result, template_size, align_corners=...)``. For
    ``kornia.geometry.warp_perspective``, which takes pixels and the other direction, use
    ``torch.linalg.inv(matrix)``.

    Args:
        matrix: (*batch, 3, 3) floating: template pixels to image pixels.
        template_size: (height, width) of the template.
        image_size: (height, width) of the image.
        align_corners: Whether -1 and 1 are the centres of the first and last pixel (True) or the
            outer edges of these pixels (False, the default of ``homography_warp`` too). Pass the
            same to kornia.

    Returns:
        (*batch, 3, 3), bottom-right entry 1; float64 for float64, else float32.

    Raises:
        TypeError: ``matrix`` is no floating tensor, a size is not two integers.
        ValueError: Wrong shape, a size below 1.

    Gradients:
        To ``matrix``, any order.

    Example:
        >>> shift = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> to_kornia(shift, (8, 8), (8, 8))[0]
        tensor([1.0000, 0.0000, 0.5000])
    """
    check_matrix("matrix", matrix)
    check_bool("align_corners", align_corners)
    _check_sizes(template_size=template_size, image_size=image_size)
    normal = (
        _normalizer(image_size, align_corners, False, matrix)
        @ matrix.double()
        @ _normalizer(template_size, align_corners, True, matrix)
    )
    return (normal / normal[..., 2:, 2:]).to(compute_dtype(matrix))


def from_kornia(
    matrix: Float[Tensor, "*batch 3 3"],
    template_size: tuple[int, int],
    image_size: tuple[int, int],
    *,
    align_corners: bool = False,
) -> Float[Tensor, "*batch 3 3"]:
    """Convert kornia's normalised homography to a warp: the inverse of :func:`to_kornia`.

    ``result = N_image^-1 matrix N_template``.

    Args:
        matrix: (*batch, 3, 3) floating: normalised template coordinates to normalised image
            coordinates, as ``homography_warp(image, matrix, template_size)`` takes it and as
            ``ImageRegistrator("homography").register(image, template)`` returns it.
        template_size: (height, width) of the template.
        image_size: (height, width) of the image.
        align_corners: As in :func:`to_kornia`; ``ImageRegistrator`` uses False.

    Returns:
        Warps (*batch, 3, 3) in pixels, bottom-right entry 1; float64 for float64, else float32.

    Raises:
        TypeError: ``matrix`` is no floating tensor, a size is not two integers.
        ValueError: Wrong shape, a size below 1.

    Gradients:
        To ``matrix``, any order.

    Example:
        >>> from_kornia(torch.eye(3), (4, 5), (7, 9), align_corners=True)[:2]
        tensor([[2., 0., 0.],
                [0., 2., 0.]])
    """
    check_matrix("matrix", matrix)
    check_bool("align_corners", align_corners)
    _check_sizes(template_size=template_size, image_size=image_size)
    pixels = (
        _normalizer(image_size, align_corners, True, matrix)
        @ matrix.double()
        @ _normalizer(template_size, align_corners, False, matrix)
    )
    return (pixels / pixels[..., 2:, 2:]).to(compute_dtype(matrix))
