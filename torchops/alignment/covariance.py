"""How well an alignment is determined by its pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchops._common.precision import compute_dtype, no_autocast
from torchops.alignment.arguments import Pair, check_pair
from torchops.alignment.implicit import batch_jacobian
from torchops.alignment.motion import PARAMETERS, build_matrix, check_motion, read_parameters
from torchops.alignment.objective import evaluate
from torchops.alignment.steps import Method, scaled_to_one
from torchops.alignment.system import solve_system
from torchops.alignment.template import Grid


def _chart(start: Tensor, motion: str, grid: Grid) -> Tensor:
    """Differentiate the parameters by an increment in normalised coordinates: (B, P, P)."""
    count = PARAMETERS[motion]

    def parameters(delta: Tensor) -> Tensor:
        moved = grid.from_pixels(start) @ build_matrix(delta, motion)
        return read_parameters(scaled_to_one(grid.to_pixels(moved)), motion)

    zero = start.new_zeros(start.shape[0], count)
    return batch_jacobian(parameters, zero)


def parameter_covariance(
    template: Float[Tensor, "*#batch c h w"],
    image: Float[Tensor, "*#batch c height width"],
    matrix: Float[Tensor, "*#batch 3 3"],
    motion: str,
) -> Float[Tensor, "*#out p p"]:
    """Estimate the covariance of a motion's parameters at an alignment, from its own residual.

    ``covariance = s^2 H^-1`` with H = sum SD^T SD and s^2 = sum residual^2 / (N - P) over the N
    pixel values that count. It holds for independent noise of equal variance in every pixel value
    and an alignment that has converged; blurred images have correlated noise, and then it is too
    small.

    Args:
        template: (*batch, C, h, w) floating.
        image: (*batch, C, H, W), of the template's dtype.
        matrix: (*batch, 3, 3) floating, template pixels to image pixels, a member of the group.
        motion: The group, whose parameters are those of :func:`torchops.motion_parameters`, in
            template pixels.

    Returns:
        (*batch, P, P); float64 for float64, else float32. inf for a sample whose pixels do not
        determine the motion.

    Raises:
        TypeError: Arguments of wrong type, dtypes that differ.
        ValueError: Wrong shapes, unknown ``motion``, different devices.

    Gradients:
        To all tensors, through the sums; zero where the result is inf.

    Example:
        >>> image = torch.rand(1, 30, 30, dtype=torch.float64)
        >>> exact = parameter_covariance(image, image, torch.eye(3), "translation")
        >>> exact.abs().max() < 1e-20
        tensor(True)
    """
    check_motion(motion)
    batch = check_pair(template, image, matrix, None, None)
    with no_autocast(image):
        start = scaled_to_one(matrix.double().expand(*batch, 3, 3).reshape(-1, 3, 3))
        problem = Pair(template, image, start, None, None, batch).problem(
            Method(motion, "esm"), None
        )
        basis, grid = problem.template.basis, problem.template.grid
        count = PARAMETERS[motion]
        eps = torch.finfo(problem.template.values.dtype).eps
        identity = torch.eye(3, dtype=torch.float64, device=image.device)
        sums = evaluate(problem, identity.expand(start.shape[0], 3, 3))
        columns = torch.eye(count, dtype=torch.float64, device=image.device)
        inverse, singular = solve_system(
            sums.matrix.repeat_interleave(count, 0),
            columns.repeat(start.shape[0], 1),
            basis.scale,
            problem.template.floor.expand(start.shape[0]).repeat_interleave(count),
            eps,
        )
        inverse = inverse.reshape(-1, count, count)
        singular = singular.reshape(-1, count).any(-1)
        freedom = sums.freedom - count
        singular = singular | (freedom <= 0)
        variance = sums.squares / freedom.clamp(min=1)
        chart = _chart(start, motion, grid)
        covariance = chart @ (inverse * variance[:, None, None]) @ chart.mT
        covariance = torch.where(singular[:, None, None], torch.inf, covariance)
        return covariance.to(compute_dtype(image)).reshape(*batch, count, count)
