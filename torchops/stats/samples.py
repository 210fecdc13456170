"""Finding the image in a sample, and reducing samples to statistics in the worker process."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, stack
from torch.utils.data import Dataset

from torchops._common.checks import FLOATING, describe

from .accumulator import INTEGER, ChannelStats
from .folder import UnreadableImageError, picture_to_counts, picture_to_tensor

Selector = Callable[[Any], Any] | str | int | None


def is_image(entry: object) -> bool:
    """Say whether an entry of a sample looks like an image: (..., C, H, W) or a Pillow image."""
    if isinstance(entry, Tensor):
        return entry.ndim >= 3 and entry.dtype in (*INTEGER, *FLOATING)
    # Pillow is not imported here: if nobody has, nothing can be one of its images.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(entry, pillow.Image)


def select(sample: Any, images: Selector) -> Any:
    """Pick the image of a sample, or the images of a batch: an image or a sequence of images."""
    if callable(images):
        sample = images(sample)
    elif images is not None:
        sample = sample[images]
    if is_image(sample):
        return sample
    if images is not None:
        if _is_sequence_of_images(sample):
            return sample
        raise TypeError(f"images must pick an image of a sample, got {describe(sample)}")
    entries = sample.values() if isinstance(sample, Mapping) else sample
    if isinstance(entries, Sequence) or isinstance(sample, Mapping):
        for entry in entries:
            if is_image(entry) or _is_sequence_of_images(entry):
                return entry
    raise TypeError(
        "data must give samples with an image, a (C, H, W) uint8, uint16 or floating tensor or a "
        f"Pillow image, got {_describe_sample(sample)}; say where it is with images="
    )


def as_list(chosen: Any) -> list[Any]:
    """Return what ``select`` gave as a list of tensors and Pillow images."""
    return list(chosen) if isinstance(chosen, list | tuple) else [chosen]


def to_tensor(entry: Any) -> Tensor:
    """Return a tensor or Pillow image as a tensor."""
    return entry if isinstance(entry, Tensor) else picture_to_tensor(entry)


def reduce(images: Sequence[Tensor], stats: ChannelStats) -> None:
    """Update statistics by several images, in one go where they have one shape."""
    if len({(image.shape, image.dtype) for image in images}) == 1:
        stats.update(stack(list(images)))
    else:
        for image in images:
            stats.update(image)


class Counts(NamedTuple):
    """A picture, reduced to how often each level occurs in each band: (C, 256)."""

    levels: Tensor


Item = tuple[int, list[Tensor | Counts] | str]


class Source(Dataset[Item]):
    """Samples as (index, their images); of an unreadable one (index, what is wrong with it).

    With ``count`` Pillow images are counted as soon as they are decoded, still in the cache.
    """

    def __init__(self, data: Any, images: Selector, *, skip: bool, count: bool):
        self.data = data
        self.images = images
        self.catch = Exception if skip else UnreadableImageError
        self.count = count

    def __getitem__(self, index: int) -> Item:
        try:
            sample = self.data[index]
        except UnreadableImageError as error:
            return index, str(error)
        except self.catch as error:
            return index, f"data[{index}] ({type(error).__name__}: {error})"
        return index, [self._take(entry) for entry in as_list(select(sample, self.images))]

    def _take(self, entry: Any) -> Tensor | Counts:
        if self.count and not isinstance(entry, Tensor):
            levels = picture_to_counts(entry)
            if levels is not None:
                return Counts(levels)
        return to_tensor(entry)


@dataclass
class Part:
    """The images of one kind in a batch: their statistics, or themselves.

    Attributes:
        first: Index of the first of these images in the data.
        content: Statistics, or the images if they are to be reduced on another device.
    """

    first: int
    content: ChannelStats | list[Tensor]


@dataclass
class Batch:
    """What leaves a worker: how many samples these were, what they hold, which were unreadable."""

    samples: int
    parts: list[Part]
    unreadable: list[str]


class Collate:
    """Turn samples of ``Source`` into a ``Batch``; with ``reduce`` only integers leave a worker."""

    def __init__(self, reduce: bool, covariance: bool = False):
        self.reduce = reduce
        self.covariance = covariance

    def __call__(self, samples: list[Item]) -> Batch:
        """Group the images of some samples by kind and reduce each group."""
        unreadable = []
        # What ChannelStats can count together: images of one kind with equally many channels.
        groups: dict[Any, tuple[int, list[Tensor]]] = {}
        for index, images in samples:
            if isinstance(images, str):
                unreadable.append(images)
                continue
            for image in images:
                if isinstance(image, Counts):
                    content, kind = image.levels, ("counts", len(image.levels))
                else:
                    name = str(image.dtype) if image.dtype in INTEGER else "floating"
                    content, kind = image, (name, image.shape[-3])
                groups.setdefault(kind, (index, []))[1].append(content)
        parts = [
            Part(first, self._content(contents, counted=kind[0] == "counts"))
            for kind, (first, contents) in groups.items()
        ]
        return Batch(len(samples), parts, unreadable)

    def _content(self, contents: list[Tensor], counted: bool) -> ChannelStats | list[Tensor]:
        if not self.reduce:
            return contents
        stats = ChannelStats(covariance=self.covariance)
        if counted:
            stats._update_by_counts(stack(contents))
        else:
            reduce(contents, stats)
        return stats


def _is_sequence_of_images(entry: object) -> bool:
    return isinstance(entry, list | tuple) and len(entry) > 0 and all(map(is_image, entry))


def _describe_sample(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in sample.items()) + "}"
    if isinstance(sample, list | tuple):
        return "(" + ", ".join(describe(v) for v in sample) + ")"
    return describe(sample)
