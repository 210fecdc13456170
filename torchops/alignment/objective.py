"""What is minimised: the error of a view, its Gauss-Newton system, and how both are weighed.

"ssd" is the sum of squared differences, with ``robust`` that of a function of them that grows more
slowly (Huber) or not at all (Tukey) beyond a few standard deviations. "ecc" is the enhanced
correlation coefficient of Evangelidis and Psarakis, which a gain and a bias leave as it is.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from torchops.alignment.fused import evaluate_fused
from torchops.alignment.steps import Problem, View, linear_gradient, look
from torchops.alignment.sums import (
    Powers,
    Sums,
    far_off,
    robust_scale,
    rounding_power,
    sum_of_squares,
    weigh_alike,
    weigh_by_gain,
    weigh_robustly,
)
from torchops.alignment.system import (
    gauss_newton_matrix,
    motion_vector,
    steepest_descent_vector,
    structure_products,
)

SOLVERS = ("gauss_newton", "levenberg_marquardt")
OBJECTIVES = ("ssd", "ecc")
ROBUST = (None, "huber", "tukey")

# Values of the templates in a piece of a batch. Each small call costs as much for a hundred samples
# as for one; many more, and the memory of a look is mapped anew every time.
PIECE_VALUES = 1 << 20

HUBER, TUKEY = 1.345, 4.685  # in standard deviations: 95 % efficient for Gaussian noise


def evaluate(
    problem: Problem,
    increment: Tensor,
    *,
    clear: Tensor | None = None,
    begin: bool = False,
    before: Sums | None = None,
) -> Sums:
    """Look through ``start @ increment`` and sum up.

    ``clear`` (B,) says of which samples every template pixel falls on image pixels that count, if
    that is known; ``begin`` that an iteration begins, and ``before`` what its last sums were.
    """
    if problem.fused:
        return evaluate_fused(problem, increment, begin, before)
    template, method = problem.template, problem.method
    if method.objective == "ecc":
        sums = _by_piece(_correlation, problem, increment, clear)
        matrix, to_fixed, to_rest, number, *powers = sums
        return weigh_by_gain(problem, matrix, to_fixed, to_rest, Powers(*powers), number)
    if method.robust is not None:
        robust = partial(_robust, begin=begin)
        return weigh_robustly(template, *_by_piece(robust, problem, increment, clear, before))
    return weigh_alike(template, *_by_piece(_squares, problem, increment, clear))


def _by_piece(
    sum_up: Callable[[Problem, View, Sums | None], tuple[Tensor, ...]],
    problem: Problem,
    increment: Tensor,
    clear: Tensor | None,
    before: Sums | None = None,
) -> tuple[Tensor, ...]:
    """Look and sum up over the pixels, on a CPU in pieces of a large batch."""
    batch = len(increment)
    size = max(1, PIECE_VALUES // math.prod(problem.template.values.shape[1:]))
    on_host = increment.device.type == "cpu" and not torch.compiler.is_compiling()
    if batch <= size or not on_host or torch.is_grad_enabled():
        all_clear = clear is not None and bool(clear.all())
        return sum_up(problem, look(problem, increment, all_clear), before)
    size = math.ceil(batch / math.ceil(batch / size))  # all of about one size
    sums = []
    for first in range(0, batch, size):
        rows = slice(first, first + size)
        piece = problem.rows(rows)
        all_clear = clear is not None and bool(clear[rows].all())
        last = before and before._replace(scale=before.scale[rows], far=before.far[rows])
        sums.append(sum_up(piece, look(piece, increment[rows], all_clear), last))
    return tuple(torch.cat(fields) for fields in zip(*sums, strict=True))


def _products(problem: Problem, gradient: Tensor) -> Tensor:
    if problem.method.algorithm == "inverse_compositional":
        return problem.template.products
    return structure_products(gradient)


def _squares(problem: Problem, view: View, before: Sums | None) -> tuple[Tensor, ...]:
    template, basis = problem.template, problem.template.basis
    gradient = linear_gradient(problem, view)
    vector = steepest_descent_vector(gradient, view.residual, basis)
    if view.clear and problem.method.algorithm == "inverse_compositional":
        matrix = template.matrix
    else:
        products = _products(problem, gradient)
        matrix = gauss_newton_matrix(torch.where(view.counts, products, 0), basis)
    matrix = matrix.expand(len(vector), -1, -1)
    return matrix, vector, sum_of_squares(view.residual), view.number


# Robust: iteratively reweighted least squares


def _loss(squared: Tensor, kind: str) -> Tensor:
    """Return rho(r) of r^2, residuals in standard deviations."""
    if kind == "huber":
        r = squared.clamp(min=HUBER**2).sqrt()
        return torch.where(squared < HUBER**2, squared / 2, HUBER * r - HUBER**2 / 2)
    inside = 1 - (squared / TUKEY**2).clamp(max=1)
    return TUKEY**2 / 6 * (1 - inside**3)


def _weight(squared: Tensor, kind: str) -> Tensor:
    """Return rho'(r) / r of r^2."""
    if kind == "huber":
        return HUBER / squared.clamp(min=HUBER**2).sqrt()
    return (1 - (squared / TUKEY**2).clamp(max=1)) ** 2


