"""The public bilateral filter: arguments in, method picked, dtype restored."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from torchops._common.backend import Backend, resolve_backend
from torchops._common.checks import check_choice, check_integer, check_number, check_tensor
from torchops._common.precision import no_autocast
from torchops.bilateral.arguments import (
    by_group,
    make_batch,
    restore,
    window_radii,
)
from torchops.bilateral.exact import exact_filter
from torchops.bilateral.fourier import fourier_filter
from torchops.bilateral.fused import exact_filter_fused
from torchops.bilateral.grid import grid_filter
from torchops.bilateral.piecewise import piecewise_filter

Image = Float[Tensor, "..."] | UInt8[Tensor, "..."]
Sigma = float | int | Float[Tensor, "..."]
Border = Literal["reflect", "replicate", "constant", "circular", "valid_only"]

Method = Literal["exact", "piecewise", "grid", "fourier"]

METHODS = ("exact", "piecewise", "grid", "fourier")
BORDERS = ("reflect", "replicate", "constant", "circular", "valid_only")


def bilateral_filter(
    image: Image,
    sigma_space: Sigma | tuple[Sigma, ...],
    sigma_range: Sigma,
    *,
    guide: Image | None = None,
    radius: int | tuple[int, ...] | None = None,
    window: Literal["square", "disc"] = "square",
    distance: Literal["l2", "l1"] = "l2",
    border: Border = "reflect",
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    spatial_dims: int = 2,
    method: Method = "exact",
    tolerance: float = 1e-3,
    terms: int | None = None,
    backend: Backend = "auto",
) -> Image:
    """Average every pixel with those neighbours that are both near and similar.

    With p a pixel, q the pixels of its window and m the mask::

        output_p = sum_q m_q w_pq image_q / sum_q m_q w_pq
        w_pq = exp(-|p - q|^2 / (2 sigma_space^2)) exp(-d(guide_p, guide_q)^2 / (2 sigma_range^2))

    One weight serves all channels.

    - ``method="exact"`` costs one exponential per pair of neighbours and memory for a few images,
      whatever the window, with gradients too; compiled, it is unrolled offset by offset, which
      takes the compiler long for large windows. For sigma_space up to about 4, and for colour.
    - ``"fourier"`` gives the exact filter's result up to a ``tolerance`` of your choice, at a cost
      that hardly grows with sigma_space: 2 Fourier transforms per term and channel (and one
      channel more). The terms grow with the guide's range over sigma_range, and slowly with
      sigma_space and digits of the tolerance: 10 to 14 for a tenth of the range. For small
      errors at sigma_space above about 5. In float32, rounding adds about 1e-7 times the window's
      weight over the weight of the similar pixels in it.
    - ``"grid"`` (bilateral grid) and ``"piecewise"`` (Durand and Dorsey) work on cells of 2/3
      sigma_space, 4 to 7 pixels, at 32 levels between the least and the greatest value of the
      guide: the same time for any sigma_space, the grid a little less than piecewise. On
      photographs, with sigma_range at least 1/20 of the guide's range, both were 57 dB (at
      sigma_space 3) to 69 dB (at 16) close to exact, and at worst 2 % of the range off at single
      pixels; at 1/50 the grid 57 and piecewise 60 dB, and below, any sigma_range acts as if it
      were 1/50 (1/62 for piecewise). For previews and tone mapping; piecewise where sigma_range
      is small.

    With gradients, all of them compute again in the backward what they need, instead of keeping
    it: the memory stays that of a few images.

    Args:
        image: (*batch, C, H, W), floating or uint8; any number of channels, any range of values.
            With ``spatial_dims`` 1 or 3: (*batch, C, L) or (*batch, C, D, H, W).
        sigma_space: Standard deviation of the spatial Gaussian in pixels. A number, a 0-d tensor,
            a tensor of the batch shape (one per sample), or a tuple of these, one per spatial axis.
        sigma_range: Standard deviation of the range Gaussian in units of the guide (grey levels
            for a uint8 guide). A number, a 0-d tensor or a tensor of the batch shape.
        guide: (*batch, D, H, W), what is compared; default the image itself.
        radius: Window radius in pixels, also one per axis. Default: ceil(3 * sigma_space) of each
            sample, outside of which lies 0.3 % of a Gaussian. With a tensor sigma_space that
            default reads the tensor's value, which waits for a GPU once; samples with different
            radii are then filtered in groups.
        window: "square", or "disc": only offsets with |p - q| <= radius, as OpenCV has it.
        distance: d between two guide pixels across channels: "l2", or "l1" (the sum of absolute
            differences, as OpenCV has it for colour).
        border: What lies outside. "reflect" mirrors about the edge pixel's centre (OpenCV's
            REFLECT_101), as often as needed; "replicate"; "constant", pixels of value 0 that
            count; "circular"; "valid_only", nothing: outside pixels do not enter the sums.
        mask: (*batch, 1, H, W), boolean or weights in [0, 1]: how much a pixel counts as a
            source. Where it is 0 the image may hold anything, NaN included.
        spatial_dims: 1 for signals, 2 for images, 3 for volumes.
        method: "exact", "fourier", "grid" or "piecewise". The last three take a guide of one
            channel, the square window, the borders "reflect" and "valid_only", and images and
            volumes, not signals.
        tolerance: For "fourier": the largest error of a pixel that counts (has mask 1), as a
            fraction of the range of the image, in (0, 0.5]. It is a bound that isolated pixels
            attain; on photographs the error is 100 times smaller. Where all that is similar in a
            window weighs less than the error of the weights, the output is 0, as if nothing
            counted; that happens only to pixels that do not count themselves.
        terms: For "fourier": the number of terms of the cosine series, instead of ``tolerance``.
            By default the guide's extremes and the sigmas are read to choose it for each sample,
            which waits for a GPU once. A sample for which so few terms cannot keep the sum of
            the weights positive is NaN.
        backend: "torch", plain PyTorch anywhere; "triton", the GPU kernel of the exact method,
            with first derivatives only, the same bits in every run; "auto" takes the kernel for
            tensors on a GPU where Triton is installed.

    Returns:
        The shape (leading dimensions broadcast) and dtype of ``image``; uint8 results are rounded
        half to even. A pixel whose guide is not finite counts as masked, and its own output is 0;
        so is the output where nothing in the window counts. A NaN of the image under a finite
        guide and a mask above 0 makes its window NaN.

    Raises:
        RuntimeError: If ``backend="triton"`` cannot be had, or is differentiated twice.
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, a value or a device does not fit; or if ``radius`` is needed while
            the value of a tensor sigma_space cannot be read (torch.compile, export, vmap, CUDA
            graphs): pass ``radius``. Likewise "fourier" without ``terms``; and for a sigma_range
            so small that it would need more than 256 of them.

    Gradients:
        To image, guide, float mask and both sigmas, any order (by the kernel: the first). 0 where
        the output is defined as 0. Not smooth: "l1" where two guide values are equal; "grid"
        and "piecewise" where a guide value meets a level, or for "piecewise" the middle between
        two. The radius and the number of terms are constants.

    References:
        Tomasi and Manduchi, "Bilateral filtering for gray and color images", 1998.
        Aurich and Weule, "Non-linear Gaussian filters performing edge preserving diffusion", 1995.
        Durand and Dorsey, "Fast bilateral filtering for the display of high-dynamic-range
        images", 2002.
        Sugimoto and Kamata, "Compressive bilateral filtering", 2015.
        Paris and Durand, "A fast approximation of the bilateral filter using a signal processing
        approach", 2006.

    Example:
        >>> import torch
        >>> step = torch.tensor([[[0.0, 0.1, 0.0, 1.0, 0.9, 1.0]]])
        >>> bilateral_filter(step, 2.0, 0.1)
        tensor([[[0.0326, 0.0559, 0.0295, 0.9705, 0.9441, 0.9674]]])
    """
    check_options(window, distance, border, spatial_dims, method, backend, tolerance, terms)
    check_tensor("image", image)
    path = resolve_backend(backend, image)
    with no_autocast(image):
        batch, lead = make_batch(image, guide, mask, sigma_space, sigma_range, spatial_dims)
        radii = window_radii(radius, sigma_space, lead, spatial_dims)
        if method == "exact":
            exact = exact_filter if path == "torch" else exact_filter_fused
            run = partial(exact, window=window, distance=distance, border=border)
            result = by_group(batch, radii, run)
        else:
            check_one_channel(batch.guide, guide is None)
            fast: dict[str, Callable[..., Tensor]] = {
                "fourier": partial(fourier_filter, tolerance=tolerance, terms=terms),
                "grid": grid_filter,
                "piecewise": piecewise_filter,
            }
            result = by_group(batch, radii, partial(fast[method], border=border))
        return restore(result, lead, image.dtype)


def check_options(
    window: object,
    distance: object,
    border: object,
    spatial_dims: object,
    method: object,
    backend: object,
    tolerance: object = 1e-3,
    terms: object = None,
) -> None:
    """Raise unless the options name what `bilateral_filter` knows, and fit the method."""
    check_choice("window", window, ("square", "disc"))
    check_choice("distance", distance, ("l2", "l1"))
    check_choice("border", border, BORDERS)
    check_choice("spatial_dims", spatial_dims, (1, 2, 3))
    check_choice("method", method, METHODS)
    check_number("tolerance", tolerance, above=0, maximum=0.5)
    if terms is not None:
        check_integer("terms", terms, minimum=1)
        if method != "fourier":
            raise ValueError(f"terms must be None for method={method!r}, got {terms}")
    if method == "exact":
        return
    if backend == "triton":
        raise ValueError(f"backend must be 'auto' or 'torch' for method={method!r}, got 'triton'")
    cure = 'use method="exact"'
    if window != "square":
        raise ValueError(f"window must be 'square' for method={method!r}, got {window!r}: {cure}")
    if border not in ("reflect", "valid_only"):
        raise ValueError(
            f"border must be 'reflect' or 'valid_only' for method={method!r}, "
            f"got {border!r}: {cure}"
        )
    if spatial_dims == 1:
        raise ValueError(f"spatial_dims must be 2 or 3 for method={method!r}, got 1: {cure}")


def check_one_channel(guide: Tensor, own: bool) -> None:
    """Raise unless a fast method can work with ``guide`` (B, D, *spatial)."""
    if guide.shape[1] != 1:
        what = "image, which is its own guide," if own else "guide"
        raise ValueError(
            f"{what} must have 1 channel for a fast method, got {guide.shape[1]}: pass guide= with "
            'one channel (such as the luminance), or method="exact"'
        )
