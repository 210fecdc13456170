"""Integer images: every property is the correctly rounded true value, whatever the route to it."""

import math
import random
from fractions import Fraction

import pytest
import torch
from helpers import layouts
from hypothesis import given
from hypothesis import strategies as st

from torchops import ChannelStats
from torchops.stats.exact import _power_sums, rounded_sqrt

TYPES = [torch.uint8, torch.uint16]
LIMIT = {torch.uint8: 255, torch.uint16: 65535}


def integers(*shape, dtype=torch.uint8, seed=0, low=0, high=None):
    high = LIMIT[dtype] if high is None else high
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def varied(dtype, channels=3):
    """Images of unequal sizes and brightness, on both sides of the size where counting changes."""
    sizes = [(1, 1), (3, 5), (70, 61), (64, 64), (7, 90), (1, 33)]
    return [
        integers(channels, *size, dtype=dtype, seed=k, high=LIMIT[dtype] // (1 + k % 4))
        for k, size in enumerate(sizes)
    ]


def is_rounded_sqrt(result, square):
    """Prove with fractions that no float64 is nearer to the root of ``square``."""
    if square == 0:
        return result == 0
    below = (Fraction(result) + Fraction(math.nextafter(result, 0))) / 2
    above = (Fraction(result) + Fraction(math.nextafter(result, math.inf))) / 2
    return below**2 <= square <= above**2


def reference(images, unit):
    """The definitions, in fractions: pixels, mean, variance, sorted pixels of each channel."""
    rows = []
    for c in range(images[0].shape[0]):
        pixels = [v for image in images for v in image[c].flatten().tolist()]
        n, s, q = len(pixels), sum(pixels), sum(v * v for v in pixels)
        variance = (Fraction(q, n) - Fraction(s, n) ** 2) / unit**2
        rows.append((n, Fraction(s, n * unit), variance, sorted(pixels)))
    return rows


def bits(stats):
    """Every property, as exact floats."""
    values = [
        stats.mean,
        stats.std,
        stats.var(0),
        stats.var(1),
        stats.min,
        stats.max,
        stats.quantile([0, 0.1, 0.5, 0.99, 1]).flatten(),
        stats.mean_image_std,
        stats.mean_standard_error,
    ]
    return stats.images, stats.pixels, torch.cat(values).tolist()


def of(*batches, scale=True):
    stats = ChannelStats(scale=scale)
    for batch in batches:
        stats.update(batch)
    return stats


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [True, False])
def test_every_property_equals_the_fraction_rounded_once(dtype, scale, device):
    images = varied(dtype)
    stats = of(*(image.to(device) for image in images), scale=scale)
    unit = LIMIT[dtype] if scale else 1
    assert stats.images == len(images)
    for c, (n, mean, variance, pixels) in enumerate(reference(images, unit)):
        assert stats.pixels == n
        assert stats.mean[c].item() == float(mean)
        assert stats.var(0)[c].item() == float(variance)
        assert stats.var(1)[c].item() == float(variance * n / (n - 1))
        assert is_rounded_sqrt(stats.std[c].item(), variance)
        assert stats.min[c].item() == float(Fraction(pixels[0], unit))
        assert stats.max[c].item() == float(Fraction(pixels[-1], unit))
        for q in (0, 0.25, 0.3, 0.5, 0.999, 1):
            rank = Fraction(str(q)) * (n - 1)
            low = math.floor(rank)
            high = min(low + 1, n - 1)
            value = pixels[low] + (rank - low) * (pixels[high] - pixels[low])
            assert stats.quantile(q)[c].item() == float(value / unit)


