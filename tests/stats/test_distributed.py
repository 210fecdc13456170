"""all_reduce over processes with uneven, empty and mismatched shards (gloo)."""

import datetime
import multiprocessing
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import Subset

from torchops import ChannelStats, dataset_stats

WORLD = 4
IMAGES = 7


def image(index, kind):
    generator = torch.Generator().manual_seed(index)
    values = torch.randint(0, 256, (3, 4 + index, 6), generator=generator)
    if kind == "floating":
        return values / 255
    return values.to(torch.uint16 if kind == "uint16" else torch.uint8)


def share(kind, rank, size):
    """The first rank holds nothing, the others unequal shares of the images."""
    images = [image(k, kind) for k in range(IMAGES)]
    indices = [] if rank == 0 else range(rank - 1, IMAGES, size - 1)
    stats = dataset_stats(Subset(images, indices), progress=False)
    stats.skipped.append(f"bad {rank}")
    return stats


def work(rank, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )
    pair = dist.new_group([0, 1])
    results = {}
    images = [image(k, "uint8") for k in range(IMAGES)]
    own = dataset_stats(images, shard=(rank, WORLD), covariance=True, progress=False)
    results["shard"] = own.all_reduce().state_dict()
    for kind in ("uint8", "uint16", "floating"):
        results[kind, WORLD] = share(kind, rank, WORLD).all_reduce().state_dict()
        if rank < 2:
            results[kind, 2] = share(kind, rank, 2).all_reduce(pair).state_dict()
    odd = {
        "mixed": ChannelStats().update(torch.rand(3, 4, 4)),
        "channels": ChannelStats().update(image(0, "uint8")[:1]),
    }
    for name, stats in odd.items():
        try:
            (stats if rank == 2 else share("uint8", rank, WORLD)).all_reduce()
        except (TypeError, ValueError) as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of the processes holds in the end."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("size", [2, WORLD])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "floating"])
def test_all_ranks_hold_what_one_process_would(results, kind, size):
    whole = ChannelStats()
    for k in range(IMAGES):
        whole.update(image(k, kind))
    ranks = []
    for rank in range(size):
        stats = ChannelStats()
        stats.load_state_dict(results[rank][kind, size])
        ranks.append(stats)
    for stats in ranks:
        assert (stats.images, stats.pixels) == (whole.images, whole.pixels)
        assert stats.skipped == [f"bad {rank}" for rank in range(size)]
        for name in ("mean", "std", "min", "max", "mean_image_std", "mean_standard_error"):
            value = getattr(stats, name)
            assert torch.equal(value, getattr(ranks[0], name))
            if kind == "floating":
                assert torch.allclose(value, getattr(whole, name), rtol=1e-14, atol=0)
            else:
                assert torch.equal(value, getattr(whole, name)), name


def test_shards_and_covariances_add_up_to_one_process(results):
    images = [image(k, "uint8") for k in range(IMAGES)]
    whole = dataset_stats(images, covariance=True, progress=False)
    for result in results:
        stats = ChannelStats(covariance=True)
        stats.load_state_dict(result["shard"])
        assert stats.images == IMAGES  # 7 over 4: two, two, two and one
        for name in ("mean", "std", "covariance", "mean_image_std", "mean_standard_error"):
            assert torch.equal(getattr(stats, name), getattr(whole, name)), name
        assert torch.equal(stats.quantile([0.1, 0.5]), whole.quantile([0.1, 0.5]))


def lose_one(rank, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )
    stats = share("uint8", rank, WORLD)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        stats.all_reduce()
    except RuntimeError:
        os._exit(3)
    os._exit(0)


def test_when_a_rank_dies_the_others_raise(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=lose_one, args=(rank, tmp_path)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [3, 3, -signal.SIGKILL, 3]


@pytest.mark.parametrize(("case", "error"), [("mixed", "TypeError"), ("channels", "ValueError")])
def test_mismatched_ranks_all_raise_and_none_hangs(results, case, error):
    messages = {result[case] for result in results}
    assert len(messages) == 1
    assert messages.pop().startswith(f"{error}: other must ")


def test_without_a_process_group_it_says_so():
    with pytest.raises(RuntimeError, match="all_reduce must run in an initialised process group"):
        ChannelStats().all_reduce()
