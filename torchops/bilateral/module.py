"""The bilateral filter as a Module."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchops._common.backend import Backend
from torchops._common.checks import check_bool
from torchops.bilateral.arguments import check_sigma, largest_radii, per_axis
from torchops.bilateral.filter import (
    Border,
    Image,
    Method,
    Sigma,
    bilateral_filter,
    check_options,
)

# What a learned sigma stays between: its square, and the square of that, are normal float32.
SMALLEST, LARGEST = 1e-8, 1e8


class BilateralFilter(nn.Module):
    """Apply `bilateral_filter` with fixed options, and with sigmas that can be learned.

    The properties ``sigma_space`` and ``sigma_range`` are what is passed on. Learned sigmas are
    stored as their logarithms, parameters named ``log_...``: a sigma is then positive after any
    step of any optimiser (and between 1e-8 and 1e8), and a step changes it by a proportion, so
    that one learning rate suits pixels, grey levels and fractions of 1 alike. Weight decay pulls a
    logarithm to 0, a sigma to 1: give them a parameter group without it.

    Sigmas that are not learned are kept as buffers where they are tensors. The radius is fixed
    here, from the largest sigma_space, so that no call reads a tensor's value; a learned
    sigma_space that may grow needs a larger ``radius``.

    Args:
        sigma_space: As in `bilateral_filter`.
        sigma_range: As in `bilateral_filter`.
        learnable: Whether the sigmas are parameters, which start at the given values.
        radius: As in `bilateral_filter`; default ceil(3 * sigma_space), of the largest sample.
        window: As in `bilateral_filter`.
        distance: As in `bilateral_filter`.
        border: As in `bilateral_filter`.
        spatial_dims: As in `bilateral_filter`.
        method: As in `bilateral_filter`.
        tolerance: As in `bilateral_filter`.
        terms: As in `bilateral_filter`.
        backend: As in `bilateral_filter`.

    Example:
        >>> import torch
        >>> smooth = BilateralFilter(2.0, 0.1, learnable=True)
        >>> smooth(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
        >>> smooth.sigma_space
        tensor(2., grad_fn=<ExpBackward0>)
    """

    def __init__(
        self,
        sigma_space: Sigma | tuple[Sigma, ...],
        sigma_range: Sigma,
        *,
        learnable: bool = False,
        radius: int | tuple[int, ...] | None = None,
        window: Literal["square", "disc"] = "square",
        distance: Literal["l2", "l1"] = "l2",
        border: Border = "reflect",
        spatial_dims: int = 2,
        method: Method = "exact",
        tolerance: float = 1e-3,
        terms: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_bool("learnable", learnable)
        check_options(window, distance, border, spatial_dims, method, backend, tolerance, terms)
        self.learnable = learnable
        self.spatial_sigmas = len(sigma_space) if isinstance(sigma_space, tuple) else 1
        for k, sigma in enumerate(per_axis("sigma_space", sigma_space, spatial_dims)):
            check_sigma("sigma_space", sigma)
            if k < self.spatial_sigmas:
                self._keep(f"sigma_space_{k}", sigma)
        check_sigma("sigma_range", sigma_range)
        self._keep("sigma_range", sigma_range)
        self.radius = largest_radii(radius, sigma_space, spatial_dims)
        self.window, self.distance, self.border = window, distance, border
        self.spatial_dims, self.method, self.backend = spatial_dims, method, backend
        self.tolerance, self.terms = tolerance, terms

    def _keep(self, name: str, sigma: object) -> None:
        """Keep a number as it is, a tensor as a buffer, and what is learned as a parameter."""
        if self.learnable:
            dtype = sigma.dtype if isinstance(sigma, Tensor) else torch.get_default_dtype()
            exact = torch.as_tensor(sigma, dtype=torch.float64).detach()
            setattr(self, f"log_{name}", nn.Parameter(exact.log().to(dtype)))
        elif isinstance(sigma, Tensor):
            self.register_buffer(f"fixed_{name}", sigma)
        else:
            setattr(self, f"fixed_{name}", sigma)

    def _sigma(self, name: str) -> float | Tensor:
        if self.learnable:
            logarithm: Tensor = getattr(self, f"log_{name}")
            return logarithm.clamp(math.log(SMALLEST), math.log(LARGEST)).exp()
        return getattr(self, f"fixed_{name}")

    @property
    def sigma_space(self) -> float | Tensor | tuple[float | Tensor, ...]:
        """The standard deviation in pixels, or one per axis where it was given so."""
        sigmas = tuple(self._sigma(f"sigma_space_{k}") for k in range(self.spatial_sigmas))
        return sigmas if self.spatial_sigmas > 1 else sigmas[0]

    @property
    def sigma_range(self) -> float | Tensor:
        """The standard deviation in units of the guide."""
        return self._sigma("sigma_range")

    def forward(
        self,
        image: Image,
        guide: Image | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    ) -> Image:
        """Filter ``image``; see `bilateral_filter`."""
        return bilateral_filter(
            image,
            self.sigma_space,
            self.sigma_range,
            guide=guide,
            mask=mask,
            radius=self.radius,
            window=self.window,
            distance=self.distance,
            border=self.border,
            spatial_dims=self.spatial_dims,
            method=self.method,
            tolerance=self.tolerance,
            terms=self.terms,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Name the options."""
        return (
            f"radius={self.radius}, window={self.window!r}, distance={self.distance!r}, "
            f"border={self.border!r}, spatial_dims={self.spatial_dims}, method={self.method!r}, "
            f"backend={self.backend!r}, learnable={self.learnable}"
        )
