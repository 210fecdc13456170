"""Values of the exact filter: a loop reference, other libraries, closed forms, borders, masks."""

import itertools
import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image
from hypothesis import given
from hypothesis import strategies as st

from torchops import bilateral_filter
from torchops.bilateral.exact import pad_image

# A sum over a window adds its terms one by one: about sqrt(169) roundings of float32.
ROUNDING = 2e-6
BORDERS = ("reflect", "replicate", "constant", "circular", "valid_only")


def fold(index, size, border):
    """Where a position outside reads; None: nothing, -1: a zero that counts."""
    if 0 <= index < size:
        return index
    if border in ("valid_only", "constant"):
        return None if border == "valid_only" else -1
    if border == "replicate" or (border == "reflect" and size == 1):
        return min(max(index, 0), size - 1)
    if border == "circular":
        return index % size
    period = 2 * (size - 1)
    index %= period
    return min(index, period - index)


def by_loops(image, sigma_space, sigma_range, radius, *, guide=None, mask=None, **options):
    """The definition, pixel by pixel and tap by tap, on arrays (C, *spatial)."""
    window, distance = options.get("window", "square"), options.get("distance", "l2")
    border = options.get("border", "reflect")
    image = image.numpy()
    guide = image if guide is None else guide.numpy()
    size = image.shape[1:]
    result = np.zeros_like(image)
    for p in itertools.product(*map(range, size)):
        weighted, total = 0.0, 0.0
        for offset in itertools.product(range(-radius, radius + 1), repeat=len(size)):
            square = sum(o * o for o in offset)
            if window == "disc" and square > radius * radius:
                continue
            q = [fold(a + o, n, border) for a, o, n in zip(p, offset, size, strict=True)]
            if None in q:
                continue
            outside = -1 in q
            value = np.zeros(len(image)) if outside else image[(slice(None), *q)]
            other = np.zeros(len(guide)) if outside else guide[(slice(None), *q)]
            difference = guide[(slice(None), *p)] - other
            length = np.abs(difference).sum() if distance == "l1" else np.linalg.norm(difference)
            weight = math.exp(-square / (2 * sigma_space**2) - length**2 / (2 * sigma_range**2))
            if mask is not None and not outside:
                weight *= mask.numpy()[(0, *q)]
            weighted, total = weighted + weight * value, total + weight
        result[(slice(None), *p)] = weighted / total if total > 0 else 0
    return torch.from_numpy(result)


def case(dims, channels=1, seed=0, size=None):
    size = size or {1: (23,), 2: (7, 9), 3: (4, 5, 6)}[dims]
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, *size, generator=generator, dtype=torch.float64)


# Every value of every option at least once with every value of each other.
PAIRWISE = [
    ("square", "l2", "reflect", False, False, 2),
    ("disc", "l1", "reflect", True, True, 3),
    ("disc", "l2", "replicate", True, False, 1),
    ("square", "l1", "replicate", False, True, 2),
    ("square", "l2", "replicate", True, True, 3),
    ("disc", "l1", "constant", False, False, 3),
    ("square", "l2", "constant", True, True, 1),
    ("disc", "l2", "constant", False, True, 2),
    ("square", "l1", "circular", True, False, 1),
    ("disc", "l2", "circular", False, True, 2),
    ("square", "l1", "circular", False, False, 3),
    ("disc", "l1", "valid_only", True, True, 2),
    ("square", "l2", "valid_only", False, False, 1),
    ("square", "l2", "valid_only", True, False, 3),
    ("disc", "l1", "reflect", False, False, 1),
]


def check_against_loops(window, distance, border, guided, masked, dims):
    image = case(dims, 3 if guided else 2)
    guide = case(dims, 2, seed=1) if guided else None
    mask = case(dims, 1, seed=2).round(decimals=1) if masked else None
    options = {"window": window, "distance": distance, "border": border}
    found = bilateral_filter(
        image, 1.3, 0.4, radius=2, guide=guide, mask=mask, spatial_dims=dims, **options
    )
    expected = by_loops(image, 1.3, 0.4, 2, guide=guide, mask=mask, **options)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("options", PAIRWISE, ids=str)
