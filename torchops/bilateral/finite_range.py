"""The range of a guide, over its finite values."""

import torch
from torch import Tensor

from torchops.bilateral.recompute import recomputed


def extremes(guide: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest finite value (B,) of a guide; 0 if it has none."""
    # One after the other, because their gradients take a few images of memory each.
    low, high = (recomputed([[function]], guide)[:, 0, 0] for function in (_least, _greatest))
    return low, high


def _least(guide: Tensor) -> Tensor:
    # One pass instead of the five of isfinite and where.
    low = guide.flatten(1).nan_to_num(torch.inf, torch.inf, torch.inf).amin(1)
    return torch.where(low.isfinite(), low, 0)[:, None, None]


def _greatest(guide: Tensor) -> Tensor:
    high = guide.flatten(1).nan_to_num(-torch.inf, -torch.inf, -torch.inf).amax(1)
    return torch.where(high.isfinite(), high, 0)[:, None, None]
