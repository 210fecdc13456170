"""The exact bilateral filter: every pixel of the window, with memory for a few images only."""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.sampling import reflect_index
from torchops.bilateral.arguments import Batch
from torchops.bilateral.pairs import pair_means

# A guide value so far from all others that its weight is 0, while its square is still a float32.
FAR = 1e15


def half_window(radii: tuple[int, ...], window: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return number and offset of what the window has after its centre in raster order.

    Its other half are the negatives. "disc" keeps the ellipsoid of the radii, border included,
    which is the disc of OpenCV where all radii are equal; offsets outside count as numbers too.
    """
    # Multiplied out by the product of all squares, so that the comparison is between integers.
    whole = math.prod([radius**2 for radius in radii if radius])
    offsets = list(itertools.product(*(range(-radius, radius + 1) for radius in radii)))
    taps = []
    for k, offset in enumerate(offsets[len(offsets) // 2 + 1 :]):
        length = sum(o * o * (whole // (r * r)) for o, r in zip(offset, radii, strict=True) if r)
        if window == "square" or length <= whole:
            taps.append((k, offset))
    return tuple(taps)


def spatial_exponents(radii: tuple[int, ...], sigma_space: Tensor) -> Tensor:
    """Return log2 of the spatial weights for the offsets of `half_window`, (B or 1, K)."""
    total = sigma_space.new_zeros(sigma_space.shape[0], 1)
    for radius, sigma in zip(radii, sigma_space.unbind(-1), strict=True):
        offset = torch.arange(-radius, radius + 1, dtype=sigma.dtype, device=sigma.device)
        along_axis = offset.square() / (-2 * math.log(2) * sigma.square()[:, None])
        total = (total[:, :, None] + along_axis[:, None, :]).flatten(1)
    return total[:, total.shape[1] // 2 + 1 :]


def pad_image(image: Tensor, radii: tuple[int, ...], border: str, outside: float) -> Tensor:
    """Extend the spatial axes by ``radii``; "constant" and "valid_only" fill with ``outside``."""
    if border in ("constant", "valid_only"):
        widths = [width for radius in reversed(radii) for width in (radius, radius)]
        return torch.nn.functional.pad(image, widths, value=outside)
    for dim, radius in enumerate(radii, start=image.ndim - len(radii)):
        if radius == 0:
            continue
        size = image.shape[dim]
        # Only the margins are gathered: the rest is copied as it lies.
        before = torch.arange(-radius, 0, device=image.device)
        margins = []
        for index in (before, before + (size + radius)):
            if border == "reflect":
                index = reflect_index(index, size)
            elif border == "replicate":
                index = index.clamp(0, size - 1)
            else:
                index = index.remainder(size)
            margins.append(image.index_select(dim, index))
        image = torch.cat([margins[0], image, margins[1]], dim)
    return image


def crop_image(padded: Tensor, radii: tuple[int, ...]) -> Tensor:
    """Undo `pad_image`."""
    # One copy instead of a chain of views, whose gradients would each fill a whole image.
    widths = [width for radius in reversed(radii) for width in (-radius, -radius)]
    return torch.nn.functional.pad(padded, widths)


def fold_margins(
    gradient: Tensor, radii: tuple[int, ...], border: str, *, inplace: bool = False
) -> Tensor:
    """Apply the transpose of `pad_image`: add every margin to the pixels that it repeats.

    With ``inplace`` the sums are made in ``gradient``, and a view of it is returned.
    """
    if border in ("constant", "valid_only"):
        return _within(gradient, radii) if inplace else crop_image(gradient, radii).contiguous()
    for dim, radius in reversed(list(enumerate(radii, start=gradient.ndim - len(radii)))):
        size = gradient.shape[dim] - 2 * radius
        if border == "replicate" or size == 1:
            before, core, after = gradient.split([radius, size, radius], dim)
            gradient = core if inplace else core.clone()
            gradient.select(dim, 0).add_(before.sum(dim))
            gradient.select(dim, -1).add_(after.sum(dim))
            continue
        # A wide margin repeats the image several times: it is peeled from outside, each layer
        # being what the image and the layers within it can fill in one repetition.
        edge = 1 if border == "reflect" else 0
        layers: list[int] = []
        while sum(layers) < radius:
            layers.append(min(radius - sum(layers), size + 2 * sum(layers) - edge))
        for width in reversed(layers):
            length = gradient.shape[dim] - 2 * width
            before, core, after = gradient.split([width, length, width], dim)
            gradient = core if inplace else core.clone()
            if border == "reflect":
                gradient.narrow(dim, 1, width).add_(before.flip(dim))
                gradient.narrow(dim, length - 1 - width, width).add_(after.flip(dim))
            else:
                gradient.narrow(dim, length - width, width).add_(before)
                gradient.narrow(dim, 0, width).add_(after)
    return gradient


def countable(
    image: Tensor, guide: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make every number finite that must not count.

    A pixel counts with its mask weight, and not at all where its guide is not finite.

    Returns:
        The image times the counts, the counts (B, 1, *spatial), the guide with 0 where it is not
        finite, and where it is finite (boolean).
    """
    finite = guide.isfinite().all(1, keepdim=True)
    values = torch.where(finite, image, 0)
    clean = values if guide is image else torch.where(finite, guide, 0)
    if mask is None:
        return values, finite.to(image.dtype), clean, finite
    counts = torch.where(finite, mask, 0)
    # A finite value stays under a zero mask: the gradient of the mask there depends on it.
    values = torch.where((counts != 0) | image.isfinite(), values, 0)
    return values * counts, counts, clean, finite


def normalised(weighted: Tensor, total: Tensor, finite: Tensor) -> Tensor:
    """Divide by the weight sum; 0, with gradient 0, where nothing counts."""
    # Below the smallest normal number the sums have lost their digits. A NaN total stays NaN.
    some = ~(total < torch.finfo(total.dtype).tiny) & finite
    return torch.where(some, weighted / torch.where(some, total, 1), 0)


def sources_of(
    image: Tensor, guide: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Return values, counts and guide (None: ones, the values), and where the guide is finite.

    Without a mask no counts are needed: a pixel that must not count gets a guide far from all.
    ``guide`` is None where the image guides itself.
    """
    if mask is not None:
        return countable(image, image if guide is None else guide, mask)
    if guide is None:
        finite = image.isfinite().all(1, keepdim=True)
        return torch.where(finite, image, FAR), None, None, finite
    finite = guide.isfinite().all(1, keepdim=True)
    return torch.where(finite, image, 0), None, torch.where(finite, guide, FAR), finite


class _Padding(NamedTuple):
    """The padding of a problem without a mask, inside the function that is differentiated."""

    radii: tuple[int, ...]
    border: str

    def prepare(self, image: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return padded sources and guide, and where the guide is finite: see `sources_of`."""
        # Padded first and cleaned then, so that no more than two arrays are held at a time.
        outside = FAR if self.border == "valid_only" else 0.0
        own = pad_image(image if guide is None else guide, self.radii, self.border, outside)
        known = own.isfinite().all(1, keepdim=True)
        own = torch.where(known, own, FAR)
        finite = _within(known, self.radii)
        if guide is None:
            return own, None, finite
        values = pad_image(image, self.radii, self.border, 0.0)
        return torch.where(known, values, 0), own, finite

    def restore(self, gradient: Tensor, finite: Tensor) -> Tensor:
        """Take the gradient by a padded array, which is used up, to the one by the array."""
        inplace = not torch.is_grad_enabled()
        folded = fold_margins(gradient, self.radii, self.border, inplace=inplace)
        return torch.where(finite, folded, 0)


def _within(padded: Tensor, radii: tuple[int, ...]) -> Tensor:
    """View an array without its margins."""
    for dim, radius in enumerate(radii, start=padded.ndim - len(radii)):
        padded = padded.narrow(dim, radius, padded.shape[dim] - 2 * radius)
    return padded


def exact_filter(
    batch: Batch, radii: tuple[int, ...], *, window: str, distance: str, border: str
) -> Tensor:
    """Filter a batch with one window."""
    image, mask = batch.image, batch.mask
    guide = None if batch.guide is image else batch.guide
    samples = image.shape[0]
    options = (
        (1 / (2 * math.log(2) * batch.sigma_range.square())).expand(samples),
        spatial_exponents(radii, batch.sigma_space).expand(samples, -1),
        radii,
        half_window(radii, window),
        distance,
        mask is None,
    )
    if mask is None and not torch.compiler.is_compiling():
        return pair_means(image, guide, None, *options, _Padding(radii, border))
    values, counts, clean, finite = sources_of(image, guide, mask)
    values, counts, clean = pad_sources(values, counts, clean, radii, border)
    sources = _stored(values if counts is None else torch.cat([values, counts], 1))
    return pair_means(sources, None if clean is None else _stored(clean), finite, *options)


def _stored(array: Tensor) -> Tensor:
    """Have a compiler store the array, instead of padding anew at each of its many uses."""
    array = array.contiguous()
    if not torch.compiler.is_compiling():
        return array
    strides = [math.prod(array.shape[dim + 1 :]) for dim in range(array.ndim)]
    return array.as_strided(array.shape, strides)


def pad_sources(
    values: Tensor,
    counts: Tensor | None,
    guide: Tensor | None,
    radii: tuple[int, ...],
    border: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Extend what `sources_of` returns, so that outside pixels count as the border has it."""
    drop = border == "valid_only"
    far = FAR if drop else 0.0
    return (
        pad_image(values, radii, border, far if guide is None else 0.0),
        None if counts is None else pad_image(counts, radii, border, 0.0 if drop else 1.0),
        None if guide is None else pad_image(guide, radii, border, far),
    )
