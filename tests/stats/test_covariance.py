"""Covariance between channels: exact for integers, float64 moments for floats, on request only."""

import math
import pickle
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchops import ChannelStats

TYPES = [torch.uint8, torch.uint16]
LIMIT = {torch.uint8: 255, torch.uint16: 65535}


def correlated(count, height, width, channels=3, seed=0, high=255):
    """Floating images in [0, high] whose channels share a brightness."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(count, 1, height, width, generator=generator, dtype=torch.float64)
    own = torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64)
    return (0.7 * shared + 0.3 * own) * high


def integers(dtype, count=5, height=6, width=9, **options):
    return correlated(count, height, width, high=LIMIT[dtype], **options).round().to(dtype)


def of(*batches, **options):
    stats = ChannelStats(covariance=True, **options)
    for batch in batches:
        stats.update(batch)
    return stats


def exact(batches, unit):
    """The definition in fractions, as rows of the numbers rounded once."""
    columns = [
        [v for batch in batches for v in batch[..., c, :, :].flatten().tolist()]
        for c in range(batches[0].shape[-3])
    ]
    n = len(columns[0])
    means = [Fraction(sum(column), n) for column in columns]
    return [
        [
            float((Fraction(sum(x * y for x, y in zip(a, b, strict=True)), n) - p * q) / unit**2)
            for b, q in zip(columns, means, strict=True)
        ]
        for a, p in zip(columns, means, strict=True)
    ]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [True, False])
def test_integers_equal_the_fraction_rounded_once(dtype, scale, device):
    batches = [integers(dtype), integers(dtype, 1, 70, 61, seed=1), integers(dtype, 2, 1, 1)]
    stats = of(*(batch.to(device) for batch in batches), scale=scale)
    assert stats.covariance.tolist() == exact(batches, LIMIT[dtype] if scale else 1)
    assert torch.equal(stats.covariance.diagonal(), stats.var(0))
    # Asking for it changes nothing else.
    plain = ChannelStats(scale=scale)
    for batch in batches:
        plain.update(batch)
    assert torch.equal(stats.std, plain.std)
    assert torch.equal(stats.mean_image_std, plain.mean_image_std)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**31))
def test_any_split_of_integers_gives_the_same_bits(sizes, seed):
    images = integers(torch.uint8, sum(sizes), 3, 4, seed=seed)
    whole = of(images).covariance
    parts = [of(part) for part in images.split(sizes)]
    assert torch.equal(sum(parts, of()).covariance, whole)
    assert torch.equal(sum(reversed(parts), of()).covariance, whole)


def test_products_of_16_bits_beyond_the_digits_of_a_float64():
    # A sum of 2**20 products is below 2**52, exact in float64; that of four such images is not.
    n = 1025 * 1025
    image = torch.full((1, 2, 1025, 1025), 65535, dtype=torch.int32)
    image[..., 0, 0] = torch.tensor([65534, 65533])
    stats = of(image.to(torch.uint16).expand(4, 2, 1025, 1025), scale=False)
    expected = [[Fraction(a * b * (n - 1), n * n) for a in (1, 2)] for b in (1, 2)]
    assert stats.covariance.tolist() == [[float(v) for v in row] for row in expected]
    assert torch.equal(stats.covariance.diagonal(), stats.var(0))
    assert (stats.mean_image_std / stats.std - 1).abs().max() < 1e-15  # four equal images


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_equal_the_estimate_of_torch(dtype, device):
    images = correlated(6, 12, 17, high=1).to(dtype)
    stats = of(images[:4].to(device), images[4:].to(device))
    pixels = images.double().transpose(0, 1).flatten(1)
    assert (stats.covariance - torch.cov(pixels, correction=0)).abs().max() < 1e-15
    assert torch.equal(stats.covariance, stats.covariance.T)
    assert torch.equal(stats.covariance.diagonal(), stats.var(0))


def test_floats_far_from_zero_do_not_cancel():
    images = torch.randn(40, 3, 16, 16, dtype=torch.float64)
    images[:, 2] += images[:, 0]
    moved = images + 1e6
    # Unequal batches, and images that differ in brightness: between and within both count.
    stats = of(*moved.split([1, 9, 30]))
    deviations = (moved - moved.mean((0, 2, 3), keepdim=True)).transpose(0, 1).flatten(1)
    expected = deviations @ deviations.T / deviations.shape[1]
    assert (stats.covariance - expected).abs().max() < 1e-9
    naive = moved.transpose(0, 1).flatten(1)
    naive = naive @ naive.T / naive.shape[1] - torch.outer(naive.mean(1), naive.mean(1))
    assert (naive - expected).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [*TYPES, torch.float32])
def test_a_mask_leaves_out_what_is_false(dtype):
    images = (
        correlated(4, 9, 8, high=1).float() if dtype == torch.float32 else integers(dtype, 4, 9, 8)
    )
    mask = torch.rand(4, 1, 9, 8) < 0.5
    mask[2] = False
    stats = ChannelStats(covariance=True, scale=False).update(images, mask)
    pixels = images.double().transpose(0, 1).flatten(1)[:, mask.flatten()]
    expected = torch.cov(pixels, correction=0)
    assert torch.allclose(stats.covariance, expected, rtol=1e-12, atol=0)
    assert stats.images == 3


def test_a_nan_stays_in_the_row_and_column_of_its_channel():
    images = correlated(3, 5, 5, high=1)
    clean = of(images).covariance
    images[1, 1, 2, 2] = math.nan
    found = of(images).covariance
    assert found[1].isnan().all()
    assert found[:, 1].isnan().all()
    assert torch.allclose(found[::2, ::2], clean[::2, ::2], rtol=1e-13, atol=0)
    assert (of(images) + of(images)).covariance.isnan().sum() == 5


@pytest.mark.parametrize("kind", ["uint8", "floating"])
def test_states_and_pickles_keep_it(kind):
    images = integers(torch.uint8) if kind == "uint8" else correlated(5, 6, 9)
    stats = of(images)
    back = ChannelStats(covariance=True)
    back.load_state_dict(stats.state_dict())
    assert torch.equal(back.covariance, stats.covariance)
    assert torch.equal(back.update(images).covariance, stats.update(images).covariance)
    assert torch.equal(pickle.loads(pickle.dumps(stats)).covariance, stats.covariance)


def test_autocast_changes_nothing():
    for images in (correlated(3, 8, 8, high=1).float(), integers(torch.uint8)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = of(images).covariance
        assert torch.equal(cast, of(images).covariance)


def test_principal_axes_of_the_colours_whiten_them():
    images = integers(torch.uint8, 8, 20, 20).double()
    stats = of(images)
    values, axes = torch.linalg.eigh(stats.covariance)
    pixels = images.transpose(0, 1).flatten(1) - stats.mean[:, None]
    whitened = (axes.T @ pixels) / values.sqrt()[:, None]
    assert (torch.cov(whitened, correction=0) - torch.eye(3)).abs().max() < 1e-12
