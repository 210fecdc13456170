"""What was counted as plain tensors, numbers and lists, and back."""

from dataclasses import fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .exact import IntegerTotals
from .moments import FloatingTotals, Moments

Totals: TypeAlias = IntegerTotals | FloatingTotals

_INTEGER = {"uint8": torch.uint8, "uint16": torch.uint16}


def kind_of(totals: Totals) -> torch.dtype:
    """Return the type that all images must share: an integer one, or float64 for all floating."""
    return totals.dtype if isinstance(totals, IntegerTotals) else torch.float64


def name_of(kind: torch.dtype) -> str:
    """Return the name of such a type in messages and states."""
    return {torch.uint8: "uint8", torch.uint16: "uint16"}.get(kind, "floating")


def state_of(totals: Totals) -> dict[str, Any]:
    """Return a copy of everything in some totals that ``torch.load(weights_only=True)`` reads."""
    state = {e.name: _copy(getattr(totals, e.name)) for e in fields(totals) if e.name != "dtype"}
    return {"kind": name_of(kind_of(totals)), **state}


def totals_of(state: dict[str, Any]) -> Totals:
    """Return the totals that ``state_of`` took apart.

    Raises:
        AttributeError, KeyError, TypeError: if the state came from elsewhere.
    """
    values = {key: _copy(value) for key, value in state.items()}
    kind = values.pop("kind")
    if kind == "floating":
        for key in ("pixel", "image"):
            values[key] = Moments(*values[key])
        return FloatingTotals(**values)
    return IntegerTotals(_INTEGER[kind], **values)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return [_copy(v) for v in value] if isinstance(value, list | tuple) else value
