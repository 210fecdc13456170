"""Argument checks: every error text of the package has the form made here.

The form is "<argument> must be <requirement>, got <what came>", with the cure appended where there
is one. Nothing here reads the values of a tensor, so no check synchronises with a GPU.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def describe(value: object) -> str:
    """Say what came: the type of an object, the shape and dtype of a tensor."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, str | bool | int | float) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {describe(value)}")


def check_dtype(name: str, value: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Raise TypeError unless the dtype of ``value`` is one of ``dtypes``."""
    if value.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be of dtype {names}, got {describe(value)}")


def check_image(
    name: str,
    value: object,
    *,
    channels: int | None = None,
    spatial_dims: int = 2,
    dtypes: Sequence[torch.dtype] = FLOATING,
    empty_batch: bool = True,
) -> None:
    """Raise unless ``value`` is an image ``(*batch, C, *spatial)`` with at least one pixel."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)  # for the type checker: check_tensor has raised otherwise
    check_dtype(name, value, dtypes)
    form = {1: "(*batch, C, L)", 2: "(*batch, C, H, W)", 3: "(*batch, C, D, H, W)"}[spatial_dims]
    if value.ndim < spatial_dims + 1:
        raise ValueError(f"{name} must be of shape {form}, got {describe(value)}")
    if channels is not None and value.shape[-spatial_dims - 1] != channels:
        raise ValueError(f"{name} must have {channels} channel(s) in {form}, got {describe(value)}")
    if 0 in value.shape[-spatial_dims - 1 :]:
        raise ValueError(f"{name} must have at least one channel and pixel, got {describe(value)}")
    if not empty_batch and value.numel() == 0:
        raise ValueError(f"{name} must not be an empty batch, got {describe(value)}")


def check_same_device(**tensors: object) -> None:
    """Raise ValueError if the tensors among the arguments live on different devices."""
    devices = {name: value.device for name, value in tensors.items() if isinstance(value, Tensor)}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{' and '.join(devices)} must be on one device, got {places}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        options = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {options}, got {describe(value)}")


def check_bool(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")


def check_integer(name: str, value: Any, *, minimum: int | None = None) -> None:
    """Raise unless ``value`` is an integer (bool is not) and not below ``minimum``."""
    # The exact type first: the abstract class takes microseconds, and some ops take only tens.
    wrong_type = type(value) is not int and (
        isinstance(value, bool) or not isinstance(value, Integral)
    )
    if wrong_type or (minimum is not None and value < minimum):
        requirement = "an integer" if minimum is None else f"an integer >= {minimum}"
        error = TypeError if wrong_type else ValueError
        raise error(f"{name} must be {requirement}, got {describe(value)}")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> None:
    """Raise unless ``value`` is a finite real number inside the stated bounds."""
    wrong_type = type(value) not in (float, int) and (
        isinstance(value, bool) or not isinstance(value, Real)
    )
    number = math.nan if wrong_type else float(value)
    if (
        not -math.inf < number < math.inf  # false for NaN; torch.compile cannot trace isfinite
        or (above is not None and number <= above)
        or (minimum is not None and number < minimum)
        or (maximum is not None and number > maximum)
    ):
        limits = ((">", above), (">=", minimum), ("<=", maximum))
        bounds = " and ".join(f"{sign} {bound}" for sign, bound in limits if bound is not None)
        requirement = f"a finite number {bounds}".rstrip()
        error = TypeError if wrong_type else ValueError
        raise error(f"{name} must be {requirement}, got {describe(value)}")


def broadcast_batch(**shapes: Sequence[int]) -> torch.Size:
    """Broadcast the batch dimensions of several arguments, naming them if they do not fit."""
    first, *others = shapes.values()
    if all(shape == first for shape in others):
        return torch.Size(first)
    try:
        return torch.broadcast_shapes(*(tuple(shape) for shape in shapes.values()))
    except RuntimeError:
        listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"{' and '.join(shapes)} must have batch dimensions that broadcast, got {listed}"
        ) from None
