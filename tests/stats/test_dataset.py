"""dataset_stats over Datasets and DataLoaders: samples, workers, limit, progress, checkpoints."""

import gc
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset

from torchops import ChannelStats, dataset_stats

PROPERTIES = ("mean", "std", "min", "max", "mean_image_std", "mean_standard_error")


class Photographs(Dataset):
    """Unequal uint8 images with labels; ``broken`` indices raise."""

    def __init__(self, length=23, broken=()):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"cannot decode number {index}")
        return image(index), index % 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter([image(k) for k in range(5)])


def image(index):
    generator = torch.Generator().manual_seed(index)
    height, width = (6 + index % 5, 8) if index % 3 else (7, 7)
    top = 80 + 20 * (index % 9)
    return torch.randint(0, top, (3, height, width), generator=generator, dtype=torch.uint8)


def counted(indices):
    stats = ChannelStats()
    for index in indices:
        stats.update(image(index))
    return stats


def same(a, b):
    assert (a.images, a.pixels) == (b.images, b.pixels)
    for name in PROPERTIES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.quantile([0.1, 0.5]), b.quantile([0.1, 0.5]))


def measure(data, **options):
    return dataset_stats(data, progress=False, **options)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_batch_size_and_worker_count_gives_the_same_bits(num_workers, batch_size):
    stats = measure(Photographs(), num_workers=num_workers, batch_size=batch_size)
    same(stats, counted(range(23)))


def test_on_a_device_it_gives_the_same_bits(device):
    same(measure(Photographs(), device=device, batch_size=4), counted(range(23)))
    loader = DataLoader(Photographs(), batch_size=1)
    same(measure(loader, device=str(device)), counted(range(23)))


def test_only_sums_leave_a_worker():
    from torchops.stats.samples import Collate, Source

    source = Source(Photographs(), None, skip=False, count=True)
    batch = Collate(reduce=True)([source[k] for k in range(5)])
    assert [type(part.content) for part in batch.parts] == [ChannelStats]
    same(batch.parts[0].content, counted(range(5)))


def test_a_list_a_subset_and_a_duck_are_datasets():
    class Duck:
        def __getitem__(self, index):
            return {"pixels": image(index)}

        def __len__(self):
            return 4

    expected = counted(range(4))
    same(measure([image(k) for k in range(4)]), expected)
    same(measure(Subset(Photographs(), range(4))), expected)
    same(measure(Duck()), expected)


def test_shards_add_up():
    parts = [measure(Subset(Photographs(), range(rank, 23, 4))) for rank in range(4)]
    same(sum(parts, ChannelStats()), counted(range(23)))


