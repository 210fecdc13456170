"""`dataset_stats`: channel statistics of a DataLoader, a Dataset or a folder of pictures."""

import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from torchops._common.checks import check_bool, check_choice, check_integer, describe

from .accumulator import ChannelStats
from .checkpoint import Checkpoint, fingerprint
from .folder import Folder
from .samples import Batch, Collate, Selector, Source, as_list, is_image, reduce, select, to_tensor

_BATCH_SIZE = 64
_NAMED = 10  # so many skipped images are named in the warning


@runtime_checkable
class Indexed(Protocol):
    """A dataset by what it can do, whatever its class: a list, or another library's dataset."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a sample."""

    def __len__(self) -> int:
        """Return the number of samples."""


def dataset_stats(
    data: DataLoader | Dataset | Indexed | str | os.PathLike,
    *,
    images: Callable[[Any], Any] | str | int | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    on_error: str = "raise",
    checkpoint: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    shard: tuple[int, int] | None = None,
    covariance: bool = False,
) -> ChannelStats:
    """Measure the mean, std, extremes and quantiles of each channel of a collection of images.

    See :class:`ChannelStats` for what is measured and how exactly. Integer images (no ``ToTensor``
    or ``scale=True`` before) give exact results, the same for every batch size and worker count.
    Of a Dataset or folder the images are reduced where they are decoded, in the worker processes.

    A folder is searched with its subfolders for picture files, by name, hidden ones left out. Each
    counts as RGB, as torchvision's ``ImageFolder`` would load it: gray as three equal channels,
    alpha dropped, palettes looked up, CMYK by Pillow's conversion, the first frame of several.
    A 16-bit gray file keeps its 16 bits (uint16, the full scale is 65535) and does not mix with
    8-bit ones; 16-bit colour counts as unreadable, since Pillow would cut it to 8 bits. EXIF
    rotation is of no account: it moves pixels, it changes none. Pillow images out of a Dataset keep
    their channels (palettes become RGB).

    To share the work between processes or machines give each its ``shard`` and add up:
    ``dataset_stats(data, shard=(rank, world_size)).all_reduce()``, or ``merge`` what each returns:
    integer images give the bits that one process would. ``torchrun -m torchops stats DIR`` does so.

    Args:
        data: A DataLoader; a Dataset or sequence with a length; or the path of a folder. An empty
            Dataset gives an empty ChannelStats.
        images: Where the image is in a sample (of a DataLoader: in a batch): a key, an index, or a
            function of the sample that returns an image or a list of images. By default the first
            entry that looks like an image: a (..., C, H, W) uint8, uint16 or floating tensor, a
            Pillow image, or a list of such.
        batch_size: Images a worker reduces at a time, default 64. Not with a DataLoader.
        num_workers: Worker processes, default 0: all work in this one. Not with a DataLoader.
        device: Where to reduce. Default: where the images are, on the CPU in the workers.
        progress: Show a progress bar with images per second on standard error.
        on_error: "raise" stops at an image that cannot be read, naming it; "skip" goes on, warns at
            the end and lists the images in ``.skipped``. Not with a DataLoader.
        checkpoint: A file to save the state in, now and then, and at the end. If it exists the
            count goes on from it: every image is counted once, however often the process was
            killed. A finished file gives the result at once. Each shard needs a file of its own.
            Not with a DataLoader.
        limit: Measure a random sample of so many images, without repetition; see
            ``.mean_standard_error`` for how far off its mean may be. Not with a DataLoader.
        seed: Seed of the sample; the global random state is not used.
        shard: (rank, world_size): measure every world_size-th image (of the sample, with
            ``limit``), starting at the rank-th. The shards of all ranks hold every image once,
            whether or not their sizes are equal. Not with a DataLoader.
        covariance: Also measure the covariance between the channels, which takes a second pass
            over the pixels.

    Returns:
        The statistics, with ``scale=True``.

    Raises:
        TypeError: Wrong types; a sample without an image; images of several kinds together.
        ValueError: Values out of range; an empty folder; an unreadable image (named); images with
            different numbers of channels; a checkpoint of another job; a DataLoader that repeats
            images.

    Example:
        >>> data = [(torch.full((3, 2, 2), 51 * k, dtype=torch.uint8), k) for k in range(6)]
        >>> stats = dataset_stats(data, progress=False)
        >>> stats.images, stats.mean.tolist()
        (6, [0.5, 0.5, 0.5])
    """
    check_bool("progress", progress)
    check_choice("on_error", on_error, ("raise", "skip"))
    check_bool("covariance", covariance)
    check_integer("seed", seed)
    _check_shard(shard)
    if not (images is None or callable(images) or isinstance(images, str | int)):
        raise TypeError(f"images must be a key, an index or a function, got {describe(images)}")
    for name, value, minimum in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("limit", limit, 1),
    ):
        if value is not None:
            check_integer(name, value, minimum=minimum)
    place = None if device is None else torch.device(device)
    if isinstance(data, DataLoader):
        given = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "checkpoint": checkpoint,
            "limit": limit,
            "shard": shard,
            "on_error": None if on_error == "raise" else on_error,
        }
        _check_loader(data, given)
        return _from_loader(data, images, place, progress, covariance)
    if isinstance(data, str | os.PathLike):
        data = Folder(data)
    if isinstance(data, IterableDataset) or not isinstance(data, Indexed):
        raise TypeError(
            "data must be a DataLoader, a Dataset with a length or the path of a folder, "
            f"got {describe(data)}"
        )
    total = len(data)
    chosen: Sequence[int] = range(total)
    if limit is not None and limit < total:
        chosen = sorted(random.Random(seed).sample(chosen, limit))
    if shard is not None:
        chosen = chosen[shard[0] :: shard[1]]
    file = None
    if checkpoint is not None:
        names = data.names if isinstance(data, Folder) else [type(data).__qualname__]
        job = fingerprint([total, limit, seed, shard, covariance, *names])
        file = Checkpoint(checkpoint, job)
    stats = ChannelStats(covariance=covariance)
    count = _Count(data, chosen, file, stats, skip=on_error == "skip")
    count.run(images, batch_size or _BATCH_SIZE, num_workers or 0, place, progress)
    if count.stats.skipped:
        _warn_of_skipped(count.stats.skipped, len(chosen))
    return count.stats