@pytest.mark.parametrize("dtype", TYPES)
def test_mean_image_std_is_its_definition_to_the_last_bit(dtype):
    images = varied(dtype)
    stats = of(*images)
    for c in range(3):
        # 200 binary places of each root: far more than the 128 kept by the code under test.
        total = Fraction(0)
        for image in images:
            ((_, _, variance, _),) = reference([image[c : c + 1]], LIMIT[dtype])
            scaled = variance * 4**200
            total += Fraction(math.isqrt(scaled.numerator // scaled.denominator), 2**200)
        assert stats.mean_image_std[c].item() == float(total / len(images))


@pytest.mark.parametrize("dtype", TYPES)
def test_order_batch_split_and_merge_tree_do_not_change_a_bit(dtype):
    images = list(integers(12, 3, 9, 11, dtype=dtype))
    expected = bits(of(torch.stack(images)))
    shuffle = random.Random(0)
    for _ in range(10):
        shuffle.shuffle(images)
        cuts = sorted(shuffle.sample(range(1, 12), 3))
        parts = [of(torch.stack(images[i:j])) for i, j in zip([0, *cuts], [*cuts, 12], strict=True)]
        shuffle.shuffle(parts)
        a, b, c, d = parts
        assert bits(a + (b + (c + d))) == expected
        assert bits(((a + b) + c) + d) == expected
        assert bits((a + b) + (c + d)) == expected


def test_large_and_small_images_are_counted_alike():
    # 64 x 64 pixels is where one count per plane takes over from one count for many planes.
    small, large = integers(5, 3, 63, 65, seed=1), integers(5, 3, 64, 64, seed=2)
    for images in (small, large):
        counted = of(images)
        by_hand = [
            [image[c].double().std(correction=0).item() for image in images] for c in (0, 1, 2)
        ]
        expected = torch.tensor(by_hand, dtype=torch.float64).mean(1) / 255
        assert (counted.mean_image_std - expected).abs().max() < 1e-15


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 255), st.integers(0, 255)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**32),
)
def test_any_collection_equals_the_fractions(kinds, seed):
    images = [
        integers(1, h, w, seed=seed + k, low=min(a, b), high=max(a, b))
        for k, (h, w, a, b) in enumerate(kinds)
    ]
    stats = of(*images)
    ((n, mean, variance, pixels),) = reference(images, 255)
    assert (stats.images, stats.pixels) == (len(images), n)
    assert stats.mean.item() == float(mean)
    assert is_rounded_sqrt(stats.std.item(), variance)
    assert stats.max.item() == pixels[-1] / 255


@given(st.integers(1, 2**300), st.integers(1, 2**200))
def test_rounded_sqrt_rounds_once(p, q):
    square = Fraction(p, q)
    assert is_rounded_sqrt(rounded_sqrt(square), square)


def test_rounded_sqrt_beside_the_midpoint_of_two_floats():
    # 2**53 + 1 lies midway between two floats. A root that was rounded once before, to any fixed
    # number of bits, cannot tell the three apart.
    middle, tiny = Fraction(2**53 + 1), Fraction(1, 2**400)
    assert rounded_sqrt(middle**2) == 2**53  # a tie goes to the even one
    assert rounded_sqrt(middle**2 - tiny) == 2**53
    assert rounded_sqrt(middle**2 + tiny) == 2**53 + 2
    assert rounded_sqrt(Fraction(0)) == 0
    assert rounded_sqrt(Fraction(9, 4)) == 1.5


def test_an_image_whose_sum_of_squares_overflows_int32():
    stats = of(torch.full((1, 200, 170), 255, dtype=torch.uint8), scale=False)
    assert (stats.mean.item(), stats.std.item(), stats.mean_image_std.item()) == (255, 0, 0)


def test_summing_apart_from_counting_is_exact_for_any_size(device):
    # On a GPU large planes are summed in int32, which holds 33 025 squares of 255.
    bright = torch.full((2, 3, 200, 340), 255, dtype=torch.uint8, device=device)
    sums, squares = _power_sums(bright)
    assert sums.tolist() == [[255 * 68000] * 3] * 2
    assert squares.tolist() == [[255**2 * 68000] * 3] * 2
    varied = integers(3, 2, 200, 171).to(device)
    sums, squares = _power_sums(varied)
    assert torch.equal(sums, varied.cpu().long().sum((2, 3)))
    assert torch.equal(squares, varied.cpu().long().square().sum((2, 3)))


def test_a_collection_whose_variance_numerator_overflows_int64():
    # 1.3e7 pixels of 255 and as many of 0: n * sum of squares is 2.2e19.
    image = torch.zeros(1, 5200, 5000, dtype=torch.uint8)
    image[:, 2600:] = 255
    stats = of(image, scale=False)
    assert (stats.mean.item(), stats.std.item()) == (127.5, 127.5)


def test_the_sum_of_squares_of_uint16_beyond_int64():
    # No memory for 2**32 pixels is needed to count them: merging doubles.
    stats = of(torch.full((1, 64, 64), 65535, dtype=torch.int32).to(torch.uint16), scale=False)
    for _ in range(24):
        stats = stats + stats
    assert stats.pixels == 2**36
    assert (stats.mean.item(), stats.std.item()) == (65535, 0)
    assert stats.update(torch.zeros(1, 1, 1).to(torch.uint16)).std.item() > 0


def test_ten_million_pixels_of_low_contrast_lose_no_digit():
    image = torch.full((1, 2500, 4000), 250, dtype=torch.uint8)
    image[:, ::3] = 251
    n, k = 10_000_000, int((image == 251).sum())
    stats = of(image, scale=False)
    assert stats.var(0).item() == float(Fraction(k * (n - k), n * n))
    assert stats.var(1).item() == float(Fraction(k * (n - k), n * (n - 1)))
    assert is_rounded_sqrt(stats.std.item(), Fraction(k * (n - k), n * n))


