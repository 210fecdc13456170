"""Dense optical flow by pyramidal Lucas-Kanade, and what one needs around it."""

from torchops.flow.dense import LucasKanade, OpticalFlow, lucas_kanade
from torchops.flow.io import read_flo, write_flo
from torchops.flow.metrics import angular_error, endpoint_error
from torchops.flow.warp import warp_by_flow

__all__ = [
    "LucasKanade",
    "OpticalFlow",
    "angular_error",
    "endpoint_error",
    "lucas_kanade",
    "read_flo",
    "warp_by_flow",
    "write_flo",
]