def test_equals_the_definition_in_loops(options):
    check_against_loops(*options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    list(
        itertools.product(
            ("square", "disc"), ("l2", "l1"), BORDERS, (False, True), (False, True), (1, 2, 3)
        )
    ),
    ids=str,
)
def test_equals_the_definition_in_loops_for_all_options(options):
    check_against_loops(*options)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3)])
def test_a_window_larger_than_the_image_folds_as_often_as_needed(border, size):
    image = case(2, 2, size=size)
    found = bilateral_filter(image, 3.0, 0.5, radius=7, border=border)
    assert_close(found, by_loops(image, 3.0, 0.5, 7, border=border), 1e-12)


def test_radius_and_sigma_per_axis():
    image = case(2)
    narrow = bilateral_filter(image, (1.0, 2.0), 0.4, radius=(0, 3))
    rows = torch.stack(
        [bilateral_filter(row, 2.0, 0.4, radius=3, spatial_dims=1) for row in image.unbind(1)], 1
    )
    assert_close(narrow, rows, 1e-14)
    disc = bilateral_filter(image, (1.0, 2.0), 0.4, radius=(0, 3), window="disc")
    assert_close(disc, rows, 1e-14)  # an ellipse without height is a line
    assert_close(
        bilateral_filter(image, (0.5, 1.2), 0.4),
        bilateral_filter(image, (0.5, 1.2), 0.4, radius=(2, 4)),
        0,
    )


@pytest.mark.parametrize("name", ["camera_crop_s2_r0.1", "coffee_crop_s1.5_r0.2"])
@pytest.mark.parametrize(
    ("key", "border"), [("out_reflect101", "reflect"), ("out_drop_outside", "valid_only")]
)
def test_brute_force_reference_files(shared_data, name, key, border):
    file = np.load(shared_data / "bilateral" / f"{name}.npz")
    image, expected = (torch.from_numpy(file[k]).double() for k in ("input", key))
    if image.ndim == 2:
        image, expected = image[None], expected[None]
    else:
        image, expected = image.movedim(-1, 0), expected.movedim(-1, 0)
    sigmas = float(file["sigma_space"]), float(file["sigma_range"])
    radius = int(file["radius"])
    found = bilateral_filter(image, *sigmas, radius=radius, border=border)
    assert_close(found, expected, 1e-13)
    found = bilateral_filter(image.float(), *sigmas, radius=radius, border=border)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("distance", ["l2", "l1"])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "circular"])
def test_kornia(distance, border):
    image = photograph("coffee.png")[None, :, 100:130, 200:240]
    guide = photograph("coffee.png")[None, 1:2, 100:130, 200:240].flip(-1)
    expected = kornia.filters.bilateral_blur(image, 7, 0.2, (1.5, 1.5), border, distance)
    found = bilateral_filter(image, 1.5, 0.2, radius=3, border=border, distance=distance)
    assert_close(found, expected, 1e-13)
    expected = kornia.filters.joint_bilateral_blur(image, guide, 7, 0.2, (1.5, 1.5), border)
    # kornia's default distance is l1; over one channel both are the same.
    found = bilateral_filter(image, 1.5, 0.2, guide=guide, radius=3, border=border)
    assert_close(found, expected, 1e-13)


def test_kornia_sigma_per_sample():
    image = torch.rand(3, 2, 9, 8, dtype=torch.float64)
    levels = torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64)
    space = torch.tensor([0.7, 1.1, 2.0], dtype=torch.float64)
    expected = kornia.filters.bilateral_blur(
        image, 5, levels, space[:, None].expand(3, 2), color_distance_type="l2"
    )
    assert_close(bilateral_filter(image, space, levels, radius=2), expected, 1e-13)


