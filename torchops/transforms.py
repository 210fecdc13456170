"""RandomMultiErase: erase several disjoint rectangles, as a torchvision v2 transform."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchops._common.checks import check_bool, check_number, describe
from torchops.erase import erase_boxes, sample_disjoint_boxes

Value = float | int | Sequence[float | int] | str


class RandomMultiErase(v2.Transform):
    """Erase one or more disjoint random rectangles that cover an exact share of the image.

    Rectangles are drawn by :func:`torchops.sample_disjoint_boxes` and filled by
    :func:`torchops.erase_boxes`; their docstrings hold the promises, the law of the layouts and the
    fill values. An image that the coin ``p`` selects never comes back unchanged for want of a
    rectangle that fits: a request that cannot be met raises. Fraction, count and coin are uniform;
    the place is not: as with every eraser the border of the image is erased less often than its
    middle, though with several rectangles more often than with one.

    What is erased in a sample:

    - **pure tensor, Image** ``(*batch, C, H, W)``: with batch dimensions it is a batch, and each of
      its images has its own coin and rectangles.
    - **Video** ``(*batch, T, C, H, W)``: one coin and one set of rectangles for all T frames.
    - **PIL image**: in its own mode.
    - **Mask** ``(*batch, ..., H, W)``: untouched, or filled with ``mask_value`` if that is given.
    - **BoundingBoxes**: untouched, or, if ``min_visibility`` is given, those of which less than
      this share (of the part inside the image) stays visible become ``(0, 0, 0, 0)``. They are
      empty then, so ``v2.SanitizeBoundingBoxes`` drops them with their labels. Rotated boxes raise.
    - **KeyPoints**: untouched, since a hidden point keeps its place; but if ``min_visibility`` is
      given and above 0, points inside a rectangle move to ``(-1, -1)``, outside of the image, so
      ``v2.SanitizeKeyPoints`` drops them.
    - anything else: untouched.

    All images and videos of a sample share the coin and the rectangles, and so must have one size
    and the same batch dimensions.

    Args:
        fraction: share of the image to erase, in (0, 1], or a range to draw it from. The defaults
            of fraction, ratio and p are those of torchvision's RandomErasing.
        count: number of rectangles, or an inclusive range.
        ratio: range of height / width of a rectangle.
        value: a number; one number per channel; ``"random"``, noise; or ``"color"``, one random
            colour per rectangle.
        mask_value: what to fill masks with; None leaves them untouched.
        min_visibility: share of a bounding box in [0, 1] that must stay visible; None keeps all.
        p: probability to erase, of each image on its own. Where no image is selected no rectangles
            are drawn.
        inplace: write into the input image (and mask, if ``mask_value`` is given).
        generator: source of all random numbers; torch's global one if None. With a generator the
            global one is untouched. Inside a DataLoader worker it raises, because every worker
            holds a copy and would replay it; there the seed that torch gives each worker serves.

    Raises:
        TypeError: an option is of the wrong type, or the sample holds no image.
        ValueError: an option is out of its range; a request that cannot be met; images of different
            sizes; a constant that the dtype of the image cannot hold.

    Example:
        >>> erase = RandomMultiErase(fraction=0.25, count=(1, 4), p=1.0)
        >>> image = erase(torch.ones(3, 64, 64))
        >>> (image == 0).double().mean().item()
        0.25
    """

    def __init__(
        self,
        *,
        fraction: float | Sequence[float] = (0.02, 0.33),
        count: int | Sequence[int] = (1, 4),
        ratio: Sequence[float] = (0.3, 3.3),
        value: Value = 0,
        mask_value: float | int | None = None,
        min_visibility: float | None = None,
        p: float = 0.5,
        inplace: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        # Nothing is drawn and nothing filled: the two functions check their options.
        sample_disjoint_boxes(
            0, 1, 1, fraction=fraction, count=count, ratio=ratio, generator=generator
        )
        channels = 1 if isinstance(value, str) or not isinstance(value, Sequence) else len(value)
        nothing = torch.zeros(0, 4, dtype=torch.int64)
        blank = torch.zeros(max(channels, 1), 1, 1, dtype=torch.float64)
        erase_boxes(blank, nothing, value=value)
        if mask_value is not None:
            check_number("mask_value", mask_value)
        if min_visibility is not None:
            check_number("min_visibility", min_visibility, minimum=0, maximum=1)
        check_number("p", p, minimum=0, maximum=1)
        check_bool("inplace", inplace)
        self.fraction = fraction
        self.count = count
        self.ratio = ratio
        self.value = value
        self.mask_value = mask_value
        self.min_visibility = min_visibility
        self.p = p
        self.inplace = inplace
        self.generator = generator

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the coin and the rectangles of each image.

        Returns ``boxes`` ``(*batch, K, 4)``, zero where not applied, and ``applies``: whether any
        image is erased, True where that cannot be known without waiting for a device.
        """
        if self.generator is not None and get_worker_info() is not None:
            raise ValueError(
                "generator must be None inside a DataLoader worker, got a torch.Generator, which "
                "every worker would replay; torch seeds each worker by itself"
            )
        batch, height, width = _batch_and_size(flat_inputs)
        size = math.prod(batch)
        selected, applies = None, True
        if self.p < 1:  # where all are selected there is nothing to toss
            selected = self._toss(size)
            # Read where that costs nothing, to leave alone what needs no work.
            known = selected.is_cpu and not torch.compiler.is_compiling()
            heads = selected.tolist() if known else [True, False]
            applies = any(heads)
            selected = None if all(heads) else selected
        boxes = (
            sample_disjoint_boxes(
                size,
                height,
                width,
                fraction=self.fraction,
                count=self.count,
                ratio=self.ratio,
                generator=self.generator,
            )
            if applies
            else torch.zeros(size, _highest(self.count), 4, dtype=torch.int64)
        )
        if selected is not None and applies:
            boxes = boxes * selected[:, None, None]
        if len(batch) != 1:
            boxes = boxes.reshape(*batch, *boxes.shape[1:]) if batch else boxes[0]
        return {"boxes": boxes, "applies": applies}

    def _toss(self, size: int) -> Tensor:
        if self.generator is None:
            return torch.rand(size) < self.p
        coin = torch.rand(size, generator=self.generator, device=self.generator.device)
        return coin < self.p

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Erase one input; ``params`` are those of :meth:`make_params`."""
        boxes: Tensor = params["boxes"]
        if not params["applies"]:
            return inpt
        if isinstance(inpt, PIL.Image.Image):
            return self._erase_pil(inpt, boxes)
        if boxes.device != inpt.device:
            boxes = boxes.to(inpt.device, non_blocking=True)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt if self.min_visibility is None else self._hide_boxes(inpt, boxes)
        if isinstance(inpt, tv_tensors.KeyPoints):
            return self._hide_points(inpt, boxes) if self.min_visibility else inpt
        tensor = inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.TVTensor) else inpt
        if isinstance(inpt, tv_tensors.Mask):
            if self.mask_value is None:
                return inpt
            boxes = _one_set_per_sample(boxes, inpt, "mask", trailing=2)
            # A mask has no channels of its own; one is lent to it.
            erased = erase_boxes(
                tensor.unsqueeze(-3), boxes, value=self.mask_value, inplace=self.inplace
            ).squeeze(-3)
        else:
            if isinstance(inpt, tv_tensors.Video):
                boxes = boxes.unsqueeze(-3)
            erased = erase_boxes(
                tensor, boxes, value=self.value, generator=self.generator, inplace=self.inplace
            )
        if self.inplace or tensor is inpt:
            return inpt if self.inplace else erased
        return tv_tensors.wrap(erased, like=inpt)

    def _erase_pil(self, image: PIL.Image.Image, boxes: Tensor) -> PIL.Image.Image:
        if image.mode not in _PIL_MODES:
            raise TypeError(
                f"a PIL image must be of mode {', '.join(_PIL_MODES)}, got {image.mode!r}; "
                "convert it first"
            )
        pixels = np.array(image)
        channels = torch.from_numpy(pixels.reshape(image.height, image.width, -1)).movedim(2, 0)
        erase_boxes(channels, boxes.cpu(), value=self.value, generator=self.generator, inplace=True)
        if image.mode == "1":
            pixels = np.packbits(pixels, axis=1)
        erased = image if self.inplace else image.copy()
        erased.frombytes(pixels.tobytes())  # keeps mode, palette and metadata
        return erased

    def _hide_boxes(
        self, targets: tv_tensors.BoundingBoxes, boxes: Tensor
    ) -> tv_tensors.BoundingBoxes:
        if boxes.ndim > 2:
            raise ValueError(
                "BoundingBoxes with min_visibility must belong to a single image, got a batch of "
                f"shape {tuple(boxes.shape[:-2])}; transform the images one by one"
            )
        if tv_tensors.is_rotated_bounding_format(targets.format):
            raise ValueError(
                "BoundingBoxes with min_visibility must be of format XYXY, XYWH or CXCYWH, got "
                f"{targets.format.name}"
            )
        tensor = targets.as_subclass(Tensor)
        corners = v2.functional.convert_bounding_box_format(
            tensor.double(), old_format=targets.format, new_format="XYXY"
        )
        height, width = targets.canvas_size
        limit = corners.new_tensor([width, height])
        low = corners[:, None, :2].clamp(min=0).minimum(limit)  # (N, 1, 2)
        high = corners[:, None, 2:].clamp(min=0).minimum(limit)
        area = (high - low).clamp(min=0).prod(-1)[:, 0]
        overlap = torch.minimum(high, boxes[:, 2:]) - torch.maximum(low, boxes[:, :2])
        hidden = overlap.clamp(min=0).prod(-1).sum(-1)  # rectangles are disjoint
        drop = (area > 0) & (area - hidden < self.min_visibility * area)
        return tv_tensors.wrap(torch.where(drop[:, None], 0, tensor), like=targets)

    def _hide_points(self, points: tv_tensors.KeyPoints, boxes: Tensor) -> tv_tensors.KeyPoints:
        tensor = points.as_subclass(Tensor)
        boxes = _one_set_per_sample(boxes, tensor, "keypoints", trailing=1)
        xy = tensor[..., None, :]
        hidden = ((xy >= boxes[..., :2]) & (xy < boxes[..., 2:])).all(-1).any(-1)
        return tv_tensors.wrap(torch.where(hidden[..., None], -1, tensor), like=points)


_PIL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")


def _highest(count: int | Sequence[int]) -> int:
    return count[1] if isinstance(count, Sequence) else count


def _batch_and_size(flat_inputs: list[Any]) -> tuple[tuple[int, ...], int, int]:
    """Batch dimensions, height and width that all images of a sample share."""
    found: list[tuple[tuple[int, ...], int, int]] = []
    for value in flat_inputs:
        if isinstance(value, PIL.Image.Image):
            found.append(((), value.height, value.width))
        elif isinstance(value, Tensor) and (
            not isinstance(value, tv_tensors.TVTensor)
            or isinstance(value, tv_tensors.Image | tv_tensors.Video)
        ):
            trailing = 4 if isinstance(value, tv_tensors.Video) else 3
            if value.ndim < trailing:
                form = "(*batch, T, C, H, W)" if trailing == 4 else "(*batch, C, H, W)"
                raise ValueError(f"image must be of shape {form}, got {describe(value)}")
            found.append((tuple(value.shape[:-trailing]), value.shape[-2], value.shape[-1]))
    if not found:
        raise TypeError("the sample must hold an image or a video, got neither")
    if any(other != found[0] for other in found):
        listed = " and ".join(f"batch {b}, size {h} x {w}" for b, h, w in found)
        raise ValueError(f"images of a sample must agree in batch and size, got {listed}")
    return found[0]


def _one_set_per_sample(boxes: Tensor, value: Tensor, name: str, *, trailing: int) -> Tensor:
    """Give ``boxes`` (*batch, K, 4) the dimensions of (*batch, *more, K, 4), as ``value`` has."""
    batch = boxes.shape[:-2]
    more = value.ndim - trailing - len(batch)
    if more < 0 or value.shape[: len(batch)] != batch:
        raise ValueError(
            f"{name} must begin with the batch dimensions of the images, {tuple(batch)}, "
            f"got {describe(value)}"
        )
    return boxes.reshape(*batch, *(1,) * more, *boxes.shape[-2:])
