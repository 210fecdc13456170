"""From what the user passes to one flat batch: checks, broadcasting, sigmas, radii."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchops._common.checks import (
    FLOATING,
    broadcast_batch,
    check_dtype,
    check_image,
    check_integer,
    check_number,
    check_same_device,
    describe,
)
from torchops._common.precision import compute_dtype

IMAGE_DTYPES = (*FLOATING, torch.uint8)


class Batch(NamedTuple):
    """A flat batch of filtering problems in the dtype of the computation.

    ``guide`` is the same object as ``image`` where the image guides itself. The sigmas have a
    leading size of 1 where all samples share them.
    """

    image: Tensor  # (B, C, *spatial)
    guide: Tensor  # (B, D, *spatial)
    mask: Tensor | None  # (B, 1, *spatial)
    sigma_space: Tensor  # (B or 1, axes), pixels
    sigma_range: Tensor  # (B or 1,), guide units

    def select(self, samples: Sequence[int]) -> "Batch":
        """Keep some samples."""
        index = torch.tensor(samples, device=self.image.device)

        def pick(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 and self.image.shape[0] > 1 else x.index_select(0, index)

        image = pick(self.image)
        guide = image if self.guide is self.image else pick(self.guide)
        mask = None if self.mask is None else pick(self.mask)
        return Batch(image, guide, mask, pick(self.sigma_space), pick(self.sigma_range))


def check_sigma(name: str, value: object) -> None:
    """Raise unless ``value`` is a positive number or a floating tensor."""
    if isinstance(value, Tensor):
        check_dtype(name, value, FLOATING)
    else:
        check_number(name, value, above=0)


def per_axis(name: str, value: object, spatial_dims: int) -> tuple[object, ...]:
    """Return one entry per spatial axis."""
    if not isinstance(value, tuple):
        return (value,) * spatial_dims
    if len(value) != spatial_dims:
        raise ValueError(
            f"{name} must be one value or {spatial_dims} (spatial_dims), got {len(value)}"
        )
    return value


def make_batch(
    image: Tensor,
    guide: Tensor | None,
    mask: Tensor | None,
    sigma_space: object,
    sigma_range: object,
    spatial_dims: int,
) -> tuple[Batch, torch.Size]:
    """Check the tensors and sigmas, and return them as a batch with its leading shape."""
    check_image("image", image, spatial_dims=spatial_dims, dtypes=IMAGE_DTYPES)
    tensors = {"image": image}
    if guide is not None:
        check_image("guide", guide, spatial_dims=spatial_dims, dtypes=IMAGE_DTYPES)
        tensors["guide"] = guide
    if mask is not None:
        check_image(
            "mask", mask, channels=1, spatial_dims=spatial_dims, dtypes=(*FLOATING, torch.bool)
        )
        tensors["mask"] = mask
    for name, tensor in tensors.items():
        if tensor.shape[-spatial_dims:] != image.shape[-spatial_dims:]:
            raise ValueError(
                f"{name} must have the spatial size {tuple(image.shape[-spatial_dims:])} of image, "
                f"got {describe(tensor)}"
            )
    spatial_sigmas = per_axis("sigma_space", sigma_space, spatial_dims)
    shapes = {name: tensor.shape[: -spatial_dims - 1] for name, tensor in tensors.items()}
    for name, sigmas in (("sigma_space", spatial_sigmas), ("sigma_range", (sigma_range,))):
        for sigma in sigmas:
            check_sigma(name, sigma)
            if isinstance(sigma, Tensor):
                check_same_device(image=image, **{name: sigma})
                shapes[name] = broadcast_batch(
                    **{name: sigma.shape, "itself": shapes.get(name, ())}
                )
    check_same_device(**tensors)
    lead = broadcast_batch(**shapes)

    dtype = compute_dtype(image, image if guide is None else guide)

    def flat(x: Tensor) -> Tensor:
        shape = x.shape[-spatial_dims - 1 :]
        return x.to(dtype).expand(*lead, *shape).reshape(math.prod(lead), *shape)

    def flat_sigma(sigma: object) -> Tensor:
        if not isinstance(sigma, Tensor):
            return torch.full((1,), float(sigma), dtype=dtype, device=image.device)  # type: ignore[arg-type]
        sigma = sigma.to(dtype)
        return sigma.reshape(1) if sigma.ndim == 0 else sigma.expand(lead).reshape(math.prod(lead))

    flat_image = flat(image)
    space = torch.broadcast_tensors(*(flat_sigma(sigma) for sigma in spatial_sigmas))
    batch = Batch(
        flat_image,
        flat_image if guide is None else flat(guide),
        None if mask is None else flat(mask),
        torch.stack(space, -1),
        flat_sigma(sigma_range),
    )
    return batch, lead


def restore(result: Tensor, lead: torch.Size, dtype: torch.dtype) -> Tensor:
    """Give a flat result its leading shape and the dtype of the image."""
    if dtype == torch.uint8:
        result = torch.nan_to_num(result).round().clamp(0, 255)
    return result.reshape(*lead, *result.shape[1:]).to(dtype)


def sigma_values(name: str, sigma: object, lead: torch.Size, cure: str) -> list[float]:
    """Return a sigma as Python numbers, 1 or one per sample; a tensor waits for its device."""
    if not isinstance(sigma, Tensor):
        return [float(sigma)]  # type: ignore[arg-type]
    return read_values(name, sigma if sigma.ndim == 0 else sigma.expand(lead), cure)


def read_values(name: str, value: Tensor, cure: str) -> list[float]:
    """Return the values of a tensor as Python numbers, which waits for its device."""
    unreadable = torch.compiler.is_compiling() or (
        value.is_cuda and torch.cuda.is_current_stream_capturing()
    )
    if not unreadable:
        try:
            return [float(v) for v in value.detach().reshape(-1).tolist()]
        except RuntimeError:  # inside vmap there is no one value to read
            pass
    raise ValueError(
        f"{name} must have a known value, got a tensor inside torch.compile, export, vmap or CUDA "
        f"graph capture: {cure}"
    )


def window_radii(
    radius: object, sigma_space: object, lead: torch.Size, spatial_dims: int
) -> list[tuple[int, ...]]:
    """Return the radius per axis: one entry that all samples share, or one entry per sample."""
    if radius is not None:
        radii = per_axis("radius", radius, spatial_dims)
        for r in radii:
            check_integer("radius", r, minimum=0)
        return [tuple(int(r) for r in radii)]  # type: ignore[call-overload]
    columns = []
    for sigma in per_axis("sigma_space", sigma_space, spatial_dims):
        values = sigma_values("sigma_space", sigma, lead, "pass radius=")
        if any(math.isinf(v) for v in values):
            raise ValueError(
                "sigma_space must be finite where radius is None, got inf: pass radius="
            )
        # A NaN sigma keeps a window of neighbours, through which the result becomes NaN.
        columns.append([1 if math.isnan(v) else math.ceil(3 * abs(v)) for v in values])
    return align_columns(columns)


def align_columns(columns: list[list[Any]]) -> list[tuple[Any, ...]]:
    """Zip lists with one entry per sample, or one entry that all samples share."""
    length = max(len(column) for column in columns)
    return list(zip(*(c * length if len(c) == 1 else c for c in columns), strict=True))


def by_group(batch: Any, keys: list[Any], run: Callable[[Any, Any], Tensor]) -> Tensor:
    """Run samples of equal key together, so that each is filtered as it would be alone.

    ``keys`` has one entry per sample, or one entry that all samples share. ``batch`` is a `Batch`,
    or whatever else has its ``select``.
    """
    distinct = list(dict.fromkeys(keys))
    if len(distinct) == 1:
        return run(batch, distinct[0])
    members = [[i for i, key in enumerate(keys) if key == group] for group in distinct]
    parts = [
        run(batch.select(samples), group) for group, samples in zip(distinct, members, strict=True)
    ]
    order = [i for samples in members for i in samples]
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=parts[0].device)
    return torch.cat(parts).index_select(0, back)


def largest_radii(radius: object, sigma_space: object, spatial_dims: int) -> tuple[int, ...]:
    """Return one radius per axis that is wide enough for every value of the sigmas."""
    shapes = {
        f"sigma_space[{k}]": sigma.shape
        for k, sigma in enumerate(per_axis("sigma_space", sigma_space, spatial_dims))
        if isinstance(sigma, Tensor)
    }
    lead = broadcast_batch(**shapes) if shapes else torch.Size()
    radii = window_radii(radius, sigma_space, lead, spatial_dims)
    return tuple(max(column) for column in zip(*radii, strict=True))