def opencv_cases(count):
    """Random cases in the manner of OpenCV's own test of its filter."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        channels = int(rng.choice([1, 3]))
        size = rng.integers(3, 24, 2)
        yield (
            rng,
            (*size, 3) if channels == 3 else tuple(size),
            int(rng.choice([3, 5])),
            float(rng.uniform(0.3, 10)),
            float(rng.uniform(0.3, 10)),
        )


def to_tensor(array):
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_opencv_disc_window_in_random_cases(count):
    # OpenCV interpolates a table of 4096 bins, hence its own tolerance of 5e-3 of the maximum; it
    # returns the input unchanged where its range is below 1e-7.
    for rng, shape, diameter, sigma_range, sigma_space in opencv_cases(count):
        image = rng.uniform(0, 10, shape).astype(np.float32)
        expected = cv2.bilateralFilter(
            image, diameter, sigma_range, sigma_space, borderType=cv2.BORDER_REFLECT_101
        )
        found = bilateral_filter(
            to_tensor(image),
            sigma_space,
            sigma_range,
            radius=diameter // 2,
            window="disc",
            distance="l1",
        )
        assert_close(found, to_tensor(expected), 5e-3 * image.max())


def by_opencvs_reference(image, diameter, sigma_range, sigma_space):
    """What OpenCV's test compares its filter with: floats, and a table of exponentials."""
    low, high = image.min(), image.max()
    if abs(float(high) - float(low)) < np.finfo(np.float32).eps:
        return image
    radius, (height, width, channels) = diameter // 2, image.shape
    padded = np.pad(image.astype(np.float32), ((radius,) * 2, (radius,) * 2, (0, 0)), "reflect")
    bins = 4096 * channels
    scale = bins / ((float(high) - float(low)) * channels)
    table = np.exp(-((np.arange(bins + 2) / scale) ** 2) / (2 * sigma_range**2))
    centre = padded[radius : radius + height, radius : radius + width]
    weighted, total = np.zeros(image.shape), np.zeros((height, width, 1))
    for y, x in itertools.product(range(-radius, radius + 1), repeat=2):
        if y * y + x * x > radius * radius:
            continue
        other = padded[radius + y : radius + y + height, radius + x : radius + x + width]
        position = np.abs(other - centre).sum(2, keepdims=True, dtype=np.float64) * scale
        bin_ = np.floor(position).astype(int)
        weight = table[bin_] + (position - bin_) * (table[bin_ + 1] - table[bin_])
        weight *= math.exp(-(y * y + x * x) / (2 * sigma_space**2))
        weighted, total = weighted + weight * other, total + weight
    mean = weighted / total
    return mean.round().astype(np.uint8) if image.dtype == np.uint8 else mean


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_opencv_protocol(count):
    """OpenCV's test of its filter: sizes, types, windows, noise, sigmas and tolerance are theirs.

    modules/imgproc/test/test_bilateral_filter.cpp: 1000 cases, sides log-uniform up to 1920 and
    1080, one or three channels of floats or bytes, noise in [0, 256), both sigmas 1, diameter 3 or
    5; the Euclidean norm of all differences to the reference is at most 4.
    """
    rng = np.random.default_rng(0)
    for _ in range(count):
        width, height = (round(math.exp(rng.uniform(0, math.log(n + 1)))) for n in (1920, 1080))
        channels, dtype = rng.choice([1, 3]), rng.choice([np.float32, np.uint8])
        diameter = int(rng.choice([3, 5]))
        image = rng.uniform(0, 256, (height, width, channels)).astype(dtype)
        expected = by_opencvs_reference(image, diameter, 1.0, 1.0)
        found = bilateral_filter(
            to_tensor(image), 1.0, 1.0, radius=diameter // 2, window="disc", distance="l1"
        )
        assert (found.double() - to_tensor(expected).double()).norm() <= 4, image.shape


