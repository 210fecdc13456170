"""Filling boxes of an image with a constant, noise, or a random colour."""

import itertools
import math
import operator
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from torchops._common.checks import (
    FLOATING,
    broadcast_batch,
    check_bool,
    check_choice,
    check_image,
    check_same_device,
    describe,
)

from .boxes import INTEGERS, box_spans, boxes_to_mask, check_boxes

PIXELS = (*FLOATING, *INTEGERS, torch.uint16, torch.bool)

# A slice assignment costs about as much as a masked fill of this many values.
SLICE_COST = 1500


def erase_boxes(
    image: Shaped[Tensor, "*image_batch c h w"],
    boxes: Shaped[Tensor, "*boxes_batch n 4"],
    *,
    value: float | int | Sequence[float | int] | str = 0,
    generator: torch.Generator | None = None,
    inplace: bool = False,
) -> Shaped[Tensor, "*batch c h w"]:
    """Fill boxes of an image.

    ``out = value`` inside any of the boxes, ``out = image`` elsewhere. Boxes may overlap and may
    reach over the border; where colours overlap the later box wins.

    Args:
        image: ``(*batch, C, H, W)``, floating, integer (uint8, uint16, int8 to int64) or boolean.
        boxes: integer ``(*batch, N, 4)``, half-open ``(x0, y0, x1, y1)`` in pixels; zero boxes fill
            nothing. The batch dimensions of image and boxes broadcast: boxes ``(N, 4)`` serve a
            whole batch.
        value: a number; a sequence of one number per channel; ``"random"``, noise for each pixel
            and channel; or ``"color"``, one random colour per box, the same in all images that
            share the box by broadcasting. Random values are standard normal for floating images
            and uniform over the whole range of the dtype for others.
        generator: source of the random values, on the device of the image; torch's global one if
            None.
        inplace: write into ``image``. On a CPU only the pixels of the boxes are then touched.

    Returns:
        The filled image, of the broadcast batch shape and the dtype of ``image``; ``image`` itself
        if ``inplace``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: shapes that do not fit; arguments on different devices; a constant that the
            dtype cannot hold, such as 0.5 or 256 in uint8, or 1e6 in float16.

    Gradients: to ``image``: 0 inside the boxes and 1 outside, of any order. The fill is constant.

    Example:
        >>> image = torch.ones(1, 2, 4)
        >>> erase_boxes(image, torch.tensor([[1, 0, 3, 1]]))
        tensor([[[1., 0., 0., 1.],
                 [1., 1., 1., 1.]]])
    """
    check_image("image", image, dtypes=PIXELS)
    check_boxes(boxes)
    if image.device != boxes.device:
        check_same_device(image=image, boxes=boxes)
    check_bool("inplace", inplace)
    _check_generator(generator, image)
    fill = _check_value(value, image)
    batch = lead = image.shape[:-3]
    if lead != boxes.shape[:-2]:
        batch = broadcast_batch(image=lead, boxes=boxes.shape[:-2])
    if inplace and batch != lead:
        raise ValueError(
            "boxes must have batch dimensions that broadcast to those of the image when inplace, "
            f"got image {tuple(lead)}, boxes {tuple(boxes.shape[:-2])}"
        )
    if fill == "color":
        fill = _random((*boxes.shape[:-1], image.shape[-3]), image, generator)
    elif isinstance(fill, list):
        channels = [torch.full((), v, dtype=image.dtype, device=image.device) for v in fill]
        fill = torch.stack(channels).expand(*boxes.shape[:-1], image.shape[-3])

    if not _sliceable(image, boxes):
        filled = _fill_masked(image, boxes, fill, generator)
        return image.copy_(filled) if inplace else filled
    if not image.requires_grad:
        if not inplace:
            image = (image if batch == lead else image.expand(*batch, -1, -1, -1)).clone()
        return _fill_slices(image, boxes, fill, generator)
    filled = _fill_slices(image.detach().expand(*batch, -1, -1, -1).clone(), boxes, fill, generator)
    filled = torch.where(boxes_to_mask(boxes, *image.shape[-2:]), filled, image)
    return image.copy_(filled) if inplace else filled


# What is left of ``value`` after the checks: a constant, one colour (C) per box, or "random".
Fill = float | int | Tensor | str


def _sliceable(image: Tensor, boxes: Tensor) -> bool:
    """Whether to fill slice by slice: real CPU tensors, and images large enough for it to pay.

    The choice looks at one image, not at the batch, so that random values do not depend on it.
    """
    channels, height, width = image.shape[-3:]
    return (
        image.is_cpu
        and not torch.compiler.is_compiling()
        and channels * height * width >= SLICE_COST * boxes.shape[-2]
        and _is_real(image)
        and _is_real(boxes)
    )


