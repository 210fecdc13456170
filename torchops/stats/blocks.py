"""How many planes to reduce at a time."""

from torch import Tensor

# Intermediate results are several times larger than the images: on a CPU blocks of this many
# elements keep them in its cache, elsewhere blocks bound the memory and fill the device.
_CPU = 2**16
_ELSEWHERE = 2**25


def planes_per_block(planes: Tensor) -> int:
    """Return how many of some planes (N, ...) make a block of sensible size."""
    elements = _CPU if planes.device.type == "cpu" else _ELSEWHERE
    return max(1, elements // planes[0].numel())
