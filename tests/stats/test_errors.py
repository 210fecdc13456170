"""Bad input to the statistics: each error names the argument, what it must be and what came."""

import re

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from torchops import ChannelStats, dataset_stats

pytestmark = pytest.mark.unhooked

U8 = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)


def seen(images=U8):
    return ChannelStats().update(images)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([U8[0]])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ChannelStats(scale=1), TypeError, "scale must be True or False, got 1"),
        (lambda: seen([1]), TypeError, "images must be a torch.Tensor, got a list"),
        (lambda: seen(U8.long()), TypeError, "images must be of dtype uint8, uint16, float16"),
        (lambda: seen(U8.bool()), TypeError, "got a bool tensor of shape (2, 3, 4, 5)"),
        (lambda: seen(U8[0, 0]), ValueError, "images must be of shape (*batch, C, H, W), got"),
        (lambda: seen(U8[..., :0]), ValueError, "images must have at least one channel and pixel"),
        (lambda: seen(U8[:, :0]), ValueError, "images must have at least one channel and pixel"),
        (
            lambda: seen(U8[0, :, :1, :1].expand(3, 2**16, 2**15)),
            ValueError,
            "images must have less than 2**31 pixels each, got",
        ),
        (
            lambda: seen().update(U8[:, :1]),
            ValueError,
            "images must have 3 channel(s) like the images before, got a uint8 tensor of shape "
            "(2, 1, 4, 5)",
        ),
        (
            lambda: seen().update(U8.float()),
            TypeError,
            "images must be uint8 like the images before, got a float32 tensor",
        ),
        (lambda: seen().update(U8.to(torch.uint16)), TypeError, "images must be uint8 like"),
        (lambda: seen(U8.float()).update(U8), TypeError, "images must be floating like"),
        (lambda: seen().update(U8, 1), TypeError, "mask must be a torch.Tensor, got 1"),
        (lambda: seen().update(U8, U8[:, :1]), TypeError, "mask must be of dtype bool, got"),
        (
            lambda: seen().update(U8, torch.ones(2, 3, 4, 5, dtype=torch.bool)),
            ValueError,
            "mask must be of shape (*batch, 1, H, W) with the H and W of images, (4, 5), got",
        ),
        (
            lambda: seen().update(U8, torch.ones(4, 5, dtype=torch.bool)),
            ValueError,
            "mask must be of shape (*batch, 1, H, W)",
        ),
        (
            lambda: seen().update(U8, torch.ones(3, 1, 4, 5, dtype=torch.bool)),
            ValueError,
            "mask must have batch dimensions that broadcast to those of images, (2,), got",
        ),
        (
            lambda: seen().update(U8[0], torch.ones(2, 1, 4, 5, dtype=torch.bool)),
            ValueError,
            "mask must have batch dimensions that broadcast to those of images, (), got",
        ),
        (
            lambda: seen().update(U8, torch.ones(2, 1, 4, 5, dtype=torch.bool, device="meta")),
            ValueError,
            "images and mask must be on one device, got images on cpu, mask on meta",
        ),
        (lambda: ChannelStats().mean, ValueError, "images must hold at least one counted pixel"),
        (lambda: ChannelStats().std, ValueError, "got none so far"),
        (lambda: ChannelStats().quantile(0.5), ValueError, "got none so far"),
        (lambda: seen().var(2), ValueError, "correction must be one of 0, 1, got 2"),
        (lambda: seen().quantile(1.5), ValueError, "q must be a finite number >= 0 and <= 1"),
        (lambda: seen().quantile([0, -0.1]), ValueError, "got -0.1"),
        (lambda: seen().quantile(float("nan")), ValueError, "q must be a finite number"),
        (lambda: seen().quantile("half"), TypeError, "q must be a finite number"),
        (
            lambda: seen(U8.float()).quantile(0.5),
            TypeError,
            "images must be uint8 or uint16 for quantile, got floating images",
        ),
        (lambda: seen().merge(3), TypeError, "other must be a ChannelStats, got 3"),
        (lambda: seen() + 3, TypeError, "unsupported operand"),
        (
            lambda: seen().merge(ChannelStats(scale=False)),
            ValueError,
            "other must have scale=True, covariance=False, got scale=False, covariance=False",
        ),
        (
            lambda: seen().merge(ChannelStats(covariance=True)),
            ValueError,
            "other must have scale=True, covariance=False, got scale=True, covariance=True",
        ),
        (lambda: ChannelStats(covariance=1), TypeError, "covariance must be True or False, got 1"),
        (
            lambda: seen().covariance,
            ValueError,
            "covariance must be asked for before images are counted, got covariance=False; make",
        ),
        (lambda: ChannelStats(covariance=True).covariance, ValueError, "got none so far"),
        (
            lambda: ChannelStats(covariance=True).load_state_dict(seen().state_dict()),
            ValueError,
            "state must be of a ChannelStats with covariance=True, got one with covariance=False",
        ),
        (
            lambda: seen() + seen(U8.float()),
            TypeError,
            "other must be uint8 like the images before, got floating images with 3 channel(s)",
        ),
        (lambda: seen() + seen(U8[:, :2]), ValueError, "other must have 3 channel(s) like"),
        (
            lambda: ChannelStats().load_state_dict({"kind": "uint8", "skipped": []}),
            ValueError,
            "state must be the state_dict of a ChannelStats, got a dict",
        ),
        (lambda: ChannelStats().load_state_dict(None), ValueError, "state must be"),
        (
            lambda: ChannelStats().load_state_dict(
                {"kind": "uint8", "skipped": [], "covariance": False, "x": 1}
            ),
            ValueError,
            "state must be",
        ),
        (lambda: dataset_stats(7), TypeError, "data must be a DataLoader, a Dataset with a length"),
        (lambda: dataset_stats(Stream()), TypeError, "or the path of a folder, got a Stream"),
        (lambda: dataset_stats([U8[0]], batch_size=0), ValueError, "batch_size must be an integer"),
        (lambda: dataset_stats([U8[0]], batch_size=1.5), TypeError, "batch_size must be an"),
        (lambda: dataset_stats([U8[0]], num_workers=-1), ValueError, "num_workers must be an"),
        (lambda: dataset_stats([U8[0]], limit=0), ValueError, "limit must be an integer >= 1"),
        (lambda: dataset_stats([U8[0]], shard=3), TypeError, "shard must be a pair (rank, world"),
        (lambda: dataset_stats([U8[0]], shard=(0, 0)), ValueError, "shard[1] must be an integer"),
        (lambda: dataset_stats([U8[0]], shard=(2, 2)), ValueError, "shard[0] must be below the"),
        (lambda: dataset_stats([U8[0]], covariance=0), TypeError, "covariance must be True or"),
        (lambda: dataset_stats([U8[0]], seed="a"), TypeError, "seed must be an integer"),
        (lambda: dataset_stats([U8[0]], progress=None), TypeError, "progress must be True or"),
        (
            lambda: dataset_stats([U8[0]], on_error="ignore"),
            ValueError,
            "on_error must be one of 'raise', 'skip', got 'ignore'",
        ),
        (
            lambda: dataset_stats([U8[0]], images=1.5),
            TypeError,
            "images must be a key, an index or a function, got 1.5",
        ),
        *[
            (
                lambda option=option: dataset_stats(DataLoader([U8[0]]), **option),
                ValueError,
                f"{next(iter(option))} must be left out when data is a DataLoader, got",
            )
            for option in (
                {"batch_size": 3},
                {"num_workers": 0},
                {"limit": 5},
                {"shard": (0, 2)},
                {"checkpoint": "x.pt"},
                {"on_error": "skip"},
            )
        ],
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_a_refused_update_or_merge_leaves_the_count_as_it_was():
    stats = seen()
    before = stats.state_dict()
    for bad in (U8[:, :1], U8.float()):
        with pytest.raises((TypeError, ValueError)):
            stats.update(bad)
        with pytest.raises((TypeError, ValueError)):
            stats.merge(seen(bad))
    after = stats.state_dict()
    assert torch.equal(before.pop("histogram"), after.pop("histogram"))
    assert before == after


def test_the_warning_of_skipped_images_points_at_the_caller():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise OSError

    with pytest.warns(UserWarning, match="2 of 2 images") as caught:
        dataset_stats(Broken(), on_error="skip", progress=False)
    assert caught[0].filename == __file__
