"""Six classic image algorithms as batched, differentiable PyTorch ops.

Each room of the package holds one subject; every public name is importable from here.
"""

from typing import TYPE_CHECKING

# bilateral
# alignment
from torchops.alignment import (
    Alignment,
    AlignmentStatus,
    LucasKanadeAligner,
    align,
    from_kornia,
    from_opencv,
    motion_jacobian,
    motion_matrix,
    motion_parameters,
    parameter_covariance,
    to_kornia,
    to_opencv,
    warp_image,
    warp_points,
)
from torchops.bilateral import (
    BilateralFilter,
    bilateral_filter,
    durand_tonemap,
    joint_bilateral_upsample,
)

# colorization
from torchops.colorization import (
    Colorization,
    ColorizationLoss,
    colorization_loss,
    colorize,
    levin_weights,
    rgb_to_yiq,
    rgb_to_yuv,
    scribbles_from_marked,
    yiq_to_rgb,
    yuv_to_rgb,
)

# erase
from torchops.erase import boxes_to_mask, erase_boxes, sample_disjoint_boxes

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

# stats
from torchops.stats import ChannelStats, dataset_stats

if TYPE_CHECKING:
    from torchops.transforms import RandomMultiErase

__version__ = "0.1.0"

__all__: list[str] = [
    # bilateral
    "BilateralFilter",
    "bilateral_filter",
    "durand_tonemap",
    "joint_bilateral_upsample",
    # colorization
    "Colorization",
    "ColorizationLoss",
    "colorization_loss",
    "colorize",
    "levin_weights",
    "rgb_to_yiq",
    "rgb_to_yuv",
    "scribbles_from_marked",
    "yiq_to_rgb",
    "yuv_to_rgb",
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
    "Alignment",
    "AlignmentStatus",
    "LucasKanadeAligner",
    "align",
    "from_kornia",
    "from_opencv",
    "motion_jacobian",
    "motion_matrix",
    "motion_parameters",
    "parameter_covariance",
    "to_kornia",
    "to_opencv",
    "warp_image",
    "warp_points",
    # erase
    "RandomMultiErase",
    "boxes_to_mask",
    "erase_boxes",
    "sample_disjoint_boxes",
    # stats
    "ChannelStats",
    "dataset_stats",
]


def __getattr__(name: str) -> object:
    # The transform is made of torchvision, which is imported when it is first asked for.
    if name == "RandomMultiErase":
        from torchops.transforms import RandomMultiErase

        return RandomMultiErase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
