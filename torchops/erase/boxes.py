"""Disjoint random boxes whose areas sum to a prescribed number of pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from torchops._common.checks import (
    check_dtype,
    check_integer,
    check_number,
    check_tensor,
    describe,
)

from .batched import draw_boxes
from .plan import BITS, describe_range, make_plan, numbers_per_image

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LONGEST_SIDE = 32767  # the tables store sides in 16 bits


def sample_disjoint_boxes(
    batch_size: int,
    height: int,
    width: int,
    *,
    fraction: float | int | Sequence[float | int],
    count: int | Sequence[int],
    ratio: Sequence[float | int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Int[Tensor, "batch_size max_count 4"]:
    """Draw, for each image of a batch, disjoint boxes that cover a given fraction of it exactly.

    For each image: ``area = floor(fraction * height * width + 0.5)`` pixels; a count uniform over
    the feasible values of its range; then that many boxes, pairwise disjoint and inside the image,
    with ``ratio[0] <= h / w <= ratio[1]`` (the float64 quotient) and

    - for two or more boxes, areas that sum to ``area`` exactly;
    - for one box, the area nearest to ``area`` that a rectangle of allowed ratio here has.

    **Feasible.** Divide the image into a grid of equal cells, at least ``count`` of them. A count
    of two or more is feasible for an area if in one of these grids that many rectangles of allowed
    ratio, one to a cell, have this total: ``count - 2`` of them of one area, any of the 16 that
    come next at or below ``area / count``, and two of any areas. A count of one is feasible up to
    the largest rectangle of allowed ratio; where one box is all that is asked for (``count=1``) it
    is always feasible, and may fall short. With ``ratio=(0.3, 3.3)`` two to four boxes are feasible
    from a few pixels up to three quarters of a 32 x 32 image, and further in larger ones.

    **Random.** The image is cut in two again and again (guillotine cuts), at random but so that
    each part can hold its random share of the area; each part gets a rectangle of random ratio
    (log-uniform among those that fit; the last takes what the exact sum leaves) at a uniform place.
    The first of 8 such layouts that meets every promise is taken. If none does, the grid that makes
    the count feasible is used, from a random first cell and with random places in the cells: with
    ``ratio=(0.3, 3.3)``, up to four boxes and up to 60 % of the image this happens in less than 1
    draw of 500; for a narrow ratio and a high fraction in most. What is not uniform: the joint
    placement is not uniform over all disjoint placements; four boxes never form a pinwheel, which
    no straight cut separates; pixels at the border are covered less often than those inside.

    All of it is a function of one block of random integers, so an image gets the same boxes in any
    batch. The block is drawn on the CPU, or on the device of ``generator``, and the boxes are then
    moved to ``device``: one seed gives the same boxes on every device. The first call with a
    ratio lists its rectangles, up to the next power of two of the largest area, for images of all
    sizes; what else a request needs takes some milliseconds and is kept for the last 32.

    Args:
        batch_size: number of images; 0 only checks the options.
        height: image height in pixels, 1 to 32767.
        width: image width in pixels, 1 to 32767.
        fraction: share of the image to cover, in (0, 1]; or a range ``(low, high)`` in [0, 1] to
            draw it from, uniformly and for each image.
        count: number of boxes; or an inclusive range ``(low, high)``.
        ratio: range ``(low, high)`` of height / width of each box.
        generator: source of the random numbers; torch's global one if None. With a generator the
            global one is untouched. :func:`torch.compile` needs None.
        device: where the boxes are put; where they were drawn if None.

    Returns:
        int64 boxes ``(batch_size, max_count, 4)`` as half-open ``(x0, y0, x1, y1)`` in pixels;
        rows beyond the count of an image are zero.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of its range; or no count is feasible for some area of the
            range of fractions, whether or not it would have been drawn.

    Gradients: none, the boxes are integers.

    References:
        Zhong, Zheng, Kang, Li, Yang 2017, "Random Erasing Data Augmentation".

    Example:
        >>> boxes = sample_disjoint_boxes(8, 32, 32, fraction=0.3, count=(2, 4), ratio=(0.3, 3.3))
        >>> size = boxes[..., 2:] - boxes[..., :2]
        >>> size.prod(-1).sum(-1).tolist()  # floor(0.3 * 32 * 32 + 0.5), a prime number
        [307, 307, 307, 307, 307, 307, 307, 307]
    """
    check_integer("batch_size", batch_size, minimum=0)
    for name, side in (("height", height), ("width", width)):
        check_integer(name, side, minimum=1)
        if side > LONGEST_SIDE:
            raise ValueError(f"{name} must be at most {LONGEST_SIDE}, got {describe(side)}")
    fractions = _fraction_range(fraction)
    counts = _count_range(count)
    ratios = _ratio_range(ratio)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {describe(generator)}")
    shape = (batch_size, numbers_per_image(counts[1]))
    if generator is None:
        numbers = torch.randint(2**BITS, shape)
    else:
        numbers = torch.randint(2**BITS, shape, generator=generator, device=generator.device)
    # Traced, the draw is one opaque op: the tables it looks up depend on the sizes.
    draw = torch.ops.torchops.disjoint_boxes if torch.compiler.is_compiling() else _draw
    boxes = draw(numbers, height, width, *fractions, *counts, *ratios)
    return boxes if device is None else boxes.to(device, non_blocking=True)


def boxes_to_mask(
    boxes: Shaped[Tensor, "*batch n 4"], height: int, width: int
) -> Bool[Tensor, "*batch 1 {height} {width}"]:
    """Rasterise boxes: True where any of them covers the pixel.

    Args:
        boxes: integer boxes ``(*batch, N, 4)`` as half-open ``(x0, y0, x1, y1)`` in pixels; what
            lies outside the image is cut off, a box without area covers nothing.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        Boolean mask ``(*batch, 1, height, width)`` on the device of the boxes.

    Raises:
        TypeError: ``boxes`` is not an integer tensor.
        ValueError: ``boxes`` is not of shape ``(*batch, N, 4)``, or a size is below 1.

    Gradients: none, the mask is boolean.

    Example:
        >>> boxes_to_mask(torch.tensor([[1, 0, 3, 2]]), 2, 4).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    check_boxes(boxes)
    check_integer("height", height, minimum=1)
    check_integer("width", width, minimum=1)
    rows, columns = box_spans(boxes, height, width)
    mask = boxes.new_zeros((*boxes.shape[:-2], 1, height, width), dtype=torch.bool)
    for i in range(boxes.shape[-2]):
        mask = mask | (rows[..., i, None, :, None] & columns[..., i, None, None, :])
    return mask


