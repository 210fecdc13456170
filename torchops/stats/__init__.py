"""Channel statistics of image collections: exact for integers, mergeable, distributed."""

from .accumulator import ChannelStats
from .dataset import dataset_stats

__all__ = ["ChannelStats", "dataset_stats"]
