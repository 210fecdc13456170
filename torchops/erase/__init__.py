"""Random erasing: disjoint boxes of a prescribed total area, and filling them."""

from .boxes import boxes_to_mask, sample_disjoint_boxes
from .fill import erase_boxes

__all__ = ["boxes_to_mask", "erase_boxes", "sample_disjoint_boxes"]