def _robust(problem: Problem, view: View, before: Sums | None, begin: bool) -> tuple[Tensor, ...]:
    """Sum up with weights.

    Far off, Tukey's function would give the weights of outliers to the very edges that tell where
    to go, so Huber's goes first, until the scale of the residual does not fall any more.
    """
    template, basis, kind = problem.template, problem.template.basis, problem.method.robust
    assert kind is not None
    scale = robust_scale(template, view.residual.abs(), view.counts)
    # A pixel is an outlier with all its channels.
    squared = view.residual.square().mean(-3, keepdim=True)

    far = far_off(scale, kind, begin, before)

    def weigh(function: Callable[[Tensor, str], Tensor], ratio: Tensor, far: Tensor) -> Tensor:
        values = function(ratio, kind)
        if kind == "tukey" and (begin or before is not None):
            values = torch.where(far[:, None, None, None], function(ratio, "huber"), values)
        return torch.where(view.counts, values, 0)

    def objective(at: Tensor, far: Tensor) -> Tensor:
        ratio = squared.detach() / at.detach().square().to(squared.dtype)[:, None, None, None]
        return weigh(_loss, ratio, far).sum((-3, -2, -1), dtype=torch.float64)

    per_pixel = scale.to(squared.dtype)[:, None, None, None]
    weight = weigh(_weight, squared / per_pixel.square(), far)
    gradient = linear_gradient(problem, view)
    vector = steepest_descent_vector(gradient, weight * view.residual, basis)
    matrix = gauss_newton_matrix(_products(problem, gradient) * weight, basis)
    own = objective(scale, far)
    trial = own if before is None else objective(before.scale, before.far)
    squares = sum_of_squares(view.residual)
    return matrix, vector, squares, view.number, own, trial, scale.detach(), far


# Enhanced correlation coefficient


def _without_mean(values: Tensor, counts: Tensor, number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean off every channel; return the rest, its sum of squares, and if it is any."""
    values = torch.where(counts, values, 0)
    mean = values.sum((-2, -1), dtype=torch.float64) / number.clamp(min=1)[:, None]
    values = torch.where(counts, values - mean[..., None, None].to(values.dtype), 0)
    power = sum_of_squares(values)
    least = rounding_power(mean.detach()[..., None], number[:, None], values.dtype)[:, 0]
    return values, power, power.detach() > least


def _correlation(problem: Problem, view: View, before: Sums | None) -> tuple[Tensor, ...]:
    """Sum up for the step that maximises the correlation of the linearised images.

    Forward, the warped image w + G dp is compared with the template r; inverse compositional,
    the template r + G dp with w. So "moving" is what moves and "fixed" what does not.
    """
    template, basis = problem.template, problem.template.basis
    inverse = problem.method.algorithm == "inverse_compositional"
    number = view.number
    reference, power_r, some_r = _without_mean(template.values, view.counts, number)
    warped, power_w, some_w = _without_mean(view.warped, view.counts, number)
    textured = some_r & some_w  # a constant image correlates with nothing: SINGULAR
    contrast = torch.where(textured, power_w, 1) / torch.where(textured, power_r, 1)
    gradient = linear_gradient(problem, view, contrast.sqrt())
    gradient = torch.where(view.counts.unsqueeze(1), gradient, 0)
    matrix = gauss_newton_matrix(_products(problem, gradient) * view.counts, basis)
    fields = gradient.double().movedim(2, 1)  # the mean of G goes, channel by channel
    means = motion_vector(fields, basis)
    matrix = matrix - means.mT @ means / number.clamp(min=1)[:, None, None]
    matrix = torch.where(textured[:, None, None], matrix, 0)

    fixed, moving = (warped, reference) if inverse else (reference, warped)
    gain = (fixed * moving).sum((-3, -2, -1), dtype=torch.float64)
    gain = torch.where(textured, gain, 0)
    gain = gain / torch.where(textured, power_w if inverse else power_r, 1)
    rest = moving - gain[:, None, None, None].to(moving.dtype) * fixed
    to_fixed = steepest_descent_vector(gradient, fixed, basis)
    to_rest = steepest_descent_vector(gradient, rest, basis)
    powers = Powers(power_r, power_w, textured, gain, sum_of_squares(rest))
    return matrix, to_fixed, to_rest, number, *powers
