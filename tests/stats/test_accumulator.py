"""ChannelStats as an object: definitions, masks, merging, states, empties."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchops import ChannelStats

KINDS = ["uint8", "uint16", "floating"]
PROPERTIES = ("mean", "std", "min", "max", "mean_image_std", "mean_standard_error")


def make(kind, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, shape, generator=generator)
    return {
        "uint8": values.to(torch.uint8),
        "uint16": (values * 257).to(torch.uint16),
        "floating": values / 255,
    }[kind]


def same(a, b):
    assert (a.images, a.pixels, a.skipped) == (b.images, b.pixels, b.skipped)
    for name in PROPERTIES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.state_dict().keys() == b.state_dict().keys()


def unequal():
    """A small bright image, a large dark one and a contrasting one."""
    small = torch.full((1, 2, 2), 200, dtype=torch.uint8)
    large = torch.arange(100, dtype=torch.uint8).reshape(1, 10, 10)
    return [small, large, torch.tensor([[[0, 255]]], dtype=torch.uint8)]


def test_std_of_the_image_means_taken_for_the_pooled_std():
    # Three channels of the numbers in the question: between images 12.7, in truth 28.
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randint(100, 141, (50, 1, 1, 1), generator=generator)
    noise = torch.randint(-43, 44, (50, 1, 40, 40), generator=generator)
    images = (brightness + noise).to(torch.uint8)
    stats = ChannelStats(scale=False).update(images)
    pooled = images.double().std(correction=0)
    of_means = images.double().mean((1, 2, 3)).std(correction=0)
    assert stats.std.item() == pytest.approx(pooled.item(), rel=1e-14)
    assert of_means < 0.5 * stats.std.item()
    # The law of total variance ties the two together for images of one size.
    within = images.double().var((1, 2, 3), correction=0).mean()
    assert stats.var(0).item() == pytest.approx((within + of_means**2).item(), rel=1e-13)


def test_mean_of_the_image_stds_taken_for_the_pooled_std():
    images = unequal()
    stats = ChannelStats(scale=False)
    for image in images:
        stats.update(image)
    mean_of_stds = sum(image.double().std(correction=0) for image in images) / 3
    pixels = torch.cat([image.flatten() for image in images]).double()
    assert stats.mean_image_std.item() == pytest.approx(mean_of_stds.item(), rel=1e-15)
    assert stats.std.item() == pytest.approx(pixels.std(correction=0).item(), rel=1e-15)
    assert abs(stats.std.item() - stats.mean_image_std.item()) > 3


def test_mean_of_the_image_means_taken_for_the_pooled_mean():
    images = unequal()
    stats = ChannelStats(scale=False)
    for image in images:
        stats.update(image)
    pixels = torch.cat([image.flatten() for image in images]).double()
    mean_of_means = sum(image.double().mean() for image in images) / 3
    assert stats.mean.item() == pytest.approx(pixels.mean().item(), rel=1e-15)
    assert abs(stats.mean.item() - mean_of_means.item()) > 50


def test_two_tuples_for_normalize():
    from torchvision.transforms.v2 import Normalize

    images = make("uint8", 6, 3, 20, 20)
    stats = ChannelStats().update(images)
    normalised = Normalize(*stats.mean_std())(images.double() / 255)
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-12
    assert (normalised.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 3, 9, 8), (2, 3, 70, 60)])
def test_a_mask_leaves_out_what_is_false(kind, shape, device):
    images = make(kind, *shape)
    mask = torch.rand(shape[0], 1, *shape[2:]) < 0.4
    stats = ChannelStats().update(images.to(device), mask.to(device))
    by_hand = ChannelStats()
    for image, keep in zip(images, mask, strict=True):
        values = image.int() if kind == "uint16" else image
        kept = values[:, keep[0]].to(images.dtype)
        by_hand.update(kept[:, None])
    assert (stats.images, stats.pixels) == (shape[0], int(mask.sum()))
    for name in PROPERTIES:
        assert torch.allclose(getattr(stats, name), getattr(by_hand, name), rtol=1e-13, atol=0)
        if kind != "floating":
            assert torch.equal(getattr(stats, name), getattr(by_hand, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_broadcasts_over_the_batch(kind):
    images = make(kind, 2, 3, 3, 7, 6)
    mask = torch.rand(1, 7, 6) < 0.5
    one = ChannelStats().update(images, mask)
    same(one, ChannelStats().update(images, mask.expand(2, 3, 1, 7, 6)))
    per_row = torch.rand(2, 1, 1, 7, 6) < 0.5
    same(
        ChannelStats().update(images, per_row),
        ChannelStats().update(images, per_row.expand(2, 3, 1, 7, 6)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_a_counted_pixel_is_neutral(kind):
    images = make(kind, 3, 2, 5, 5)
    mask = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    mask[1] = False
    stats = ChannelStats().update(images, mask)
    same(stats, ChannelStats().update(images[[0, 2]] if kind != "uint16" else images[::2]))
    nothing = ChannelStats().update(images, torch.zeros_like(mask))
    assert (nothing.images, nothing.pixels) == (0, 0)
    assert nothing.state_dict()["kind"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_is_neutral(kind):
    images = make(kind, 3, 2, 5, 5)
    stats = ChannelStats().update(images[:0]).update(images).update(images[:0])
    same(stats, ChannelStats().update(images))
    stats.update(make(kind, 0, 4, 2, 8, 8))
    same(stats, ChannelStats().update(images))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_with_an_empty_one_is_neutral(kind):
    full = ChannelStats().update(make(kind, 3, 2, 5, 5))
    same(full + ChannelStats(), full)
    same(ChannelStats() + full, full)
    same(sum([full], ChannelStats()), full)
    assert (ChannelStats() + ChannelStats()).images == 0


@pytest.mark.parametrize("kind", KINDS)
def test_adding_and_merging_leave_the_other_side_alone(kind):
    a = ChannelStats().update(make(kind, 3, 2, 5, 5))
    b = ChannelStats().update(make(kind, 2, 2, 5, 4, seed=1))
    before_a, before_b = copy.deepcopy(a), copy.deepcopy(b)
    total = a + b
    empty = ChannelStats().merge(b)
    empty.update(make(kind, 1, 2, 3, 3))
    total.update(make(kind, 1, 2, 3, 3))
    same(a, before_a)
    same(b, before_b)
    a.merge(b)
    same(b, before_b)
    same(a, before_a + before_b)


def test_merging_with_itself_counts_twice():
    for kind in KINDS:
        images = make(kind, 3, 2, 5, 5)
        stats = ChannelStats().update(images)
        stats.merge(stats)
        twice = ChannelStats().update(images).update(images)
        assert (stats.images, stats.pixels) == (6, 150)
        assert torch.allclose(stats.std, twice.std, rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("route", ["pickle", "state_dict", "file", "deepcopy"])
def test_round_trips(kind, route):
    stats = ChannelStats(scale=False).update(make(kind, 3, 2, 5, 5))
    stats.skipped.append("bad.jpg")
    if route == "pickle":
        back = pickle.loads(pickle.dumps(stats))
        assert back.scale is False
    elif route == "deepcopy":
        back = copy.deepcopy(stats)
    else:
        state = stats.state_dict()
        if route == "file":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        back = ChannelStats(scale=False)
        back.load_state_dict(state)
    same(back, stats)
    more = make(kind, 2, 2, 3, 3, seed=3)
    same(back.update(more), stats.update(more))


def test_a_state_is_a_copy_and_empty_ones_work():
    stats = ChannelStats().update(make("uint8", 3, 2, 5, 5))
    state = stats.state_dict()
    stats.update(make("uint8", 3, 2, 5, 5, seed=1))
    back = ChannelStats()
    back.load_state_dict(state)
    same(back, ChannelStats().update(make("uint8", 3, 2, 5, 5)))
    back.load_state_dict(ChannelStats().state_dict())
    assert (back.images, back.pixels) == (0, 0)


def test_reset_forgets():
    stats = ChannelStats().update(make("uint8", 3, 2, 5, 5))
    stats.skipped.append("bad.jpg")
    assert stats.reset() is stats
    assert (stats.images, stats.pixels, stats.skipped) == (0, 0, [])
    stats.update(make("floating", 1, 5, 3, 3))
    assert stats.mean.shape == (5,)


def test_a_single_pixel():
    stats = ChannelStats(scale=False).update(torch.tensor([[[7]], [[9]]], dtype=torch.uint8))
    assert stats.mean.tolist() == [7, 9]
    assert stats.std.tolist() == [0, 0]
    assert stats.var(1).isnan().all()
    assert stats.mean_standard_error.isnan().all()
    assert stats.quantile(0.7).tolist() == [7, 9]
    floating = ChannelStats().update(torch.tensor([[[7.0]]]))
    assert floating.var(0).item() == 0
    assert floating.var(1).isnan().all()


def test_inputs_are_never_modified():
    for kind in KINDS:
        images = make(kind, 3, 2, 5, 5)
        mask = torch.rand(3, 1, 5, 5) < 0.5
        kept, kept_mask = images.clone(), mask.clone()
        ChannelStats().update(images, mask)
        assert torch.equal(images.view(torch.uint8), kept.view(torch.uint8))
        assert torch.equal(mask, kept_mask)


def test_the_representation_says_what_was_counted():
    assert repr(ChannelStats()) == "ChannelStats(images=0, pixels=0)"
    stats = ChannelStats(scale=False).update(torch.tensor([[[0, 2]]], dtype=torch.uint8))
    assert repr(stats) == "ChannelStats(images=1, pixels=2, mean=(1), std=(1))"


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
)
def test_any_split_equals_one_shot(sizes, kind, seed):
    images = make(kind, sum(sizes), 2, 4, 5, seed=seed)
    whole = ChannelStats().update(images)
    parts = [ChannelStats().update(part) for part in images.split(sizes)]
    total = sum(parts, ChannelStats())
    for name in PROPERTIES:
        a, b = getattr(whole, name), getattr(total, name)
        exact = kind != "floating"
        assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) or (
            not exact and torch.allclose(a, b, rtol=1e-12, atol=1e-15)
        ), name


@given(
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 7),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_any_mask_equals_the_pixels_it_keeps(kind, count, height, width, share, seed):
    images = make(kind, count, 2, height, width, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 1, height, width, generator=generator) < share
    stats = ChannelStats(covariance=True).update(images, mask)
    by_hand = ChannelStats(covariance=True)
    wide = images.int() if kind == "uint16" else images
    for image, keep in zip(wide, mask, strict=True):
        if keep.any():
            by_hand.update(image[:, keep[0]][:, None].to(images.dtype))
    assert (stats.images, stats.pixels) == (by_hand.images, by_hand.pixels)
    if stats.pixels > 0:
        for name in (*PROPERTIES, "covariance"):
            a, b = getattr(stats, name), getattr(by_hand, name)
            if kind == "floating":
                assert torch.allclose(a, b, rtol=1e-12, atol=1e-15, equal_nan=True), name
            else:
                assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), name


def test_against_the_cifar_sample(shared_data):
    """100 real images against NumPy in float64, and against the published numbers of all 50 000."""
    import numpy as np

    array = np.load(shared_data / "natural" / "cifar10_100.npz")["images"]
    images = torch.from_numpy(array).permute(0, 3, 1, 2)
    stats = ChannelStats().update(images)
    # Channels first and contiguous, where NumPy sums pairwise; by other axes it loses 6e-14.
    scaled = np.ascontiguousarray(array.transpose(3, 0, 1, 2)).reshape(3, 100, -1) / 255.0
    pixels = scaled.reshape(3, -1)
    assert np.abs(stats.mean.numpy() - pixels.mean(1)).max() < 1e-15
    assert np.abs(stats.std.numpy() - pixels.std(1)).max() < 1e-15
    image_stds = scaled.std(2).mean(1)
    assert np.abs(stats.mean_image_std.numpy() - image_stds).max() < 1e-15
    # A sample of 100: within three standard errors of the mean of the training set.
    published = torch.tensor([0.49139968, 0.48215841, 0.44653091], dtype=torch.float64)
    assert ((stats.mean - published).abs() < 3 * stats.mean_standard_error).all()
