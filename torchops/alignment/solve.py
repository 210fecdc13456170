"""Parametric image alignment: the public function and its module."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad

from torchops._common.backend import Backend, resolve_backend
from torchops._common.checks import (
    broadcast_batch,
    check_choice,
    check_image,
    check_integer,
    check_number,
    check_same_device,
)
from torchops._common.precision import compute_dtype, no_autocast
from torchops.alignment.arguments import Pair, check_mask, check_pair, prepare
from torchops.alignment.implicit import FirstOrder, attach
from torchops.alignment.iteration import AlignmentStatus, iterate
from torchops.alignment.motion import check_motion
from torchops.alignment.objective import OBJECTIVES, ROBUST, SOLVERS, evaluate
from torchops.alignment.pyramid import coarse_increment, default_levels
from torchops.alignment.steps import ALGORITHMS, Method, Problem, scaled_to_one
from torchops.alignment.template import Template

GRADIENTS = ("implicit", "unroll", "none")


class Alignment(NamedTuple):
    """What :func:`align` found, per sample.

    Attributes:
        matrix: (*batch, 3, 3), template pixels to image pixels: image(matrix x) = template(x).
        status: (*batch), values of :class:`AlignmentStatus`.
        iterations: (*batch), how many updates were made.
        error: (*batch), root mean square residual at ``matrix`` over the pixels that count, in the
            units of the template (for "ecc" after the best gain and bias); inf where too little
            of the template is visible. No gradient.
    """

    matrix: Float[Tensor, "*batch 3 3"]
    status: Int[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    error: Float[Tensor, "*batch"]

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """Which samples converged."""
        return self.status == AlignmentStatus.CONVERGED


def _needs_gradient(*tensors: Tensor) -> bool:
    if not torch.is_grad_enabled():
        return False
    if any(t.requires_grad for t in tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


class _Options(NamedTuple):
    motion: str
    algorithm: str
    solver: str
    objective: str
    robust: str | None
    levels: int | None
    iterations: int
    tol: float
    gradient: str
    backend: str

    @property
    def method(self) -> Method:
        return Method(self.motion, self.algorithm, self.solver, self.objective, self.robust)

    def check(self) -> "_Options":
        if self.levels is not None:
            check_integer("levels", self.levels, minimum=1)
        check_motion(self.motion)
        check_choice("algorithm", self.algorithm, ALGORITHMS)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("robust", self.robust, ROBUST)
        if self.objective == "ecc" and self.robust is not None:
            raise ValueError(
                f"robust must be None for objective='ecc', got {self.robust!r}: "
                "use objective='ssd', or masks for what does not belong to the template"
            )
        check_integer("iterations", self.iterations, minimum=1)
        check_number("tol", self.tol, minimum=0)
        check_choice("gradient", self.gradient, GRADIENTS)
        check_choice("backend", self.backend, ("auto", "torch", "triton"))
        return self

    def fused(self, image: Tensor, unrolled: bool) -> bool:
        """Say whether the kernels run; raise where they were asked for and cannot.

        ``unrolled`` says that the iterations are to be differentiated, which kernels cannot be.
        """
        if unrolled and self.backend == "triton":
            raise ValueError(
                "backend must be 'auto' or 'torch' for gradients by gradient='unroll', "
                "got 'triton': use gradient='implicit'"
            )
        return resolve_backend(self.backend, image) == "triton" and not unrolled


def _from_coarse(
    pair: Pair, options: _Options, prepared: list[Template] | None, fused: bool
) -> tuple[Pair, Problem, Tensor | None]:
    """Move the start by what the coarse levels find.

    Returns the arguments with that start, the problem they pose at full size, without a graph, and
    the cost at the given start, None if it did not move.
    """
    constant = pair.with_inputs(Tensor.detach)
    size = pair.template.shape[-2:]
    levels = default_levels(*size) if options.levels is None else options.levels
    if prepared is None:
        prepared = prepare(
            constant.template, pair.template_mask, options.motion, levels, pair.batch
        )
    problem = constant.problem(options.method, prepared[0], fused=fused)
    if levels == 1:
        return pair, problem, None
    identity = torch.eye(3, dtype=torch.float64, device=problem.start.device)
    initial = evaluate(problem, identity.expand_as(problem.start)).cost
    increment = coarse_increment(
        problem, prepared[1:], constant.smaller_images(levels), options.iterations, options.tol
    )
    with torch.enable_grad():
        pair = pair._replace(start=scaled_to_one(pair.start @ increment))
    start = problem.template.grid.from_pixels(pair.start.detach())
    return pair, problem._replace(start=start), initial


def _solve(
    pair: Pair, initial: Tensor | None, options: _Options, prepared: list[Template] | None
) -> Alignment:
    """Align; ``prepared`` are the terms of the template, if they are there already."""
    device, dtype = pair.image.device, compute_dtype(pair.image)
    identity = torch.eye(3, dtype=torch.float64, device=device)
    given = identity if initial is None else initial.double()
    given = given.expand(*pair.batch, 3, 3).reshape(-1, 3, 3)
    usable = torch.isfinite(given).flatten(-2).all(-1) & (given[:, 2, 2] != 0)
    start = scaled_to_one(torch.where(usable[:, None, None], given, identity))
    pair = pair._replace(start=start)
    wanted = options.gradient != "none" and _needs_gradient(pair.template, pair.image, start)
    unrolled = wanted and options.gradient == "unroll"
    fused = options.fused(pair.image, unrolled)

    with torch.no_grad():
        pair, problem, initial_cost = _from_coarse(pair, options, prepared, fused)
    if unrolled:
        problem = pair.problem(options.method, None)
    with torch.set_grad_enabled(unrolled):
        state = iterate(problem, options.iterations, options.tol, initial_cost)
    increment = state.best
    found = state.status <= int(AlignmentStatus.ITERATION_LIMIT)
    if wanted and options.gradient == "implicit":
        pair = pair.with_inputs(FirstOrder.apply)
        increment = attach(pair.problem(options.method, None), problem, increment, found & usable)
    elif not wanted:
        pair = pair.with_inputs(Tensor.detach)

    grid = problem.template.grid
    matrix = scaled_to_one(grid.to_pixels(grid.from_pixels(pair.start) @ increment))
    matrix = torch.where((found & usable)[:, None, None], matrix, matrix.detach())
    matrix = torch.where(usable[:, None, None], matrix, given.detach())
    status = torch.where(usable, state.status, int(AlignmentStatus.DIVERGED))
    error = torch.where(usable, state.error, torch.inf).detach()
    return Alignment(
        matrix.to(dtype).reshape(*pair.batch, 3, 3),
        status.reshape(pair.batch),
        torch.where(usable, state.iterations, 0).reshape(pair.batch),
        error.to(dtype).reshape(pair.batch),
    )


def align(
    template: Float[Tensor, "*#batch c h w"],
    image: Float[Tensor, "*#batch c height width"],
    *,
    motion: str = "homography",
    algorithm: str = "inverse_compositional",
    solver: str = "gauss_newton",
    objective: str = "ssd",
    initial: Float[Tensor, "*#batch 3 3"] | None = None,
    levels: int | None = None,
    iterations: int = 50,
    tol: float = 1e-3,
    template_mask: Bool[Tensor, "*#batch 1 h w"] | None = None,
    image_mask: Bool[Tensor, "*#batch 1 height width"] | None = None,
    robust: str | None = None,
    gradient: str = "implicit",
    backend: Backend = "auto",
) -> Alignment:
    """Find the warp that maps template pixels to image pixels, by Gauss-Newton iteration.

    Minimises ``sum_x (image(W x) - template(x))^2``, or what ``objective`` and ``robust`` put in
    its place, over the warps W = initial D with D in the motion group, over the pixels x that count
    and fall inside the image. Out-of-view pixels and pixels with a NaN leave the sums. The full
    size works on the images as they come: blurring them first (sigma 1) widens the basin of
    attraction and smooths the cost.

    =======================  ====================================  ===========================
    algorithm                linearises with the gradient of       update
    =======================  ====================================  ===========================
    "forward_additive"       the image, sampled at W               parameters + step
    "forward_compositional"  the warped image                      W after the step's warp
    "inverse_compositional"  the template: once for all            W after its inverse
    "esm"                    the mean of template and warped       W after the step's warp
    =======================  ====================================  ===========================

    "esm" needs the fewest iterations and has the widest basin; "inverse_compositional" has the
    cheapest iteration. The parameters of "forward_additive" are those of D, in template
    coordinates centred and scaled to [-1, 1], as all sums are. The P x P systems are solved by
    Cholesky in float64; a sample whose system is singular ends with the status SINGULAR.

    Every algorithm, solver, motion and gradient goes with every other, and with

    =========  =================  ================================================================
    objective  robust             minimises
    =========  =================  ================================================================
    "ssd"      None               sum e^2, with e = image(W x) - template(x)
    "ssd"      "huber", "tukey"   sum rho(|e| / s): beyond 1.345 (Huber) or up to 4.685 (Tukey)
                                  standard deviations s a pixel pulls no harder, or not at all
    "ecc"      None               minus the correlation of image(W x) and template(x) without
                                  their means: what a gain and a bias of the image leave alone
    =========  =================  ================================================================

    "ecc" with a robust function raises. In "ssd" with one, |e| is the root mean square over a
    pixel's channels, and s is estimated anew in every iteration as 1.4826 times the median of the
    absolute residuals. Tukey's function sees little of a template that is far off: give it
    ``levels``. "ecc" takes the mean off each channel and one gain for all of them.

    Args:
        template: (*batch, C, h, w) floating, any range; any number of channels (feature maps).
        image: (*batch, C, H, W), of the template's dtype. Batch dimensions of all arguments
            broadcast: one template with many images, one image with many templates.
        motion: "translation", "euclidean", "similarity", "affine" or "homography".
        algorithm: See the first table.
        solver: "gauss_newton", or "levenberg_marquardt": H + damping diag(H) in place of H, for
            each sample its own damping; a step that raises the cost is undone, and the damping
            raised tenfold, else it falls tenfold. Slower than Gauss-Newton where that converges,
            and never worse than the start.
        objective: See the second table.
        initial: (*batch, 3, 3) start, template pixels to image pixels; None is the identity. It
            need not belong to the motion group: a translation then refines a given rotation.
        levels: How many sizes of the images to go through, each half of the one before; 1 is the
            full size only. None takes as many as leave the template's shorter side 24 pixels (3 at
            100 x 100), for starts up to a fifth of the template's side away. What a coarse level
            finds is dropped where it raises the error of the next.
        iterations: The most updates that are made at each level; the result counts those at the
            full size.
        tol: A sample stops when an update moves every template corner by less, in pixels. The
            default ends near 1e-3 px, well below what noise leaves. 0 makes all iterations for
            all samples without ever waiting for the device, which compiles, exports and runs
            under ``torch.func``; the status is then never CONVERGED.
        template_mask: (*batch, 1, h, w) boolean, the template pixels that count.
        image_mask: (*batch, 1, H, W) boolean, the image pixels that count.
        robust: See the second table.
        gradient: How gradients reach the result: "implicit" (differentiate the equation that holds
            at the end), "unroll" (differentiate every iteration) or "none".
        backend: "torch", plain PyTorch anywhere; "triton", the GPU kernels, which sum up one look
            at the images and solve in one launch each; "auto" takes the kernels on a GPU. A
            gradient by "unroll" needs plain PyTorch, which "auto" then takes.

    Returns:
        :class:`Alignment` (matrix, status, iterations, error), one entry per sample. If a sample
        did not converge, its matrix is the finite iterate of least error, the initial one if there
        is none. It never raises because of what the pixels are.

    Raises:
        TypeError: Arguments of wrong type, masks that are not boolean, dtypes that differ.
        ValueError: Wrong shapes, unknown options or a pair of options that do not go together,
            different devices, ``backend="triton"`` where a gradient by "unroll" is needed.
        RuntimeError: If ``backend="triton"`` cannot be had.

    Gradients:
        To ``template``, ``image`` and ``initial``; exactly zero for samples that are DIVERGED,
        SINGULAR or OUT_OF_VIEW. "implicit" is the derivative of the solution, also where the
        residual is not zero; it takes one P x P solve and one backward pass, and is of first order
        (a second derivative raises). It is exact at a solution: give it the iterations, or the
        tolerance, to settle, and take "forward_additive" or "esm" where template and image are
        noisy, on which "inverse_compositional" settles slowly. "unroll" is the
        derivative of the iterations at the full size as they ran, of any order; memory grows with
        their number. With a robust function both go through its weights and the median, too.
        Bilinear interpolation makes both jump where a pixel's position crosses a row or column.

    References:
        Baker and Matthews, "Lucas-Kanade 20 years on: a unifying framework", 2004. Benhimane and
        Malis, "Real-time image-based tracking of planes using efficient second-order
        minimization", 2004. Evangelidis and Psarakis, "Parametric image alignment using enhanced
        correlation coefficient maximization", 2008.

    Example:
        >>> y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
        >>> image = ((x / 5).sin() + (y / 7).cos())[None]
        >>> near = torch.tensor([[1.0, 0.0, 10.0], [0.0, 1.0, 11.0], [0.0, 0.0, 1.0]])
        >>> found = align(image[:, 10:40, 12:42], image, motion="translation", initial=near)
        >>> found.converged.item(), found.matrix[:2, 2].round(decimals=2)
        (True, tensor([12., 10.]))
    """
    options = _Options(
        motion, algorithm, solver, objective, robust, levels, iterations, tol, gradient, backend
    ).check()
    batch = check_pair(template, image, initial, template_mask, image_mask)
    pair = Pair(template, image, template, template_mask, image_mask, batch)
    with no_autocast(image):
        return _solve(pair, initial, options, None)


class LucasKanadeAligner(nn.Module):
    """Align many images with one template, whose terms are computed once.

    See :func:`align`, whose options these are. Template and mask are buffers; the terms are
    computed again when the module moves to another device or dtype.

    Example:
        >>> aligner = LucasKanadeAligner(torch.rand(1, 20, 20), motion="affine")
        >>> aligner(torch.rand(5, 1, 30, 40)).matrix.shape
        torch.Size([5, 3, 3])
    """

    template: Tensor
    template_mask: Tensor | None

    def __init__(
        self,
        template: Float[Tensor, "*batch c h w"],
        *,
        template_mask: Bool[Tensor, "*mask_batch 1 h w"] | None = None,
        motion: str = "homography",
        algorithm: str = "inverse_compositional",
        solver: str = "gauss_newton",
        objective: str = "ssd",
        robust: str | None = None,
        levels: int | None = None,
        iterations: int = 50,
        tol: float = 1e-3,
        gradient: str = "implicit",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.options = _Options(
            motion,
            algorithm,
            solver,
            objective,
            robust,
            levels,
            iterations,
            tol,
            gradient,
            backend,
        ).check()
        check_image("template", template)
        check_mask("template_mask", template_mask, template)
        check_same_device(template=template, template_mask=template_mask)
        self.register_buffer("template", template)
        self.register_buffer("template_mask", template_mask)
        self._prepare()

    def _prepare(self) -> None:
        shapes = {"template": self.template.shape[:-3]}
        if self.template_mask is not None:
            shapes["template_mask"] = self.template_mask.shape[:-3]
        self._batch = broadcast_batch(**shapes)
        with torch.no_grad(), no_autocast(self.template):
            levels = self.options.levels or default_levels(*self.template.shape[-2:])
            self._terms = prepare(
                self.template.detach(),
                self.template_mask,
                self.options.motion,
                levels,
                self._batch,
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LucasKanadeAligner":
        super()._apply(fn, recurse)
        self._prepare()
        return self

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options._asdict().items())

    def forward(
        self,
        image: Float[Tensor, "*#batch c height width"],
        initial: Float[Tensor, "*#batch 3 3"] | None = None,
        image_mask: Bool[Tensor, "*#batch 1 height width"] | None = None,
    ) -> Alignment:
        """Align each image with the template; see :func:`align`."""
        template, mask = self.template, self.template_mask
        batch = check_pair(template, image, initial, mask, image_mask)
        pair = Pair(template, image, template, mask, image_mask, batch)
        same = self._batch.numel() == 1 or self._batch == batch
        with no_autocast(image):
            return _solve(pair, initial, self.options, self._terms if same else None)