def test_opencv_uint8():
    for rng, shape, diameter, sigma_range, sigma_space in opencv_cases(50):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        expected = cv2.bilateralFilter(
            image, diameter, 8 * sigma_range, sigma_space, borderType=cv2.BORDER_REFLECT_101
        )
        found = bilateral_filter(
            to_tensor(image),
            sigma_space,
            8 * sigma_range,
            radius=diameter // 2,
            window="disc",
            distance="l1",
        )
        assert found.dtype == torch.uint8
        assert (found.int() - to_tensor(expected).int()).abs().max() <= 1


def test_values_outside_the_range_of_the_image_at_a_constant_border():
    # OpenCV issue 28254: there the border value 0 lies outside the table of differences.
    image = 1000 + case(2)
    found = bilateral_filter(image, 2.0, 0.1, radius=3, border="constant")
    assert_close(found, by_loops(image, 2.0, 0.1, 3, border="constant"), 1e-9)


# --- Closed forms and properties -----------------------------------------------------------------


@pytest.mark.parametrize("border", ["reflect", "replicate", "circular", "valid_only"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_image_returns_itself(border, dtype):
    image = torch.full((2, 3, 11, 13), 0.3, dtype=dtype)
    found = bilateral_filter(image, 2.0, 0.1, border=border)
    assert_close(found, image, ROUNDING if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("border", BORDERS)
def test_a_huge_range_sigma_gives_the_gaussian_blur(border):
    image = case(2)
    found = bilateral_filter(image, 1.2, 1e6, radius=3, border=border)
    assert_close(found, by_loops(image, 1.2, 1e9, 3, border=border), 1e-9)


def test_a_tiny_range_sigma_changes_nothing():
    image = case(2)
    assert_close(bilateral_filter(image, 2.0, 1e-5), image, 1e-12)


def test_a_step_far_above_sigma_range_is_untouched():
    image = torch.zeros(1, 9, 12, dtype=torch.float64)
    image[..., 6:] = 1
    assert_close(bilateral_filter(image, 2.0, 0.05), image, 1e-12)


def test_a_ramp_returns_itself_inside():
    image = (0.01 * torch.arange(60, dtype=torch.float64)).expand(1, 20, 60)
    found = bilateral_filter(image, 3.0, 0.1)
    assert_close(found[..., 9:-9], image[..., 9:-9], 1e-13)


def test_shift_and_scale():
    image = case(2)
    found = bilateral_filter(image, 1.5, 0.1)
    assert_close(bilateral_filter(image + 7, 1.5, 0.1) - 7, found, 1e-12)
    assert_close(bilateral_filter(255 * image, 1.5, 25.5) / 255, found, 1e-13)
    shifted = bilateral_filter(image.float() + 64, 1.5, 0.1).double() - 64
    exact = bilateral_filter((image.float() + 64).double(), 1.5, 0.1) - 64
    assert_close(shifted, exact, 64 * ROUNDING)


def test_guides():
    image = case(2)
    own = bilateral_filter(image, 1.5, 0.2)
    assert_close(bilateral_filter(image, 1.5, 0.2, guide=image.clone()), own, 1e-15)
    flat = bilateral_filter(image, 1.5, 0.2, guide=torch.zeros_like(image))
    assert_close(flat, bilateral_filter(image, 1.5, 1e9), 1e-12)


def test_a_signal_in_an_image_in_a_volume():
    signal = case(1)
    line = bilateral_filter(signal, 1.5, 0.3, radius=3, spatial_dims=1)
    image = signal[:, None].expand(1, 5, 23)
    assert_close(bilateral_filter(image, 1.5, 0.3, radius=3)[:, 2], line, 1e-14)
    volume = image[:, None].expand(1, 4, 5, 23)
    found = bilateral_filter(volume, 1.5, 0.3, radius=3, spatial_dims=3)
    assert_close(found[:, 1, 2], line, 1e-14)


@given(
    seed=st.integers(0, 10**6),
    sigma_space=st.floats(0.3, 4),
    sigma_range=st.floats(0.02, 3),
    radius=st.integers(0, 5),
    border=st.sampled_from(["reflect", "replicate", "circular", "valid_only"]),
    window=st.sampled_from(["square", "disc"]),
)
def test_the_result_lies_between_the_values_of_the_window(
    seed, sigma_space, sigma_range, radius, border, window
):
    image = case(2, seed=seed)
    found = bilateral_filter(
        image, sigma_space, sigma_range, radius=radius, border=border, window=window
    )
    for sign in (1, -1):
        padded = pad_image(sign * image, (radius, radius), border, -torch.inf)
        highest = torch.nn.functional.max_pool2d(padded, 2 * radius + 1, 1)
        assert (sign * found <= highest + 1e-12).all()
    # Turning the image turns the result.
    turned = bilateral_filter(
        image.rot90(1, (1, 2)),
        sigma_space,
        sigma_range,
        radius=radius,
        border=border,
        window=window,
    )
    assert_close(turned.rot90(-1, (1, 2)), found, 1e-12)


def test_noise_goes_and_edges_stay():
    board = (torch.arange(32)[:, None] // 8 + torch.arange(32) // 8) % 2
    noisy = board.double()[None] + 0.05 * torch.randn(1, 32, 32, dtype=torch.float64)
    deviations = [
        (bilateral_filter(noisy, s, 0.3) - board).std().item() for s in (0.5, 1.0, 2.0, 4.0)
    ]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 0.01


# --- Batches, layouts, dtypes --------------------------------------------------------------------


def test_a_batch_equals_the_loop(device):
    image = torch.rand(2, 3, 2, 10, 11, device=device)
    guide = torch.rand(3, 1, 10, 11, device=device)
    space = torch.tensor([[0.5], [1.5]], device=device)
    level = torch.tensor(0.3, device=device)
    found = bilateral_filter(image, space, level, guide=guide)
    assert found.shape == image.shape
    for i, j in itertools.product(range(2), range(3)):
        alone = bilateral_filter(image[i, j], float(space[i, 0]), 0.3, guide=guide[j])
        assert_close(found[i, j], alone, 1e-6)


def test_a_sample_never_sees_a_wider_window_than_alone():
    image = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    image[0, 0, 0, 7] = torch.nan  # seven columns away from the first pixel
    guide = torch.zeros_like(image)
    space = torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)
    found = bilateral_filter(image, space, 0.2, guide=guide)
    assert found[0, 0, 0, 0].isfinite()
    for i, sigma in enumerate((1.0, 3.0, 1.0)):
        alone = bilateral_filter(image[i], sigma, 0.2, guide=guide[i])
        assert torch.equal(found[i].isnan(), alone.isnan())
        assert_close(found[i].nan_to_num(), alone.nan_to_num(), 1e-13)


def test_leading_dimensions_broadcast():
    image, guide = torch.rand(2, 6, 7), torch.rand(5, 1, 1, 6, 7)
    found = bilateral_filter(image, 1.0, torch.rand(4) + 0.1, guide=guide)
    assert found.shape == (5, 4, 2, 6, 7)
    assert bilateral_filter(torch.rand(0, 3, 5, 5), 1.0, 0.1).shape == (0, 3, 5, 5)
    empty = bilateral_filter(torch.rand(0, 3, 5, 5), torch.rand(0), torch.rand(0), radius=1)
    assert empty.shape == (0, 3, 5, 5)


def test_layouts(device):
    image = smooth_image(2, 3, 12, 10).to(device)
    expected = bilateral_filter(image.contiguous(), 1.2, 0.1)
    for name, other in layouts(image):
        before = other.clone()
        assert_close(bilateral_filter(other, 1.2, 0.1), expected, 1e-14, name)
        assert torch.equal(other, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(device, dtype):
    image = photograph()[:, 100:140, 100:150].to(device, dtype)
    found = bilateral_filter(image, 1.5, 0.1)
    assert found.dtype == dtype
    expected = bilateral_filter(image.double(), 1.5, 0.1)
    assert_close(found, expected, max(torch.finfo(dtype).eps, ROUNDING))
    with torch.autocast(image.device.type, dtype=torch.bfloat16):
        again = bilateral_filter(image, 1.5, 0.1)
    assert torch.equal(again, found)


def test_uint8_is_rounded_half_to_even():
    image = torch.tensor([[[1, 2, 3, 4]]], dtype=torch.uint8)
    found = bilateral_filter(image, 1e6, 1e6, radius=(0, 1), border="circular")
    # Means of 1 2 4, 1 2 3, 2 3 4, 1 3 4.
    assert found.tolist() == [[[2, 2, 3, 3]]]
    two = torch.tensor([[[2, 3]]], dtype=torch.uint8)
    assert bilateral_filter(two, 1e6, 1e6, radius=(0, 1), border="valid_only").tolist() == [
        [[2, 2]]
    ]


def test_grey_levels_of_a_uint8_guide():
    image = photograph()[:, 100:120, 100:120]
    levels = (image * 255).round().to(torch.uint8)
    found = bilateral_filter(image, 1.5, 20.0, guide=levels)
    assert_close(found, bilateral_filter(image, 1.5, 20.0, guide=levels.double()), 1e-6)


# --- Masks and what is not finite ----------------------------------------------------------------


def test_nan_under_a_zero_mask_reaches_nobody():
    image = case(2)
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[0, 3, 4] = False
    expected = bilateral_filter(image, 1.5, 0.3, mask=mask)
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = torch.where(mask, image, bad)
        found = bilateral_filter(broken, 1.5, 0.3, mask=mask)
        assert found[0, 3, 4] == 0  # its own guide is not finite
        assert_close(found[mask], expected[mask], 1e-15)
        guided = bilateral_filter(broken, 1.5, 0.3, mask=mask, guide=image)
        assert_close(guided, expected, 1e-15)  # here it is not, and the hole is filled


def test_a_pixel_whose_guide_is_not_finite_counts_as_masked():
    image = case(2)
    broken = image.clone()
    broken[0, 2, 2] = torch.nan
    mask = torch.isfinite(broken)
    found = bilateral_filter(broken, 1.5, 0.3)
    assert_close(found, bilateral_filter(broken, 1.5, 0.3, mask=mask), 1e-15)
    guide = torch.zeros(2, 7, 9, dtype=torch.float64)
    guide[1, 2, 2] = torch.inf
    found = bilateral_filter(image, 1.5, 0.3, guide=guide)
    assert found[0, 2, 2] == 0
    assert found.isfinite().all()


def test_a_nan_that_counts_is_seen_in_its_window_only():
    image = case(2)
    image[0, 0, 0] = torch.nan
    found = bilateral_filter(image, 1.5, 0.3, radius=2, guide=torch.zeros_like(image))
    expected = torch.zeros(1, 7, 9, dtype=torch.bool)
    expected[0, :3, :3] = True
    assert torch.equal(found.isnan(), expected)


def test_no_counting_source_gives_zero():
    image = case(2)
    mask = torch.ones(1, 7, 9)
    mask[:, :, :6] = 0
    found = bilateral_filter(image, 1.0, 0.3, radius=2, mask=mask)
    assert (found[:, :, :4] == 0).all()
    assert (found[:, :, 4:] != 0).all()
    assert (bilateral_filter(image, 1.0, 0.3, mask=torch.zeros(1, 7, 9)) == 0).all()
    assert (bilateral_filter(torch.full((1, 3, 3), torch.nan), 1.0, 0.3) == 0).all()


def test_a_nan_sigma_spoils_its_own_sample_only():
    image = torch.rand(3, 1, 6, 6)
    for space, level in (
        (torch.tensor([1.0, torch.nan, 2.0]), 0.3),
        (1.0, torch.tensor([0.1, torch.nan, 0.2])),
    ):
        found = bilateral_filter(image, space, level)
        assert found[1].isnan().all()
        assert found[[0, 2]].isfinite().all()
