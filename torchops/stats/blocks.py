"""How many images to reduce at a time."""

from torch import Tensor

# Intermediate results are several times larger than the images: on a CPU blocks of this many
# elements keep them in its cache, elsewhere blocks bound the memory and fill the device.
_CPU = 2**18
_ELSEWHERE = 2**25


def images_per_block(images: Tensor) -> int:
    """Return a number of images (N, C, H, W) that makes a block of sensible size."""
    elements = _CPU if images.device.type == "cpu" else _ELSEWHERE
    return max(1, elements // images[0].numel())
