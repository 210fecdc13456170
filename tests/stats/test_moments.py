"""Floating images: float64 moments that survive offsets, NIST's data, NaN and empty masks."""

import math
from fractions import Fraction

import pytest
import torch

from torchops import ChannelStats

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def exact(values):
    """Mean and population variance of tensor values, in fractions of the stored numbers."""
    numbers = [Fraction(v) for v in values.double().flatten().tolist()]
    mean = sum(numbers) / len(numbers)
    return mean, sum((v - mean) ** 2 for v in numbers) / len(numbers)


def alternating(offset):
    """NIST StRD NumAcc2 to 4: 1001 values, ``offset + 0.2``, then 0.1 less and more by turns."""
    pairs = torch.tensor([offset + 0.1, offset + 0.3], dtype=torch.float64).repeat(500)
    return torch.cat([torch.tensor([offset + 0.2], dtype=torch.float64), pairs])


NIST = {
    "NumAcc1": (torch.tensor([10000001, 10000003, 10000002]).double(), 10000002, 1),
    "NumAcc2": (alternating(1.0), 1.2, 0.1),
    "NumAcc3": (alternating(1000000.0), 1000000.2, 0.1),
    "NumAcc4": (alternating(10000000.0), 10000000.2, 0.1),
}


@pytest.mark.parametrize("name", NIST)
@pytest.mark.parametrize("split", ["one image", "one image per value", "batches of 7"])
def test_nist_numerical_accuracy(name, split, device):
    values, mean, std = NIST[name]
    values = values.to(device)
    stats = ChannelStats()
    if split == "one image":
        stats.update(values.reshape(1, 1, -1))
    elif split == "one image per value":
        stats.update(values.reshape(-1, 1, 1, 1))
    else:
        for batch in values.split(7):
            stats.update(batch.reshape(-1, 1, 1, 1))
    true_mean, true_variance = exact(values)
    n = len(values)
    assert stats.mean.item() == pytest.approx(mean, rel=1e-15)
    assert stats.mean.item() == pytest.approx(float(true_mean), rel=3e-16)
    # Against the numbers as stored: all digits. Against NIST's decimals: what their rounding to
    # float64 leaves, 8 digits at an offset of 1e7.
    sample_std = stats.var(1).sqrt().item()
    assert sample_std == pytest.approx(math.sqrt(true_variance * n / (n - 1)), rel=2e-12)
    assert sample_std == pytest.approx(std, rel=2e-8)


def test_offset_of_a_million_in_float64():
    values = torch.randn(50, 2, 16, 16, dtype=torch.float64) + 1e6
    stats = ChannelStats()
    for batch in values.split(8):
        stats.update(batch)
    for c in range(2):
        mean, variance = exact(values[:, c])
        assert stats.mean[c].item() == pytest.approx(float(mean), rel=1e-15)
        assert stats.std[c].item() == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_offset_of_a_million_in_float32():
    values = torch.randn(50, 2, 16, 16) + 1e6
    stats = ChannelStats().update(values[:20]).update(values[20:])
    for c in range(2):
        _, variance = exact(values[:, c])
        assert stats.std[c].item() == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_offset_of_a_hundred_million_does_not_cancel():
    # E[x^2] - E[x]^2 in float64 is off by its whole size here.
    values = torch.randn(400, 1, 5, 5, dtype=torch.float64) + 1e8
    naive = values.square().mean() - values.mean() ** 2
    stats = ChannelStats()
    for image in values:
        stats.update(image)
    _, variance = exact(values)
    assert stats.var(0).item() == pytest.approx(float(variance), rel=1e-7)
    assert abs(naive.item() - variance) > 0.1 * variance


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_floating_type_equals_its_values_in_float64(dtype, device):
    images = torch.rand(5, 3, 12, 17).to(dtype)
    stats = ChannelStats().update(images.to(device))
    pixels = images.double().transpose(0, 1).flatten(1)
    assert (stats.mean - pixels.mean(1)).abs().max() < 1e-15
    assert (stats.std - pixels.std(1, correction=0)).abs().max() < 1e-15
    assert torch.equal(stats.min, pixels.amin(1))
    assert torch.equal(stats.max, pixels.amax(1))
    expected = images.double().flatten(2).std(2, correction=0).mean(0)
    assert (stats.mean_image_std - expected).abs().max() < 1e-15
    assert stats.mean.dtype == torch.float64