class _Count:
    """A pass over chosen samples of a dataset, in order, that can be cut off anywhere."""

    def __init__(
        self,
        data: Any,
        chosen: Sequence[int],
        file: Checkpoint | None,
        stats: ChannelStats,
        *,
        skip: bool,
    ):
        self.data = data
        self.chosen = chosen
        self.file = file
        self.skip = skip
        self.stats = stats
        self.done = 0 if file is None else file.load(self.stats)

    def run(
        self,
        images: Selector,
        batch_size: int,
        num_workers: int,
        place: torch.device | None,
        progress: bool,
    ) -> None:
        on_cpu = place is None or place.type == "cpu"
        covariance = self.stats.with_covariance
        loader: DataLoader = DataLoader(
            # Counts of levels say nothing of how the channels vary together.
            Source(self.data, images, skip=self.skip, count=on_cpu and not covariance),
            batch_size=batch_size,
            sampler=self.chosen[self.done :],
            num_workers=num_workers,
            generator=torch.Generator(),  # else the seeds of the workers come from the global one
            collate_fn=Collate(on_cpu, covariance),
        )
        try:
            with _bar(progress, len(self.chosen), self.done) as advance:
                for batch in _batches(loader):
                    self._count(batch, place)
                    advance(batch.samples)
                    if self.file is not None:
                        self.file.save_if_due(self.done, self.stats)
        finally:
            if self.file is not None:
                self.file.save(self.done, self.stats)

    def _count(self, batch: Batch, place: torch.device | None) -> None:
        """Count a batch wholly or, if it raises, not at all."""
        if batch.unreadable and not self.skip:
            raise ValueError(f"data must hold readable images, got {batch.unreadable[0]}")
        stats = self.stats + ChannelStats(covariance=self.stats.with_covariance)
        for part in batch.parts:
            try:
                if isinstance(part.content, ChannelStats):
                    stats.merge(part.content)
                else:
                    reduce([image.to(place) for image in part.content], stats)
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"data must hold images of one kind, got {self._name(part.first)}: {error}"
                ) from error
        stats.skipped = stats.skipped + batch.unreadable
        self.stats = stats
        self.done += batch.samples

    def _name(self, index: int) -> str:
        data = self.data
        return str(data.root / data.names[index]) if isinstance(data, Folder) else f"data[{index}]"