def test_increments_are_not_lost_after_a_billion_pixels():
    stats = of(torch.zeros(1, 1000, 1024, dtype=torch.uint8), scale=False)
    for _ in range(10):
        stats = stats + stats
    before = stats.pixels
    stats.update(torch.ones(1, 1, 1, dtype=torch.uint8))
    assert before == 1000 * 2**20
    assert stats.mean.item() == float(Fraction(1, before + 1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 10, 12), (2, 3, 70, 80)])
def test_layouts_and_leading_dimensions_do_not_matter(dtype, shape):
    images = integers(*shape, dtype=dtype)
    expected = bits(of(images))
    for name, view in layouts(images.view(torch.int16) if dtype == torch.uint16 else images):
        assert bits(of(view.view(dtype))) == expected, name
    assert bits(of(images[:, None, None])) == expected
    assert bits(of(*images)) == expected


def test_quantile_follows_the_linear_rule_of_torch():
    images = integers(4, 3, 13, 7)
    stats = of(images, scale=False)
    pixels = images.transpose(0, 1).flatten(1).double()
    q = [0, 0.013, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.97531, 1]
    expected = torch.quantile(pixels, torch.tensor(q, dtype=torch.float64), dim=1)
    assert (stats.quantile(q) - expected).abs().max() < 1e-10
    assert torch.equal(stats.quantile(0.25), stats.quantile([0.25])[0])
    assert stats.quantile([]).shape == (0, 3)


def test_quantile_takes_the_decimal_number_it_was_given():
    # 0.3 * 10 = 3, although the float64 next to 0.3 is a hair below.
    assert of(torch.arange(11, dtype=torch.uint8)[None, None], scale=False).quantile(0.3) == 3


def test_scaling_equals_the_conversion_of_torchvision():
    from torchvision.transforms.v2.functional import to_dtype

    for dtype in TYPES:
        images = integers(2, 3, 20, 20, dtype=dtype)
        scaled = to_dtype(images, torch.float32, scale=True).double()
        stats = of(images)
        assert (stats.max - scaled.amax((0, 2, 3))).abs().max() < 1e-7
        assert (stats.mean - scaled.mean((0, 2, 3))).abs().max() < 1e-7


def test_unit_interval_floats_agree_with_the_integers_they_came_from():
    images = integers(4, 3, 30, 31)
    exact, floating = of(images), of(images.double() / 255)
    for name in ("mean", "std", "min", "max", "mean_image_std", "mean_standard_error"):
        assert (getattr(exact, name) - getattr(floating, name)).abs().max() < 1e-15, name


def test_the_standard_error_covers_the_truth_as_often_as_it_should():
    # 2000 images of random brightness; means of samples of 40 must scatter as their error says.
    brightness = integers(2000, 1, 1, 1, seed=5, low=40, high=200).expand(2000, 1, 3, 3)
    noise = integers(2000, 1, 3, 3, seed=6, high=30)
    images = brightness + noise
    truth = of(images, scale=False).mean
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        sample = images[torch.randint(2000, (40,), generator=generator)]
        stats = of(sample, scale=False)
        inside += int((stats.mean - truth).abs() <= 1.96 * stats.mean_standard_error)
    assert 180 <= inside <= 198


def test_the_standard_error_is_its_formula():
    images = varied(torch.uint8)
    stats = of(*images, scale=False)
    n = torch.tensor([image[0].numel() for image in images], dtype=torch.float64)
    means = torch.stack([image.double().mean((1, 2)) for image in images])
    m = len(images)
    squares = ((n[:, None] * (means - stats.mean)) ** 2).sum(0)
    expected = (m / (m - 1) * squares).sqrt() / n.sum()
    assert (stats.mean_standard_error / expected - 1).abs().max() < 1e-13
    assert of(images[1]).mean_standard_error.isnan().all()


def test_uint8_arithmetic_that_wraps():
    # In uint8, 3 - 5 = 254 and 200 * 200 = 64: a spread computed that way is nonsense.
    image = torch.tensor([[[3, 5, 200, 200]]], dtype=torch.uint8)
    stats = of(image, scale=False)
    assert stats.mean.item() == 102
    assert stats.var(0).item() == float(Fraction(3**2 + 5**2 + 2 * 200**2, 4) - 102**2)
    wrapped = (image * image).double().mean() - image.double().mean() ** 2
    assert wrapped < 0
