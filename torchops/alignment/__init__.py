"""Parametric image alignment after Lucas and Kanade, Baker and Matthews."""

from torchops.alignment.conventions import from_kornia, from_opencv, to_kornia, to_opencv
from torchops.alignment.covariance import parameter_covariance
from torchops.alignment.iteration import AlignmentStatus
from torchops.alignment.motion import motion_jacobian, motion_matrix, motion_parameters
from torchops.alignment.solve import Alignment, LucasKanadeAligner, align
from torchops.alignment.warp import warp_image, warp_points

__all__ = [
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
]
