"""The bilateral filter as a Module."""

from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchops._common.backend import Backend
from torchops.bilateral.arguments import check_sigma, largest_radii, per_axis
from torchops.bilateral.filter import (
    Border,
    Image,
    Method,
    Sigma,
    bilateral_filter,
    check_options,
)


class BilateralFilter(nn.Module):
    """Apply `bilateral_filter` with fixed options.

    The sigmas are kept as buffers where they are tensors. The radius is fixed here, from the
    largest sigma_space, so that no call reads a tensor's value.

    Args:
        sigma_space: As in `bilateral_filter`.
        sigma_range: As in `bilateral_filter`.
        radius: As in `bilateral_filter`; default ceil(3 * sigma_space), of the largest sample.
        window: As in `bilateral_filter`.
        distance: As in `bilateral_filter`.
        border: As in `bilateral_filter`.
        spatial_dims: As in `bilateral_filter`.
        method: As in `bilateral_filter`.
        backend: As in `bilateral_filter`.

    Example:
        >>> import torch
        >>> smooth = BilateralFilter(2.0, 0.1)
        >>> smooth(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        sigma_space: Sigma | tuple[Sigma, ...],
        sigma_range: Sigma,
        *,
        radius: int | tuple[int, ...] | None = None,
        window: Literal["square", "disc"] = "square",
        distance: Literal["l2", "l1"] = "l2",
        border: Border = "reflect",
        spatial_dims: int = 2,
        method: Method = "exact",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_options(window, distance, border, spatial_dims, method, backend)
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

    def _keep(self, name: str, sigma: object) -> None:
        """Keep a number as it is and a tensor as a buffer, which moves with the Module."""
        if isinstance(sigma, Tensor):
            self.register_buffer(name, sigma)
        else:
            setattr(self, name, sigma)

    def forward(
        self,
        image: Image,
        guide: Image | None = None,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    ) -> Image:
        """Filter ``image``; see `bilateral_filter`."""
        sigmas: tuple[Any, ...] = tuple(
            getattr(self, f"sigma_space_{k}") for k in range(self.spatial_sigmas)
        )
        return bilateral_filter(
            image,
            sigmas if len(sigmas) > 1 else sigmas[0],
            self.sigma_range,  # type: ignore[arg-type]  # a Module cannot be in its place
            guide=guide,
            mask=mask,
            radius=self.radius,
            window=self.window,
            distance=self.distance,
            border=self.border,
            spatial_dims=self.spatial_dims,
            method=self.method,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Name the options."""
        return (
            f"radius={self.radius}, window={self.window!r}, distance={self.distance!r}, "
            f"border={self.border!r}, spatial_dims={self.spatial_dims}, method={self.method!r}, "
            f"backend={self.backend!r}"
        )
