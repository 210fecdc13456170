"""The five motion groups: their matrices, parameters and Jacobians."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.checks import FLOATING, check_choice, check_dtype, check_tensor, describe
from torchops._common.precision import compute_dtype, no_autocast

PARAMETERS = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}
MOTIONS = tuple(PARAMETERS)


def check_motion(motion: object) -> None:
    """Raise ValueError unless ``motion`` names one of the five groups."""
    check_choice("motion", motion, MOTIONS)


def check_matrix(name: str, matrix: object) -> None:
    """Raise unless ``matrix`` is a floating tensor (*batch, 3, 3)."""
    check_tensor(name, matrix)
    assert isinstance(matrix, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype(name, matrix, FLOATING)
    if matrix.ndim < 2 or matrix.shape[-2:] != (3, 3):
        raise ValueError(f"{name} must be of shape (*batch, 3, 3), got {describe(matrix)}")


def check_points(points: object) -> None:
    """Raise unless ``points`` is a floating tensor (*batch, N, 2)."""
    check_tensor("points", points)
    assert isinstance(points, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype("points", points, FLOATING)
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"points must be of shape (*batch, N, 2), got {describe(points)}")


def _check_parameters(parameters: object, motion: str) -> None:
    check_motion(motion)
    check_tensor("parameters", parameters)
    assert isinstance(parameters, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype("parameters", parameters, FLOATING)
    count = PARAMETERS[motion]
    if parameters.ndim < 1 or parameters.shape[-1] != count:
        raise ValueError(
            f"parameters must be of shape (*batch, {count}) for {motion}, "
            f"got {describe(parameters)}"
        )


def build_matrix(parameters: Tensor, motion: str) -> Tensor:
    """Compute the matrix of ``parameters`` in their own dtype, without checks."""
    p = parameters.unbind(-1)
    zero = torch.zeros_like(p[0])
    one = zero + 1
    if motion == "translation":
        rows = [one, zero, p[0], zero, one, p[1], zero, zero, one]
    elif motion == "euclidean":
        cos, sin = p[0].cos(), p[0].sin()
        rows = [cos, -sin, p[1], sin, cos, p[2], zero, zero, one]
    elif motion == "similarity":
        a, b = 1 + p[0], p[1]
        rows = [a, -b, p[2], b, a, p[3], zero, zero, one]
    else:
        p7, p8 = (p[6], p[7]) if motion == "homography" else (zero, zero)
        rows = [1 + p[0], p[2], p[4], p[1], 1 + p[3], p[5], p7, p8, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def read_parameters(matrix: Tensor, motion: str) -> Tensor:
    """Read the parameters off a matrix with bottom-right entry 1, without checking the group."""
    (a, b, x), (c, d, y), (g, h, _) = (row.unbind(-1) for row in matrix.unbind(-2))
    columns = {
        "translation": lambda: [x, y],
        "euclidean": lambda: [torch.atan2(c, a), x, y],
        "similarity": lambda: [a - 1, c, x, y],
        "affine": lambda: [a - 1, c, b, d - 1, x, y],
        "homography": lambda: [a - 1, c, b, d - 1, x, y, g, h],
    }
    return torch.stack(columns[motion](), -1)


def motion_matrix(
    parameters: Float[Tensor, "*batch p"], motion: str
) -> Float[Tensor, "*batch 3 3"]:
    """Build the warp matrix of a motion's parameters; 0 is the identity.

    translation (tx, ty); euclidean (theta, tx, ty); similarity (a, b, tx, ty) with linear part
    [[1+a, -b], [b, 1+a]]; affine and homography
    [[1+p1, p3, p5], [p2, 1+p4, p6], [p7, p8, 1]] (p7 = p8 = 0 for affine).

    Args:
        parameters: (*batch, P) floating, P = 2, 3, 4, 6 or 8; lengths in pixels, theta in radians.
        motion: "translation", "euclidean", "similarity", "affine" or "homography".

    Returns:
        Matrices (*batch, 3, 3) acting on columns (x, y, 1); float64 for float64, else float32.

    Raises:
        TypeError: ``parameters`` is no floating tensor.
        ValueError: Unknown ``motion``, or the wrong number of parameters for it.

    Gradients:
        To ``parameters``, any order.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on: a unifying framework", 2004.

    Example:
        >>> motion_matrix(torch.tensor([3.0, -2.0]), "translation")[:2]
        tensor([[ 1.,  0.,  3.],
                [ 0.,  1., -2.]])
    """
    _check_parameters(parameters, motion)
    return build_matrix(parameters.to(compute_dtype(parameters)), motion)


def motion_parameters(
    matrix: Float[Tensor, "*batch 3 3"], motion: str
) -> Float[Tensor, "*batch p"]:
    """Read a motion's parameters off its matrix: the inverse of :func:`motion_matrix`.

    A homography is first divided by its bottom-right entry. To see that the matrix belongs to the
    group, the values are read once, which waits for a GPU.

    Args:
        matrix: (*batch, 3, 3) floating.
        motion: The group, as in :func:`motion_matrix`.

    Returns:
        Parameters (*batch, P); float64 for float64, else float32. theta lies in (-pi, pi].

    Raises:
        TypeError: ``matrix`` is no floating tensor.
        ValueError: Wrong shape, unknown ``motion``, or a matrix outside the group, that is, one
            that differs from every member by more than rounding (1e-5 in the linear part and
            1e-8 in the last row for float32, 1e-10 and 1e-13 for float64).

    Gradients:
        To ``matrix``, any order, as if its entries were free.

    Example:
        >>> motion_parameters(torch.eye(3), "similarity")
        tensor([0., 0., 0., 0.])
    """
    check_motion(motion)
    check_matrix("matrix", matrix)
    double = matrix.dtype == torch.float64
    matrix = matrix.to(compute_dtype(matrix))
    scaled = matrix / matrix[..., 2:, 2:]
    parameters = read_parameters(scaled, motion)
    gap = (build_matrix(parameters, motion) - scaled).detach().abs()
    linear, last = (1e-10, 1e-13) if double else (1e-5, 1e-8)
    member = (gap[..., :2, :2] <= linear).all() & (gap[..., 2, :] <= last).all()
    if not (member & torch.isfinite(parameters.detach()).all()).item():
        raise ValueError(
            f"matrix must be a {motion}, got a matrix outside that group; "
            f"project it onto the group, or use a larger one"
        )
    return parameters


def motion_jacobian(
    points: Float[Tensor, "*#batch n 2"],
    parameters: Float[Tensor, "*#batch p"],
    motion: str,
) -> Float[Tensor, "*#out n 2 p"]:
    """Differentiate the warped points by the motion's parameters, in closed form.

    ``J[..., n, :, i] = d warp_points(points, motion_matrix(parameters))[..., n, :] / d p_i``

    Args:
        points: (*batch, N, 2) floating, (x, y) in pixels.
        parameters: (*batch, P) floating; the batch dimensions broadcast with those of ``points``.
        motion: The group, as in :func:`motion_matrix`.

    Returns:
        Jacobians (*batch, N, 2, P); float64 if an argument is float64, else float32.

    Raises:
        TypeError: An argument is no floating tensor.
        ValueError: Wrong shapes, or an unknown ``motion``.

    Gradients:
        To ``points`` and ``parameters``, any order.

    References:
        Baker and Matthews 2004, section 3.1 (affine) and the appendix (homography).

    Example:
        >>> motion_jacobian(torch.tensor([[5.0, 7.0]]), torch.zeros(3), "euclidean")[0]
        tensor([[-7.,  1.,  0.],
                [ 5.,  0.,  1.]])
    """
    check_points(points)
    _check_parameters(parameters, motion)
    dtype = compute_dtype(points, parameters)
    x, y = points.to(dtype).unbind(-1)
    p = [column[..., None] for column in parameters.to(dtype).unbind(-1)]
    x, y, *p = torch.broadcast_tensors(x, y, *p)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    if motion == "translation":
        rows = [[one, zero], [zero, one]]
    elif motion == "euclidean":
        cos, sin = p[0].cos(), p[0].sin()
        rows = [[-sin * x - cos * y, one, zero], [cos * x - sin * y, zero, one]]
    elif motion == "similarity":
        rows = [[x, -y, one, zero], [y, x, zero, one]]
    elif motion == "affine":
        rows = [[x, zero, y, zero, one, zero], [zero, x, zero, y, zero, one]]
    else:
        depth = 1 + p[6] * x + p[7] * y
        u = ((1 + p[0]) * x + p[2] * y + p[4]) / depth
        v = (p[1] * x + (1 + p[3]) * y + p[5]) / depth
        x, y, one = x / depth, y / depth, one / depth
        rows = [
            [x, zero, y, zero, one, zero, -x * u, -y * u],
            [zero, x, zero, y, zero, one, -x * v, -y * v],
        ]
    with no_autocast(points):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)