def test_floating_types_mix_with_each_other_and_autocast_changes_nothing():
    a, b = torch.rand(2, 3, 8, 8), torch.rand(3, 3, 5, 4, dtype=torch.float64)
    plain = ChannelStats().update(a.half()).update(b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ChannelStats().update(a.half()).update(b)
    assert torch.equal(plain.std, cast.std)
    assert torch.equal(plain.mean, cast.mean)


@pytest.mark.parametrize("value", [0.1, 1e8 / 3, -7e-310, 0.0])
def test_a_constant_has_variance_exactly_zero(value):
    stats = ChannelStats()
    for size in (1, 7, 30):
        stats.update(torch.full((3, 2, size, size), value, dtype=torch.float64))
    assert stats.mean.tolist() == [value, value]
    assert stats.var(0).tolist() == [0, 0]
    assert stats.mean_image_std.tolist() == [0, 0]
    assert stats.mean_standard_error.tolist() == [0, 0]


def test_merging_is_associative_and_order_free_to_rounding():
    parts = [ChannelStats().update(torch.randn(k + 1, 3, 6 + k, 9) * k + 50) for k in range(5)]
    a, b, c, d, e = parts
    left = (((a + b) + c) + d) + e
    right = e + (d + (c + (b + a)))
    for name in ("mean", "std", "mean_image_std", "mean_standard_error"):
        x, y = getattr(left, name), getattr(right, name)
        assert ((x - y).abs() <= 4 * torch.finfo(torch.float64).eps * x.abs() + 1e-15).all(), name


def test_one_batch_of_any_size_equals_image_by_image():
    # Large enough to be cut into several blocks inside.
    images = torch.rand(40, 3, 64, 64) * torch.arange(40)[:, None, None, None]
    whole, single = ChannelStats().update(images), ChannelStats()
    for image in images:
        single.update(image)
    for name in ("mean", "std", "mean_image_std", "mean_standard_error"):
        assert torch.allclose(getattr(whole, name), getattr(single, name), rtol=1e-14, atol=0), name
    assert (whole.images, whole.pixels) == (40, 40 * 64 * 64)


def test_nan_and_infinity_stay_in_their_channel():
    images = torch.rand(2, 4, 5, 5)
    clean = ChannelStats().update(images)
    images[0, 1, 2, 2] = math.nan
    images[1, 2, 0, 0] = math.inf
    images[1, 3, 0, 0] = -math.inf
    stats = ChannelStats().update(images)
    for name in ("mean", "std", "mean_image_std", "mean_standard_error"):
        value = getattr(stats, name)
        assert value[0] == getattr(clean, name)[0], name
        assert value[1:].isnan().all(), name
    assert stats.min.isnan().tolist() == [False, True, False, False]
    assert stats.max[2] == math.inf
    assert stats.min[3] == -math.inf
    assert (stats + clean).mean.isnan().tolist() == [False, True, True, True]
    assert (clean + stats).std.isnan().tolist() == [False, True, True, True]


def test_masked_nan_reaches_nobody():
    images = torch.rand(3, 2, 6, 6)
    mask = torch.rand(3, 1, 6, 6) < 0.7
    clean = ChannelStats().update(images, mask)
    spoilt = torch.where(mask, images, math.nan)
    stats = ChannelStats().update(spoilt, mask)
    assert torch.equal(stats.mean, clean.mean)
    assert torch.equal(stats.std, clean.std)
    assert torch.equal(stats.min, clean.min)
    assert torch.equal(stats.max, clean.max)


def test_values_need_no_gradient():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert not ChannelStats().update(images).mean.requires_grad


def test_a_known_table():
    # Five rows of two variables: means 3 and 120, variances 2 and 200, or 2.5 and 250 with n - 1.
    rows = torch.tensor([[1, 100.0], [2, 110], [3, 120], [4, 130], [5, 140]])
    stats = ChannelStats().update(rows.reshape(5, 2, 1, 1))
    assert stats.mean.tolist() == [3, 120]
    assert stats.var(0).tolist() == [2, 200]
    assert stats.var(1).tolist() == [2.5, 250]
