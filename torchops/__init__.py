"""Six classic image algorithms as batched, differentiable PyTorch ops.

Each room of the package holds one subject; every public name is importable from here.
"""

# bilateral

# colorization

# flow
from torchops.flow import (
    LucasKanade,
    OpticalFlow,
    angular_error,
    endpoint_error,
    lucas_kanade,
    read_flo,
    warp_by_flow,
    write_flo,
)

# alignment

# erase

# stats

__version__ = "0.1.0"

__all__: list[str] = [
    # bilateral
    # colorization
    # flow
    "LucasKanade",
    "OpticalFlow",
    "angular_error",
    "endpoint_error",
    "lucas_kanade",
    "read_flo",
    "warp_by_flow",
    "write_flo",
    # alignment
    # erase
    # stats
]