def _batches(loader: DataLoader) -> Iterator[Batch]:
    """Iterate over a loader so that, if a worker raises, the workers end before the caller knows.

    DataLoader raises a worker's exception from a frame that holds it: a cycle of references, which
    keeps workers and their queues until a garbage collection, which may take them down in an order
    that prints errors. The frames tell nothing: the worker's traceback is in the message.
    """
    iterator = iter(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            if loader.num_workers > 0:
                raise error.with_traceback(None) from None
            raise
        yield batch


def _check_shard(shard: object) -> None:
    if shard is None:
        return
    if not isinstance(shard, tuple) or len(shard) != 2:
        raise TypeError(f"shard must be a pair (rank, world_size), got {describe(shard)}")
    rank, world_size = shard
    check_integer("shard[1]", world_size, minimum=1)
    check_integer("shard[0]", rank, minimum=0)
    if rank >= world_size:
        raise ValueError(f"shard[0] must be below the world_size {world_size}, got {rank}")


def _check_loader(loader: DataLoader, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} must be left out when data is a DataLoader, got {describe(value)}; "
                "pass its dataset instead"
            )
    sampler = loader.sampler
    if isinstance(sampler, DistributedSampler) and sampler.total_size > len(sampler.dataset):  # type: ignore[arg-type]
        raise ValueError(
            "data must give every image once, got a DataLoader whose DistributedSampler repeats "
            f"{sampler.total_size - len(sampler.dataset)} image(s) to make the shards equal; "  # type: ignore[arg-type]
            "pass its dataset and shard=(rank, world_size) instead"
        )


def _from_loader(
    loader: DataLoader,
    images: Selector,
    place: torch.device | None,
    progress: bool,
    covariance: bool,
) -> ChannelStats:
    stats = ChannelStats(covariance=covariance)
    sized = not isinstance(loader.dataset, IterableDataset)
    total = len(loader.sampler) if sized and hasattr(loader.sampler, "__len__") else None  # type: ignore[arg-type]
    with _bar(progress, total, 0) as advance:
        for batch in loader:
            chosen = [to_tensor(x) for x in as_list(select(_unambiguous(batch, images), images))]
            reduce([image if place is None else image.to(place) for image in chosen], stats)
            advance(sum(image.shape[:-3].numel() for image in chosen))
    return stats


def _unambiguous(batch: Any, images: Selector) -> Any:
    """Raise if a batch is a flat list of images, which may be one sample's views or a batch."""
    if (
        images is None
        and isinstance(batch, list | tuple)
        and len(batch) > 1
        and all(is_image(entry) for entry in batch)
        and all(not isinstance(entry, Tensor) or entry.ndim == 3 for entry in batch)
    ):
        raise ValueError(
            f"data must give batches (B, C, H, W), got a list of {len(batch)} single images; say "
            "which count with images= (images=list: all of them)"
        )
    return batch


@contextmanager
def _bar(progress: bool, total: int | None, done: int) -> Iterator[Callable[[int], Any]]:
    from tqdm import tqdm

    with tqdm(
        total=total, initial=done, unit=" images", unit_scale=False, disable=not progress
    ) as bar:
        yield bar.update


def _warn_of_skipped(names: list[str], total: int) -> None:
    shown = [f"  {name}" for name in names[:_NAMED]]
    if len(names) > _NAMED:
        shown.append(f"  and {len(names) - _NAMED} more, see .skipped")
    warnings.warn(
        "\n".join([f"{len(names)} of {total} images could not be read and were skipped:", *shown]),
        stacklevel=3,
    )