def _is_real(tensor: Tensor) -> bool:
    """Whether there are numbers behind it: no transform of torch.func, no fake for tracing."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor) and (
        type(tensor) is Tensor or type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def _fill_slices(
    image: Tensor, boxes: Tensor, fill: Fill, generator: torch.Generator | None
) -> Tensor:
    """Write into the slices of the boxes, one after the other.

    Boxes that several images share by broadcasting are written to all of them at once. A slice is
    taken by its strides, in one step, because that is half the time of a small one.
    """
    sets, starts, shape, steps = _slice_grid(image, boxes)
    height, width = image.shape[-2:]
    row, column = steps[-2:]
    colors = fill.reshape(len(sets), *fill.shape[-2:]) if isinstance(fill, Tensor) else None
    for i, (start, some) in enumerate(zip(starts, sets, strict=True)):
        for j, (x0, y0, x1, y1) in enumerate(some):
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if x0 >= x1 or y0 >= y1:
                continue
            size = (*shape, y1 - y0, x1 - x0)
            part = image.as_strided(size, steps, start + y0 * row + x0 * column)
            if colors is not None:
                part.copy_(colors[i, j, :, None, None])
            elif isinstance(fill, str):
                part.copy_(_random(part.shape, image, generator))
            else:
                part.fill_(fill)
    return image


def _slice_grid(
    image: Tensor, boxes: Tensor
) -> tuple[list[list[list[int]]], list[int], Sequence[Any], Sequence[int]]:
    """The sets of boxes, where the images of each begin in memory, and how these lie there.

    The last two are sizes and strides of the dimensions that a set spans: those whose boxes are
    shared, channels, and as strides alone also rows and columns.
    """
    strides, start = image.stride(), image.storage_offset()
    if boxes.ndim == 2:
        return [boxes.tolist()], [int(start)], image.shape[:-2], strides
    lead = (*(1,) * (image.ndim - boxes.ndim - 1), *boxes.shape[:-2])
    shared = [d for d, n in enumerate((*lead, 1)) if n == 1]
    starts = [
        start + sum(map(operator.mul, index, strides))
        for index in itertools.product(*map(range, lead))
    ]
    sizes = tuple(image.shape[d] for d in shared)
    steps = tuple(strides[d] for d in shared)
    sets = boxes.reshape(len(starts), *boxes.shape[-2:]).tolist()
    return sets, starts, sizes, (*steps, *strides[-2:])


def _fill_masked(
    image: Tensor, boxes: Tensor, fill: Fill, generator: torch.Generator | None
) -> Tensor:
    """Select between image and fill at every pixel: no loop over images, nothing read back."""
    height, width = image.shape[-2:]
    if not isinstance(fill, Tensor):
        mask = boxes_to_mask(boxes, height, width)
        if isinstance(fill, str):
            shape = torch.broadcast_shapes(mask.shape, image.shape)
            return _select(mask, _random(shape, image, generator), image)
        return _select(mask, fill, image)
    rows, columns = box_spans(boxes, height, width)
    for i in range(boxes.shape[-2]):
        inside = rows[..., i, None, :, None] & columns[..., i, None, None, :]
        image = _select(inside, fill[..., i, :, None, None], image)
    return image


def _select(inside: Tensor, fill: float | int | Tensor, image: Tensor) -> Tensor:
    """Return ``fill`` inside and ``image`` elsewhere, in the dtype of the image."""
    signed = _SIGNED.get(image.dtype)
    if signed is None:
        return torch.where(inside, fill, image)
    # Not every PyTorch selects wide unsigned numbers; their bits travel as signed ones.
    values = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    return torch.where(inside, values.view(signed), image.view(signed)).view(image.dtype)


_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def _random(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal for floating dtypes, uniform over the whole range for the others."""
    options: dict[str, Any] = {"device": like.device}
    if generator is not None:  # naming it, even as None, keeps symbolic shapes out
        options["generator"] = generator
    if like.is_floating_point():
        return torch.randn(shape, dtype=like.dtype, **options)
    low, high = _limits(like.dtype)
    if like.dtype == torch.int64:
        return torch.randint(low, high, shape, **options)  # short of the last value
    return torch.randint(low, high + 1, shape, **options).to(like.dtype)


def _limits(dtype: torch.dtype) -> tuple[int, int]:
    if dtype == torch.bool:
        return 0, 1
    info = torch.iinfo(dtype)
    return info.min, info.max


def _check_value(value: Any, image: Tensor) -> Any:
    """Return the constants as numbers that the dtype of the image holds, or the random kind."""
    if isinstance(value, str):
        check_choice("value", value, ("random", "color"))
        return value
    if type(value) in (int, float) or isinstance(value, Real):
        return _constant(value, image.dtype)
    if not isinstance(value, Sequence):
        raise TypeError(
            'value must be a number, a sequence of one number per channel, "random" or "color", '
            f"got {describe(value)}"
        )
    if len(value) != image.shape[-3]:
        raise ValueError(
            f"value must hold one number per channel, got {len(value)} for {describe(image)}"
        )
    return [_constant(v, image.dtype) for v in value]


def _constant(value: Any, dtype: torch.dtype) -> float | int:
    # The exact types first, here and below: the abstract class takes a microsecond.
    is_number: bool = type(value) in (int, float) or isinstance(value, Real)
    if not is_number:
        raise TypeError(f"value must be made of numbers, got {describe(value)}")
    if dtype.is_floating_point:
        number = float(value)
        if number and torch.finfo(dtype).max < abs(number) < math.inf:
            name = str(dtype).removeprefix("torch.")
            raise ValueError(f"value must be a number that {name} holds, got {describe(value)}")
        return number
    low, high = _limits(dtype)
    whole = isinstance(value, Integral) or float(value).is_integer()
    if not whole or not low <= int(value) <= high:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"value must be a whole number from {low} to {high}, as {name} holds, "
            f"got {describe(value)}"
        )
    return bool(value) if dtype == torch.bool else int(value)


def _check_generator(generator: object, image: Tensor) -> None:
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {describe(generator)}")
    if generator.device.type != image.device.type:
        raise ValueError(
            f"generator must be on the device of the image, got a generator on {generator.device} "
            f"and an image on {image.device}"
        )