@pytest.mark.parametrize("size", [1, 2, 4, 30])
@pytest.mark.parametrize("limit", [None, 9])
def test_shards_hold_every_image_once(size, limit):
    seen = []

    class Spy(Photographs):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    parts = [measure(Spy(), shard=(rank, size), limit=limit, seed=3) for rank in range(size)]
    assert len(seen) == len(set(seen)) == (limit or 23)
    sizes = [part.images for part in parts]
    assert max(sizes) - min(sizes) <= 1
    # A sample does not depend on how many share the work.
    same(sum(parts, ChannelStats()), measure(Photographs(), limit=limit, seed=3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_covariance_between_the_channels_of_a_dataset(num_workers):
    data = [as_pil(k) if k % 2 else image(k) for k in range(7)]
    expected = ChannelStats(covariance=True)
    for k in range(7):
        expected.update(image(k))
    stats = measure(data, covariance=True, num_workers=num_workers, batch_size=3)
    assert torch.equal(stats.covariance, expected.covariance)
    same(stats, expected)
    loader = DataLoader([image(k) for k in range(7)], batch_size=1)
    assert torch.equal(measure(loader, covariance=True).covariance, expected.covariance)


def test_an_empty_dataset_is_an_empty_count():
    assert measure([]).images == 0
    assert measure(Subset(Photographs(), [])).images == 0


def as_pil(index):
    return Image.fromarray(np.ascontiguousarray(image(index).permute(1, 2, 0).numpy()))


@pytest.mark.parametrize(
    ("wrap", "images"),
    [
        (lambda k: image(k), None),
        (lambda k: (image(k), k), None),
        (lambda k: [k, "name", image(k), image(k + 1)], None),
        (lambda k: {"label": k, "image": image(k)}, None),
        (lambda k: {"mask": image(k + 1), "image": image(k)}, "image"),
        (lambda k: (image(k + 1), image(k)), 1),
        (lambda k: (image(k + 1), image(k)), -1),
        (lambda k: {"a": {"b": image(k)}}, lambda sample: sample["a"]["b"]),
        (lambda k: (as_pil(k), k), None),
        (lambda k: as_pil(k), None),
        (lambda k: (torch.tensor([1.0, 2]), torch.zeros(3, 3), image(k)), None),
        (lambda k: image(k)[None], None),
    ],
)
def test_the_image_is_found_in_a_sample(wrap, images):
    same(measure([wrap(k) for k in range(5)], images=images), counted(range(5)))


def test_a_sample_may_hold_several_images():
    data = [[[image(0), image(1)], "pair"], [[image(2)], "single"]]
    same(measure(data), counted(range(3)))
    same(measure([{"views": (image(0), as_pil(1))}], images="views"), counted(range(2)))


def test_a_sample_without_an_image_says_what_it_holds():
    with pytest.raises(
        TypeError, match=r"data must give samples with an image.*got \(3, 'x'\); say where"
    ):
        measure([(3, "x")])
    with pytest.raises(TypeError, match=r"got \{'a': a float32 tensor of shape \(2, 2\)\}"):
        measure([{"a": torch.zeros(2, 2)}])
    with pytest.raises(TypeError, match="images must pick an image of a sample, got 7"):
        measure([(image(0), 7)], images=1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_the_same_as_its_dataset(num_workers):
    images = torch.stack([image(3 * k) for k in range(7)])
    data = torch.utils.data.TensorDataset(images, torch.arange(7))
    expected = ChannelStats().update(images)
    loader = DataLoader(data, batch_size=3, num_workers=num_workers, shuffle=True)
    same(measure(loader), expected)
    same(measure(data), expected)


def test_a_loader_of_unequal_images():
    def collate(samples):
        return [s[0] for s in samples], [s[1] for s in samples]

    same(measure(DataLoader(Photographs(), batch_size=4, collate_fn=collate)), counted(range(23)))
    same(measure(DataLoader(Photographs(), batch_size=None)), counted(range(23)))
    same(measure(DataLoader(Stream(), batch_size=1)), counted(range(5)))


def test_a_flat_list_of_images_is_ambiguous():
    flat = DataLoader(
        Photographs(6), batch_size=3, collate_fn=lambda samples: [s[0] for s in samples]
    )
    with pytest.raises(
        ValueError, match=r"got a list of 3 single images; say which count with images="
    ):
        measure(flat)
    same(measure(flat, images=list), counted(range(6)))
    views = DataLoader([(image(0), image(3))] * 4, batch_size=2)
    assert measure(views).images == 4


def test_a_sampler_that_repeats_images_is_refused():
    padded = DistributedSampler(Photographs(), num_replicas=4, rank=0, shuffle=False)
    with pytest.raises(ValueError, match=r"data must give every image once.*repeats 1 image"):
        measure(DataLoader(Photographs(), sampler=padded))
    even = DistributedSampler(Photographs(24), num_replicas=4, rank=0, shuffle=False)
    assert measure(DataLoader(Photographs(24), sampler=even)).images == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_sample_raises_or_is_skipped(num_workers):
    data = Photographs(broken=(3, 4, 11))
    with pytest.raises(OSError, match="cannot decode number 3"):
        measure(data, num_workers=num_workers)
    with pytest.warns(UserWarning, match=r"3 of 23 images could not be read"):
        stats = measure(data, num_workers=num_workers, batch_size=4, on_error="skip")
    same(stats, counted(k for k in range(23) if k not in (3, 4, 11)))
    assert stats.skipped[0] == "data[3] (OSError: cannot decode number 3)"
    assert len(stats.skipped) == 3


def test_workers_end_when_one_of_them_raises():
    gc.disable()  # or a collection might happen to end them
    try:
        with pytest.raises(OSError, match="cannot decode number 3"):
            measure(Photographs(broken=(3,)), num_workers=2)
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_images_with_other_channels_are_named():
    data = [image(0), image(1), image(2)[:1], image(3)]
    with pytest.raises(ValueError, match=r"got data\[2\]: other must have 3 channel"):
        measure(data, batch_size=2)


def test_limit_draws_without_repetition():
    seen = []

    class Spy(Photographs):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    before = torch.get_rng_state()
    stats = measure(Spy(), limit=9, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(seen) == len(set(seen)) == 9
    same(stats, counted(seen))
    first, seen[:] = list(seen), []
    measure(Spy(), limit=9, seed=4)
    assert seen == first
    seen.clear()
    measure(Spy(), limit=9, seed=5)
    assert seen != first
    same(measure(Spy(), limit=1000), counted(range(23)))


def test_every_image_is_drawn_equally_often():
    hits = torch.zeros(8)
    for seed in range(160):
        chosen = measure(
            [torch.full((1, 1, 1), k, dtype=torch.uint8) for k in range(8)], limit=3, seed=seed
        )
        levels = chosen.quantile([0, 0.5, 1])[:, 0] * 255
        hits[levels.round().long()] += 1
    # 60 expected each, standard deviation 6.1
    assert (hits - 60).abs().max() < 25


def test_the_progress_bar_counts_images(capsys):
    dataset_stats(Photographs(), batch_size=4)
    shown = capsys.readouterr().err
    assert "23/23" in shown
    assert "images/s" in shown
    dataset_stats(DataLoader([image(0)] * 5, batch_size=2))
    assert "5/5" in capsys.readouterr().err
    dataset_stats(Photographs(), progress=False)
    assert capsys.readouterr().err == ""


def test_a_finished_checkpoint_gives_the_result_at_once(tmp_path):
    path = tmp_path / "count.pt"
    same(measure(Photographs(), checkpoint=path, num_workers=2, batch_size=3), counted(range(23)))
    assert [p.name for p in tmp_path.iterdir()] == ["count.pt"]
    # The same job again, though nothing can be read any more.
    again = Photographs(broken=range(23))
    same(measure(again, checkpoint=str(path)), counted(range(23)))


def test_an_interrupted_count_goes_on_where_it_was(tmp_path):
    path = tmp_path / "count.pt"
    with pytest.raises(OSError, match="number 14"):
        measure(Photographs(broken=(14,)), checkpoint=path, batch_size=3)
    saved = torch.load(path, weights_only=True)
    assert saved["done"] == 12
    seen = []

    class Spy(Photographs):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    Spy.__qualname__ = Photographs.__qualname__
    same(measure(Spy(), checkpoint=path, batch_size=4), counted(range(23)))
    assert seen == list(range(12, 23))


def test_skipped_images_survive_an_interruption(tmp_path):
    class Broken(Photographs):
        def __getitem__(self, index):
            if index == 20 and self.stop:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    data = Broken(broken=(2, 21))
    data.stop = True
    options = {"checkpoint": tmp_path / "c.pt", "batch_size": 2, "on_error": "skip"}
    with pytest.raises(KeyboardInterrupt):
        measure(data, **options)
    data.stop = False
    with pytest.warns(UserWarning, match="2 of 23 images"):
        stats = measure(data, **options)
    assert [name[:8] for name in stats.skipped] == ["data[2] ", "data[21]"]
    same(stats, counted(k for k in range(23) if k not in (2, 21)))


def test_a_checkpoint_of_another_job_or_none_at_all(tmp_path):
    path = tmp_path / "c.pt"
    measure(Photographs(), checkpoint=path, limit=5, seed=1)
    for options in (
        {"limit": 6, "seed": 1},
        {"limit": 5, "seed": 2},
        {"limit": 5, "seed": 1, "shard": (0, 2)},
        {"limit": 5, "seed": 1, "covariance": True},
        {},
    ):
        with pytest.raises(
            ValueError, match="checkpoint must belong to the same data, limit, seed, shard and cov"
        ):
            measure(Photographs(), checkpoint=path, **options)
    with pytest.raises(ValueError, match="checkpoint must belong to the same data"):
        measure(Photographs(22), checkpoint=path, limit=5, seed=1)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(
        ValueError, match=r"checkpoint must be a file written by dataset_stats, got .*c\.pt"
    ):
        measure(Photographs(), checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint must be a file in an existing folder"):
        measure(Photographs(), checkpoint=tmp_path / "missing" / "c.pt")
    with pytest.raises(ValueError, match="checkpoint must be a file, got a folder"):
        measure(Photographs(), checkpoint=tmp_path)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    measure(Photographs(), checkpoint=path)
    before = path.read_bytes()

    def fail(*args):
        args[1].write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        measure(Photographs(), checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


class Stalling(Dataset):
    """120 images, each noted in a file before it is made; at one of them time stands still."""

    def __init__(self, log, stall=None):
        self.log, self.stall = log, stall

    def __len__(self):
        return 120

    def __getitem__(self, index):
        with open(self.log, "a") as log:
            log.write(f"{index}\n")
        time.sleep(600 if index == self.stall else 0.002)
        return image(index)


def count_until(stall, folder, num_workers):
    os.setsid()  # a group of its own, to be killed with its workers
    data = Stalling(folder / "log", stall)
    measure(data, checkpoint=folder / "c.pt", batch_size=2, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_killed_and_resumed_nothing_is_lost_or_counted_twice(tmp_path, monkeypatch, num_workers):
    from torchops.stats import checkpoint

    monkeypatch.setattr(checkpoint, "_LEAST_SECONDS", 0.01)  # in the children too: they are forks
    monkeypatch.setattr(checkpoint, "_SHARE", 1)
    file, log, done = tmp_path / "c.pt", tmp_path / "log", 0
    for stall in (41, 87):
        process = multiprocessing.get_context("fork").Process(
            target=count_until, args=(stall, tmp_path, num_workers)
        )
        process.start()
        end = time.monotonic() + 60
        while not (log.exists() and str(stall) in log.read_text().split()):
            assert time.monotonic() < end
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)  # no chance to write anything more
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before, done = done, torch.load(file, weights_only=True)["done"]
        assert before < done <= stall
    stats = measure(Stalling(log), checkpoint=file, batch_size=7)
    same(stats, counted(range(120)))
    # It went on rather than start anew: what was read again is what was read since a checkpoint.
    assert 120 < len(log.read_text().split()) < 2 * 120
