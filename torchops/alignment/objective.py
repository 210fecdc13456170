"""What is minimised: the error of a view, its Gauss-Newton system, and how both are weighed.

"ssd" is the sum of squared differences, with ``robust`` that of a function of them that grows more
slowly (Huber) or not at all (Tukey) beyond a few standard deviations. "ecc" is the enhanced
correlation coefficient of Evangelidis and Psarakis, which a gain and a bias leave as it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchops.alignment.steps import Problem, View, linear_gradient, look
from torchops.alignment.system import (
    gauss_newton_matrix,
    motion_vector,
    solve_system,
    steepest_descent_vector,
    structure_products,
)
from torchops.alignment.template import Template

SOLVERS = ("gauss_newton", "levenberg_marquardt")
OBJECTIVES = ("ssd", "ecc")
ROBUST = (None, "huber", "tukey")

# Fewer visible pixels than this part of the template make a sample out of view: a sliver of a
# template fits almost anywhere.
VISIBLE_PART = 0.1

HUBER, TUKEY = 1.345, 4.685  # in standard deviations: 95 % efficient for Gaussian noise
MAD = 1.4826  # a Gaussian's standard deviation in median absolute values
FALLING = 0.98  # a scale that falls below this part of the one before is still on its way


class Sums(NamedTuple):
    """What one look at the images leaves of them, per sample (B,), all in float64.

    Attributes:
        matrix: H = sum w SD^T SD over the pixels that count, (B, P, P).
        vector: b, (B, P): H step = b is the next step.
        squares: Sum of squares of the residual (ecc: after the best gain and bias).
        freedom: How many pixel values count.
        error: Root mean square residual (ecc: after the best gain and bias), inf where too little
            of the template is seen.
        cost: What tells a better warp from a worse one: the error, or the robust standard
            deviation of the residual; inf as the error is.
        objective: What the step lowers, at the scale of these residuals.
        trial: The same at the scale of the sums before, so that the two can be compared.
        scale: The robust standard deviation; 0 where nothing is robust.
        far: Whether Tukey's function waits, and Huber's is used.
    """

    matrix: Tensor
    vector: Tensor
    squares: Tensor
    freedom: Tensor
    error: Tensor
    cost: Tensor
    objective: Tensor
    trial: Tensor
    scale: Tensor
    far: Tensor


def noise_floor(template: Template) -> Tensor:
    """Return what the rounding of a constant image adds to the Gauss-Newton matrix."""
    eps = torch.finfo(template.values.dtype).eps
    return template.number * (8 * eps * template.amplitude * template.grid.scale) ** 2


def slack(template: Template) -> Tensor:
    """Return what rounding adds to the error of a perfect alignment."""
    return 4 * torch.finfo(template.values.dtype).eps * template.amplitude


def evaluate(
    problem: Problem,
    increment: Tensor,
    *,
    clear: bool = False,
    begin: bool = False,
    before: Sums | None = None,
) -> Sums:
    """Look through ``start @ increment`` and sum up.

    ``clear`` says that every template pixel falls on image pixels that count; ``begin`` that an
    iteration begins, and ``before`` what its last sums were.
    """
    if problem.fused:
        return _evaluate_fused(problem, increment, begin, before)
    view = look(problem, increment, clear)
    batch = increment.shape[0]
    number = problem.template.number if clear else view.counts.sum((-3, -2, -1))
    number = number.expand(batch)
    if problem.method.objective == "ecc":
        return _correlation(problem, view, number)
    if problem.method.robust is not None:
        return _robust(problem, view, number, begin, before)
    return _squares(problem, view, number, clear)


def _seen(number: Tensor, template: Template) -> Tensor:
    return (number > 0) & (number >= VISIBLE_PART * template.number)


def _products(problem: Problem, gradient: Tensor) -> Tensor:
    if problem.method.algorithm == "inverse_compositional":
        return problem.template.products
    return structure_products(gradient)


def _sum_of_squares(values: Tensor) -> Tensor:
    return (values * values).sum((-3, -2, -1), dtype=torch.float64)


def _root_mean_square(squares: Tensor, number: Tensor, template: Template) -> Tensor:
    mean = squares.detach() / (number.clamp(min=1) * template.values.shape[-3])
    return torch.where(_seen(number, template), mean.sqrt(), torch.inf)


def _squares(problem: Problem, view: View, number: Tensor, clear: bool) -> Sums:
    template, basis = problem.template, problem.template.basis
    gradient = linear_gradient(problem, view)
    vector = steepest_descent_vector(gradient, view.residual, basis)
    if clear and problem.method.algorithm == "inverse_compositional":
        matrix = template.matrix
    else:
        products = _products(problem, gradient)
        matrix = gauss_newton_matrix(torch.where(view.counts, products, 0), basis)
    matrix = matrix.expand(len(vector), -1, -1)
    return _weigh_alike(template, matrix, vector, _sum_of_squares(view.residual), number)


def _weigh_alike(
    template: Template, matrix: Tensor, vector: Tensor, squares: Tensor, number: Tensor
) -> Sums:
    error = _root_mean_square(squares, number, template)
    freedom = number * template.values.shape[-3]
    scale, far = torch.zeros_like(error), torch.zeros_like(error, dtype=torch.bool)
    return Sums(matrix, vector, squares, freedom, error, error, error, error, scale, far)


# Robust: iteratively reweighted least squares


def _median(values: Tensor, counts: Tensor) -> Tensor:
    counted = torch.where(counts, values, torch.nan).flatten(1)
    return torch.nan_to_num(counted.nanmedian(1).values)


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


def _robust(problem: Problem, view: View, number: Tensor, begin: bool, before: Sums | None) -> Sums:
    """Sum up with weights.

    Far off, Tukey's function would give the weights of outliers to the very edges that tell where
    to go, so Huber's goes first, until the scale of the residual does not fall any more.
    """
    template, basis, kind = problem.template, problem.template.basis, problem.method.robust
    assert kind is not None
    scale = _robust_scale(template, view.residual.abs(), view.counts)
    # A pixel is an outlier with all its channels.
    squared = view.residual.square().mean(-3, keepdim=True)

    far = _far(scale, kind, begin, before)

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
    squares = _sum_of_squares(view.residual)
    return _weigh_robustly(
        template, matrix, vector, squares, number, own, trial, scale.detach(), far
    )


def _robust_scale(template: Template, residual: Tensor, counts: Tensor) -> Tensor:
    floor = slack(template).clamp(min=torch.finfo(residual.dtype).tiny)
    return (MAD * _median(residual, counts).double()).maximum(floor)


def _far(scale: Tensor, kind: str, begin: bool, before: Sums | None) -> Tensor:
    if before is not None:
        return before.far & (scale.detach() < FALLING * before.scale)
    return torch.full_like(scale, begin and kind == "tukey", dtype=torch.bool)


def _weigh_robustly(
    template: Template,
    matrix: Tensor,
    vector: Tensor,
    squares: Tensor,
    number: Tensor,
    loss: Tensor,
    trial: Tensor,
    scale: Tensor,
    far: Tensor,
) -> Sums:
    seen, count = _seen(number, template), number.clamp(min=1)
    cost, own, trial = (
        torch.where(seen, value, torch.inf) for value in (scale, loss / count, trial / count)
    )
    error = _root_mean_square(squares, number, template)
    freedom = number * template.values.shape[-3]
    return Sums(matrix, vector, squares, freedom, error, cost, own, trial, scale, far)


# Enhanced correlation coefficient


def _without_mean(values: Tensor, counts: Tensor, number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean off every channel; return the rest, its sum of squares, and if it is any."""
    values = torch.where(counts, values, 0)
    mean = values.sum((-2, -1), dtype=torch.float64) / number.clamp(min=1)[:, None]
    values = torch.where(counts, values - mean[..., None, None].to(values.dtype), 0)
    power = _sum_of_squares(values)
    least = _rounding_power(mean.detach()[..., None], number[:, None], values.dtype)[:, 0]
    return values, power, power.detach() > least


