"""The arguments of an alignment: checks, and one batch dimension for all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchops._common.checks import (
    broadcast_batch,
    check_dtype,
    check_image,
    check_same_device,
    check_tensor,
    describe,
)
from torchops._common.precision import compute_dtype
from torchops.alignment.motion import check_matrix
from torchops.alignment.pyramid import smaller, smaller_templates
from torchops.alignment.steps import Method, Problem
from torchops.alignment.template import Template, prepare_image, prepare_template, surely_all


def check_mask(name: str, mask: object, image: Tensor) -> None:
    """Raise unless ``mask`` is None or a boolean (*batch, 1, H, W) for the image."""
    if mask is None:
        return
    check_tensor(name, mask)
    assert isinstance(mask, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype(name, mask, (torch.bool,))
    if mask.ndim < 3 or mask.shape[-3:] != (1, *image.shape[-2:]):
        raise ValueError(
            f"{name} must be of shape (*batch, 1, {image.shape[-2]}, {image.shape[-1]}), "
            f"got {describe(mask)}"
        )


def check_pair(
    template: Tensor,
    image: Tensor,
    initial: Tensor | None,
    template_mask: Tensor | None,
    image_mask: Tensor | None,
) -> torch.Size:
    """Raise unless the arguments fit each other; return their common batch dimensions."""
    check_image("template", template)
    check_image("image", image)
    if image.dtype != template.dtype:
        raise TypeError(f"image must be of the dtype of template, got {describe(image)}")
    if image.shape[-3] != template.shape[-3]:
        raise ValueError(
            f"image must have as many channels as template, {template.shape[-3]}, "
            f"got {describe(image)}"
        )
    shapes = {"template": template.shape[:-3], "image": image.shape[:-3]}
    if initial is not None:
        check_matrix("initial", initial)
        shapes["initial"] = initial.shape[:-2]
    check_mask("template_mask", template_mask, template)
    check_mask("image_mask", image_mask, image)
    for name, mask in (("template_mask", template_mask), ("image_mask", image_mask)):
        if mask is not None:
            shapes[name] = mask.shape[:-3]
    check_same_device(
        template=template,
        image=image,
        initial=initial,
        template_mask=template_mask,
        image_mask=image_mask,
    )
    return broadcast_batch(**shapes)


def _flatten(batch: torch.Size, *tensors: Tensor | None) -> list[Tensor | None]:
    """Give images one batch dimension: 1 if they all share one sample, else the whole batch."""
    shared = all(t is None or t.shape[:-3].numel() == 1 for t in tensors)
    return [
        t
        if t is None
        else t.reshape(1, *t.shape[-3:])
        if shared
        else t.expand(*batch, *t.shape[-3:]).reshape(-1, *t.shape[-3:])
        for t in tensors
    ]


class Pair(NamedTuple):
    """Checked images and a float64 start (B, 3, 3), with their common batch dimensions."""

    template: Tensor
    image: Tensor
    start: Tensor
    template_mask: Tensor | None
    image_mask: Tensor | None
    batch: torch.Size

    def problem(self, method: Method, prepared: Template | None, *, fused: bool = False) -> Problem:
        """Prepare both images; ``prepared`` are the terms of the template, if they are there.

        ``fused`` says that kernels will read them.
        """
        if prepared is None:
            prepared = prepare(self.template, self.template_mask, method.motion, 1, self.batch)[0]
        values, mask = self._image()
        slopes = method.algorithm == "forward_additive"
        image = prepare_image(values, mask, gradients=slopes)
        if fused:  # laid out once, not before every launch
            prepared, image = prepared.map(Tensor.contiguous), image.contiguous()
        return Problem(
            prepared,
            image,
            prepared.grid.from_pixels(self.start),
            method,
            surely_all(prepared.counts),
            surely_all(~image.detach().isnan()),
            fused,
        )

    def smaller_images(self, levels: int) -> list[Tensor]:
        """Return the image at levels 1 to ``levels - 1``."""
        return smaller(*self._image(), levels)

    def _image(self) -> tuple[Tensor, Tensor | None]:
        values, mask = _flatten(self.batch, self.image, self.image_mask)
        assert values is not None
        return values.to(compute_dtype(values)), mask

    def with_inputs(self, change: Callable[[Tensor], Tensor]) -> "Pair":
        """Apply a function to the tensors that gradients go to."""
        return self._replace(
            template=change(self.template), image=change(self.image), start=change(self.start)
        )


def prepare(
    template: Tensor, mask: Tensor | None, motion: str, levels: int, batch: torch.Size
) -> list[Template]:
    """Compute the terms of a template for a batch, level by level."""
    values, mask = _flatten(batch, template, mask)
    assert values is not None
    values = values.to(compute_dtype(values))
    return [
        prepare_template(values, mask, motion),
        *smaller_templates(values, mask, motion, levels),
    ]