def box_spans(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The rows (*batch, N, height) and columns (*batch, N, width) that each box spans."""
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    return (y >= y0) & (y < y1), (x >= x0) & (x < x1)


def check_boxes(boxes: object) -> None:
    """Raise unless ``boxes`` is an integer tensor ``(*batch, N, 4)``."""
    check_tensor("boxes", boxes)
    assert isinstance(boxes, Tensor)
    check_dtype("boxes", boxes, INTEGERS)
    if boxes.ndim < 2 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be of shape (*batch, N, 4), got {describe(boxes)}")


def _draw(
    numbers: Tensor,
    height: int,
    width: int,
    fraction_low: float,
    fraction_high: float,
    count_low: int,
    count_high: int,
    ratio_low: float,
    ratio_high: float,
) -> Tensor:
    """Boxes from a block of random numbers (B, numbers_per_image)."""
    if not len(numbers):
        return numbers.new_zeros((0, count_high, 4))
    plan = make_plan(
        height,
        width,
        (fraction_low, fraction_high),
        (count_low, count_high),
        (ratio_low, ratio_high),
    )
    return draw_boxes(numbers, plan)


torch.library.define(
    "torchops::disjoint_boxes",
    "(Tensor numbers, SymInt height, SymInt width, float fraction_low, float fraction_high, "
    "SymInt count_low, SymInt count_high, float ratio_low, float ratio_high) -> Tensor",
)
torch.library.impl("torchops::disjoint_boxes", "default", _draw)


@torch.library.register_fake("torchops::disjoint_boxes")
def _draw_fake(
    numbers: Tensor,
    height: int,
    width: int,
    fraction_low: float,
    fraction_high: float,
    count_low: int,
    count_high: int,
    ratio_low: float,
    ratio_high: float,
) -> Tensor:
    return numbers.new_empty((numbers.shape[0], count_high, 4))


def _fraction_range(fraction: Any) -> tuple[float, float]:
    if type(fraction) is float or not isinstance(fraction, Sequence) or isinstance(fraction, str):
        check_number("fraction", fraction, above=0, maximum=1)
        return float(fraction), float(fraction)
    low, high = _pair("fraction", fraction)
    check_number("fraction[0]", low, minimum=0, maximum=1)
    check_number("fraction[1]", high, above=0, maximum=1)
    _check_order("fraction", fraction)
    return float(low), float(high)


def _count_range(count: Any) -> tuple[int, int]:
    if type(count) is int or not isinstance(count, Sequence) or isinstance(count, str):
        check_integer("count", count, minimum=1)
        return int(count), int(count)
    low, high = _pair("count", count)
    check_integer("count[0]", low, minimum=1)
    check_integer("count[1]", high, minimum=1)
    _check_order("count", count)
    return int(low), int(high)


def _ratio_range(ratio: Any) -> tuple[float, float]:
    low, high = _pair("ratio", ratio)
    check_number("ratio[0]", low, above=0)
    check_number("ratio[1]", high, above=0)
    _check_order("ratio", ratio)
    return float(low), float(high)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if type(value) is not tuple and (not isinstance(value, Sequence) or isinstance(value, str)):
        raise TypeError(f"{name} must be a range (low, high), got {describe(value)}")
    if len(value) != 2:
        raise ValueError(f"{name} must be a range (low, high), got {len(value)} values")
    return value[0], value[1]


def _check_order(name: str, value: Sequence[Any]) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{name} must be a range with low <= high, got {describe_range(value)}")