def _rounding_power(mean: Tensor, number: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what rounding leaves of constant channels (B, C, K): their power (B, K)."""
    return (8 * torch.finfo(dtype).eps) ** 2 * number * mean.square().sum(1)


def _correlation(problem: Problem, view: View, number: Tensor) -> Sums:
    """Sum up for the step that maximises the correlation of the linearised images.

    Forward, the warped image w + G dp is compared with the template r; inverse compositional,
    the template r + G dp with w. So "moving" is what moves and "fixed" what does not.
    """
    template, basis = problem.template, problem.template.basis
    inverse = problem.method.algorithm == "inverse_compositional"
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
    powers = Powers(power_r, power_w, textured, gain, _sum_of_squares(rest))
    return _weigh_by_gain(problem, matrix, to_fixed, to_rest, powers, number)


class Powers(NamedTuple):
    """Per sample: the powers of template and warped image about their means, and what is left."""

    template: Tensor
    warped: Tensor
    textured: Tensor  # whether both are more than rounding
    gain: Tensor  # fixed to moving
    unexplained: Tensor  # the power of moving - gain * fixed

    @property
    def contrast(self) -> Tensor:
        """How many times the template's power the warped image has, 1 without texture."""
        return torch.where(self.textured, self.warped, 1) / torch.where(
            self.textured, self.template, 1
        )


def _weigh_by_gain(
    problem: Problem,
    matrix: Tensor,
    to_fixed: Tensor,
    to_rest: Tensor,
    powers: Powers,
    number: Tensor,
) -> Sums:
    textured, gain = powers.textured, powers.gain
    inverse = problem.method.algorithm == "inverse_compositional"
    power, other = (powers.warped, powers.template)
    if not inverse:
        power, other = other, power
    excess = _gain_excess(
        problem,
        matrix,
        to_fixed,
        to_rest,
        gain,
        torch.where(textured, power, 1),
        powers.unexplained,
    )
    vector = to_rest - excess[:, None] * to_fixed
    if inverse:
        vector = -vector

    # The residual in units of the template, for no negative gain.
    left = torch.where(gain > 0, powers.unexplained, other)
    left = left if inverse else left / powers.contrast
    left = torch.where(textured, left, powers.template)
    return _weigh_alike(problem.template, matrix, vector, left, number)


def _gain_excess(
    problem: Problem,
    matrix: Tensor,
    to_fixed: Tensor,
    to_rest: Tensor,
    gain: Tensor,
    power: Tensor,
    unexplained: Tensor,
) -> Tensor:
    """Return lambda - gain, with which ``G^T (moving - lambda fixed)`` gives the best step.

    lambda = (|m|^2 - m^T P m) / (f^T m - f^T P m), P the projection on the columns of G, with
    m = gain f + rest put in, so that nothing cancels where the rest is small.
    """
    basis, template = problem.template.basis, problem.template
    eps = torch.finfo(template.values.dtype).eps
    floor = noise_floor(template).expand(len(gain))
    solved_fixed, solved_rest = (
        solve_system(matrix, vector, basis.scale, floor, eps, fused=problem.fused)[0]
        for vector in (to_fixed, to_rest)
    )
    ff = (to_fixed * solved_fixed).sum(-1)
    fr = (to_fixed * solved_rest).sum(-1)
    rr = (to_rest * solved_rest).sum(-1)
    along = gain * (power - ff) - fr  # f^T m - f^T P m
    positive = along > 0
    regular = (unexplained - rr - gain * fr) / torch.where(positive, along, 1)
    # Where no step makes the correlation positive, the step that makes it least negative.
    some = ff > 0
    ff = torch.where(some, ff, 1)
    moving = (gain.square() * ff + 2 * gain * fr + rr).clamp(min=torch.finfo(ff.dtype).tiny)
    other = torch.maximum((moving / ff).sqrt(), -along / ff)
    return torch.where(positive, regular, torch.where(some, other - gain, 0))


# The same by kernels


def _evaluate_fused(problem: Problem, increment: Tensor, begin: bool, before: Sums | None) -> Sums:
    matrix = problem.start @ increment
    if problem.method.objective == "ecc":
        return _correlation_fused(problem, matrix)
    if problem.method.robust is not None:
        return _robust_fused(problem, matrix, begin, before)
    sums = _look_fused(problem, matrix, "ssd")
    number = sums[:, 0, -1]
    hessian, (vector,), squares = _unpack(problem, sums.sum(1), 1)
    return _weigh_alike(problem.template, hessian, vector, squares[:, 0], number)


def _look_fused(
    problem: Problem,
    matrix: Tensor,
    objective: str,
    extra: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    template, method = problem.template, problem.method
    return torch.ops.torchops.alignment_sums(
        template.values,
        template.counts,
        template.gradient,
        problem.image,
        matrix,
        template.number,
        template.matrix,
        extra,
        residual,
        method.motion,
        method.algorithm,
        objective,
    )


def _unpack(
    problem: Problem, sums: Tensor, vectors: int
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Split sums (B, K) into H, some vectors (P) and the numbers that follow."""
    count = problem.template.basis.scale.numel()
    lengths = [count * count] + [count] * vectors
    hessian, *rest = sums.split([*lengths, sums.shape[-1] - sum(lengths)], -1)
    return hessian.unflatten(-1, (count, count)), tuple(rest[:-1]), rest[-1]


def _robust_fused(problem: Problem, matrix: Tensor, begin: bool, before: Sums | None) -> Sums:
    template, kind = problem.template, problem.method.robust
    assert kind is not None
    residual = torch.ops.torchops.alignment_residual(
        template.values, template.counts, problem.image, matrix
    )
    counts = ~residual[:, :1].isnan()
    scale = _robust_scale(template, residual.abs(), counts)
    far = _far(scale, kind, begin, before)
    own, last = (scale, far.double()), (scale, far.double())
    if before is not None:
        last = before.scale, before.far.double()
    scales = torch.stack([*own, *last], -1)
    sums = _look_fused(problem, matrix, kind, scales, residual)
    hessian, (vector,), _ = _unpack(problem, sums.sum(1), 1)
    loss, trial = sums[:, 0, -2:].unbind(-1)  # of a pixel, not of its channels
    squares = _sum_of_squares(torch.where(counts, residual, 0))
    number = counts.sum((-3, -2, -1))
    return _weigh_robustly(template, hessian, vector, squares, number, loss, trial, scale, far)


def _correlation_fused(problem: Problem, matrix: Tensor) -> Sums:
    template = problem.template
    inverse = problem.method.algorithm == "inverse_compositional"
    moments = torch.ops.torchops.alignment_moments(
        template.values, template.counts, problem.image, matrix
    )
    number = moments[:, 0, 0]
    count = number.clamp(min=1)[:, None]
    r, w, rr, ww, rw, base_r, base_w = moments.unbind(-1)[1:]
    power_r, power_w, common = (
        (product - one * other / count).sum(-1)
        for product, one, other in ((rr, r, r), (ww, w, w), (rw, r, w))
    )
    means = torch.stack([base_r + r / count, base_w + w / count], -1)
    least = _rounding_power(means, number[:, None], template.values.dtype)
    textured = (power_r > least[:, 0]) & (power_w > least[:, 1])
    # By rounding, less than nothing may be left of a constant.
    powers = Powers(power_r.clamp(min=0), power_w.clamp(min=0), textured, common, common)
    power = powers.warped if inverse else powers.template
    gain = torch.where(powers.textured, common, 0) / torch.where(powers.textured, power, 1)
    of_sample = torch.stack([powers.contrast.sqrt(), gain], -1)[:, None].expand(-1, r.shape[1], -1)
    sums = _look_fused(problem, matrix, "ecc", torch.cat([means, of_sample], -1))
    hessian, (to_fixed, to_rest, _), unexplained = _unpack(problem, sums.sum(1), 3)
    _, (_, _, gradients), _ = _unpack(problem, sums.flatten(0, 1), 3)
    gradients = gradients.unflatten(0, sums.shape[:2])
    hessian = hessian - gradients.mT @ gradients / count[..., None]
    hessian = torch.where(textured[:, None, None], hessian, 0)
    powers = powers._replace(gain=gain, unexplained=unexplained[:, 0])
    return _weigh_by_gain(problem, hessian, to_fixed, to_rest, powers, number)
