"""sample_disjoint_boxes keeps every promise; boxes_to_mask covers what the boxes cover."""

import math

import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from torchops import boxes_to_mask, sample_disjoint_boxes
from torchops.erase.batched import draw_at_once, draw_in_turns, draw_one_by_one
from torchops.erase.boxes import _draw
from torchops.erase.plan import make_plan, numbers_per_image
from torchops.erase.rectangles import (
    allowed_rectangles,
    certain_layouts,
    feasible_runs,
    grid_cells,
    nearest_areas,
    rectangles_up_to,
)
from torchops.erase.single import draw_one

RATIO = (0.3, 3.3)
SIZES = [(32, 32), (100, 100), (160, 1024)]


def draw_range(promises, height, width, fraction, count, ratio, number):
    """Draw with a range of fractions and check; areas must lie in the range of areas."""
    boxes = sample_disjoint_boxes(
        number, height, width, fraction=fraction, count=count, ratio=ratio
    )
    promises.check_shapes(boxes, height, width, count, ratio)
    h, w = promises.sizes(boxes)
    area, n = (h * w).sum(-1), promises.counts(boxes)
    low, high = (math.floor(f * height * width + 0.5) for f in fraction)
    assert ((area >= low) & (area <= high))[n >= 2].all()
    known = promises.allowed(height, width, ratio)
    assert torch.isin(area[n == 1], known).all()
    return boxes


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_draws_keep_every_promise(promises, height, width):
    draw_range(promises, height, width, (0.02, 0.6), (1, 4), RATIO, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_million_draws_keep_every_promise(promises, height, width):
    fractions = torch.linspace(0.02, 0.6, 30).tolist()
    per_fraction = 1_000_000 // (3 * 2 * len(fractions)) + 1
    for fraction in fractions:  # the exact target is known for a fixed fraction
        boxes = sample_disjoint_boxes(
            per_fraction, height, width, fraction=fraction, count=(1, 4), ratio=RATIO
        )
        promises.check_shapes(boxes, height, width, (1, 4), RATIO)
        promises.check_areas(boxes, height, width, fraction, RATIO)
    for _ in range(10):
        draw_range(promises, height, width, (0.02, 0.6), (1, 4), RATIO, 16_700)


def check_size_exhaustively(promises, height, width, fractions, ratio, number):
    """Every count alone, at some fractions: kept promises, or an error where there is no way."""
    feasible = 0
    areas = promises.allowed(height, width, ratio)
    for fraction in fractions:
        target = math.floor(fraction * height * width + 0.5)
        for k in range(1, 5):
            try:
                boxes = sample_disjoint_boxes(
                    number, height, width, fraction=fraction, count=k, ratio=ratio
                )
            except ValueError:
                assert k > 1 or not len(areas), "a single rectangle always has a nearest area"
                continue
            feasible += 1
            promises.check_shapes(boxes, height, width, (k, k), ratio)
            promises.check_areas(boxes, height, width, fraction, ratio)
            assert k == 1 or target >= k
    return feasible


@pytest.mark.parametrize("ratio", [RATIO, (1.0, 1.0), (0.9, 1.1)])
def test_every_small_size(promises, ratio):
    sizes = [1, 2, 5, 8, 13]
    found = sum(
        check_size_exhaustively(promises, h, w, [0.02, 0.33, 0.6, 1.0], ratio, 5)
        for h in sizes
        for w in sizes
    )
    assert found > len(sizes) ** 2 * 4  # more than the single rectangles


@pytest.mark.slow
def test_every_size_up_to_64(promises):
    for h in range(1, 65):
        for w in range(1, 65):
            check_size_exhaustively(promises, h, w, [0.05, 0.3, 0.6], RATIO, 8)


@pytest.mark.slow
def test_default_range_up_to_64_never_raises_for_images_of_ordinary_shape(promises):
    for h in range(1, 65):
        for w in range(max(1, h // 2), min(64, 2 * h) + 1):
            draw_range(promises, h, w, (0.02, 0.33), (1, 4), RATIO, 20)


@settings(max_examples=100)
@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    k=st.integers(1, 8),
    fraction=st.floats(0.001, 1.0),
    low=st.floats(0.05, 4.0),
    spread=st.floats(1.0, 12.0),
)
def test_promises_for_any_request(promises, height, width, k, fraction, low, spread):
    ratio = (low, low * spread)
    try:
        boxes = sample_disjoint_boxes(8, height, width, fraction=fraction, count=k, ratio=ratio)
    except ValueError as error:
        message = str(error)
        event("infeasible")
        if f"size {height} x {width}" not in message or str(fraction) not in message:
            pytest.fail(f"the error names neither size nor fraction: {message}")
        return
    promises.check_shapes(boxes, height, width, (k, k), ratio)
    promises.check_areas(boxes, height, width, fraction, ratio)


@settings(max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    counts=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted).map(tuple),
    fractions=st.tuples(st.floats(0.01, 0.9), st.floats(0.01, 0.9)).map(sorted).map(tuple),
    ratio=st.sampled_from([RATIO, (0.5, 2.0), (0.8, 1.25), (2.0, 4.0)]),
    seed=st.integers(0, 2**31),
)
def test_every_way_to_draw_gives_the_same_boxes(height, width, counts, fractions, ratio, seed):
    """One by one in plain Python, in turns, all at once: from the same numbers, bit for bit."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(2**31, (12, numbers_per_image(counts[1])), generator=generator)
    try:
        plan = make_plan(height, width, fractions, counts, ratio)
    except ValueError:
        assume(False)
    alone = draw_one_by_one(numbers, plan)
    assert torch.equal(draw_in_turns(numbers, plan), alone)
    assert torch.equal(draw_at_once(numbers, plan), alone)
    assert torch.equal(_draw(numbers[3:4], height, width, *fractions, *counts, *ratio), alone[3:4])


@pytest.mark.parametrize("ratio", [RATIO, (0.9, 1.1)])
def test_every_way_to_draw_many(ratio):
    """Enough images for the candidates to fail in more than a few, and the certain layouts too."""
    fraction, count = ((0.02, 0.6), (1, 4)) if ratio == RATIO else ((0.6, 0.61), (2, 4))
    numbers = torch.randint(2**31, (600, numbers_per_image(4)))
    plan = make_plan(60, 60, fraction, count, ratio)
    alone = draw_one_by_one(numbers, plan)
    assert torch.equal(draw_in_turns(numbers, plan), alone)
    assert torch.equal(draw_at_once(numbers, plan), alone)


@pytest.mark.parametrize("number", [0, 2**31 - 1])
def test_extreme_random_numbers(promises, number):
    """All candidates alike, at the ends of every interval."""
    for (height, width), fraction in [((32, 32), 0.6), ((100, 100), 0.02), ((160, 1024), 0.6)]:
        numbers = torch.full((2, numbers_per_image(4)), number)
        boxes = _draw(numbers, height, width, fraction, fraction, 2, 4, *RATIO)
        promises.check_shapes(boxes, height, width, (2, 4), RATIO)
        promises.check_areas(boxes, height, width, fraction, RATIO)


def certain_share(height, width, fraction, count, ratio, number=2000):
    """How often the candidates fail, told by the equal cells of the certain layout."""
    plan = make_plan(height, width, (fraction, fraction), (count, count), ratio)
    numbers = torch.randint(2**31, (number, numbers_per_image(count)))
    calls = 0
    original = plan.certain_layout

    def counted(area, k):
        nonlocal calls
        calls += 1
        return original(area, k)

    plan.certain_layout = counted
    try:
        for row in numbers.tolist():
            draw_one(row, plan)
    finally:
        del plan.certain_layout
    return calls / number


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_certain_layout_is_rare_at_the_default_ratio(record_property, height, width, count):
    for fraction in (0.02, 0.33, 0.6):
        share = certain_share(height, width, fraction, count, RATIO)
        record_property(f"certain layouts at {fraction}", share)
        assert share < 1 / 500


def test_the_certain_layout_keeps_the_promises(promises):
    """A request that the candidates hardly ever meet."""
    request = {"fraction": 0.8, "count": 4, "ratio": (0.9, 1.1)}
    assert certain_share(100, 100, 0.8, 4, (0.9, 1.1), 300) > 0.5
    boxes = sample_disjoint_boxes(500, 100, 100, **request)
    promises.check_shapes(boxes, 100, 100, (4, 4), (0.9, 1.1))
    promises.check_areas(boxes, 100, 100, 0.8, (0.9, 1.1))


@pytest.mark.parametrize("ratio", [RATIO, (0.5, 2.0), (0.8, 1.25), (1.5, 6.0)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 61), (61, 20), (7, 9)])
def test_the_proved_interval_holds_only_feasible_areas(height, width, ratio):
    areas = torch.arange(1, height * width + 1)
    allowed = allowed_rectangles(height, width, ratio, height * width)
    for count in (2, 3, 4, 5):
        cells = grid_cells(height, width, count, allowed)
        found, layouts = certain_layouts(areas, count, cells)
        starts, feasible = feasible_runs(1, height * width, count, cells)
        assert torch.equal(feasible[torch.searchsorted(starts, areas, right=True) - 1], found)
        assert (feasible[1:] != feasible[:-1]).all(), "runs that could be one"
        _, equal, first, second = (layouts[found].long().prod(-1)).unbind(1)
        assert torch.equal((count - 2) * equal + first + second, areas[found])


def test_two_squares_are_feasible_exactly_where_two_squares_sum():
    """Feasibility against arithmetic: ratio 1, two cells of 12 x 12 in a 12 x 24 image."""
    sums = {a * a + b * b for a in range(1, 13) for b in range(1, 13)}
    for area in range(1, 12 * 24 + 1, 2):
        fraction = area / (12 * 24)
        if area in sums:
            boxes = sample_disjoint_boxes(2, 12, 24, fraction=fraction, count=2, ratio=(1, 1))
            assert boxes.shape == (2, 2, 4)
        else:
            with pytest.raises(ValueError, match="fraction must be"):
                sample_disjoint_boxes(2, 12, 24, fraction=fraction, count=2, ratio=(1, 1))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_feasibility_is_generous(height, width, count):
    """Every area from 2 % to 75 % of the image, so one request for the whole range."""
    boxes = sample_disjoint_boxes(4, height, width, fraction=(0.02, 0.75), count=count, ratio=RATIO)
    assert boxes.shape == (4, count, 4)


def test_count_is_uniform_over_the_range():
    boxes = sample_disjoint_boxes(20_000, 100, 100, fraction=0.3, count=(1, 4), ratio=RATIO)
    counts = (boxes[..., 2] > 0).sum(1).bincount(minlength=5)[1:].double()
    chi_square = ((counts - 5_000) ** 2 / 5_000).sum().item()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001


def test_count_is_uniform_over_the_feasible_values_only():
    """At 60 % of 160 x 1024 one rectangle of ratio >= 0.3 is too small; two to four are left."""
    boxes = sample_disjoint_boxes(30_000, 160, 1024, fraction=0.6, count=(1, 4), ratio=RATIO)
    counts = (boxes[..., 2] > 0).sum(1).bincount(minlength=5).double()
    assert counts[1] == 0
    assert ((counts[2:] - 10_000) ** 2 / 10_000).sum() < 13.82  # 2 degrees of freedom


def test_fraction_is_uniform_over_its_range():
    boxes = sample_disjoint_boxes(20_000, 100, 100, fraction=(0.1, 0.5), count=2, ratio=RATIO)
    size = boxes[..., 2:] - boxes[..., :2]
    areas = size.prod(-1).sum(-1).sort().values.double()
    expected = 1000 + 4000 * (torch.arange(20_000) + 0.5) / 20_000
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) at p = 0.001.
    assert ((areas - expected).abs().max() / 4000) < 1.95 / math.sqrt(20_000)


def test_ratio_of_a_single_rectangle_is_log_uniform():
    """As torchvision's, whose sides are rounded too; the exact area leaves a grid of ratios."""
    boxes = sample_disjoint_boxes(20_000, 400, 400, fraction=(0.05, 0.15), count=1, ratio=RATIO)
    x0, y0, x1, y1 = boxes[:, 0].double().unbind(-1)
    log_ratio = ((y1 - y0) / (x1 - x0)).log().sort().values
    low, high = math.log(0.3), math.log(3.3)
    expected = low + (high - low) * (torch.arange(20_000) + 0.5) / 20_000
    assert ((log_ratio - expected).abs().max() / (high - low)) < 0.03


def coverage(count):
    boxes = sample_disjoint_boxes(6000, 24, 24, fraction=0.3, count=count, ratio=RATIO)
    return boxes_to_mask(boxes, 24, 24).double().mean(0)[0]


def test_every_pixel_can_be_erased():
    """Corners least often, but more often than by one rectangle at a uniform place."""
    several = coverage((2, 4))
    assert several.mean().item() == pytest.approx(0.3, abs=0.003)  # 172.8 px are 173
    assert several.min() > coverage(1).min() > 0
    # The law is symmetric: no side of the image is preferred.
    for flipped in (several.flip(0), several.flip(1), several.T):
        assert (several - flipped).abs().max() < 5 * math.sqrt(2 * 0.25 / 6000)


def test_images_of_a_batch_differ():
    boxes = sample_disjoint_boxes(64, 64, 64, fraction=0.3, count=3, ratio=RATIO)
    assert len(boxes.flatten(1).unique(dim=0)) == 64


def test_nearest_area_of_one_rectangle(promises):
    """100 x 100: never more than 6 pixels off up to 5000; 307 of 32 x 32 is prime."""
    for area in range(200, 5001, 37):
        boxes = sample_disjoint_boxes(2, 100, 100, fraction=area / 1e4, count=1, ratio=RATIO)
        got = (boxes[:, 0, 2:] - boxes[:, 0, :2]).prod(-1)
        assert ((got - area).abs() <= 6).all()
        assert torch.isin(got, promises.nearest(100, 100, RATIO, area)).all()
    boxes = sample_disjoint_boxes(50, 32, 32, fraction=0.3, count=1, ratio=RATIO)
    assert ((boxes[:, 0, 2:] - boxes[:, 0, :2]).prod(-1) == 306).all()


@pytest.mark.parametrize("ratio", [RATIO, (0.8, 1.25), (2.0, 4.0), (0.01, 100)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 61), (61, 20)])
def test_nearest_areas_against_all_rectangles(promises, height, width, ratio):
    areas = torch.arange(height * width + 1)
    allowed = allowed_rectangles(height, width, ratio, height * width)
    got = nearest_areas(areas, allowed.width_min, allowed.width_max)
    known = promises.allowed(height, width, ratio)
    distance = (areas[:, None] - known).abs()
    assert torch.equal(got, known[distance.argmin(1)])  # the first, so the smaller of two


def test_tables_serve_images_of_all_sizes(promises):
    """A list of rectangles made for a large image gives a small one the same boxes."""
    options = {"fraction": (0.1, 0.4), "count": (1, 4), "ratio": (0.4, 2.2)}

    def draw(height, width):
        generator = torch.Generator().manual_seed(8)
        return sample_disjoint_boxes(200, height, width, generator=generator, **options)

    before = draw(40, 50)
    draw(600, 700)
    rectangles_up_to.cache_clear()
    make_plan.cache_clear()
    draw(600, 700)
    assert torch.equal(draw(40, 50), before)


@pytest.mark.parametrize(("fraction", "area"), [(0.25, 3), (0.249, 2), (0.35, 4), (0.349, 3)])
def test_area_is_rounded_half_up(fraction, area):
    """Of 10 pixels: 2.5 becomes 3, where rounding half to even would give 2."""
    boxes = sample_disjoint_boxes(3, 2, 5, fraction=fraction, count=2, ratio=(0.2, 2))
    assert ((boxes[..., 2:] - boxes[..., :2]).prod(-1).sum(-1) == area).all()


def test_whole_image():
    boxes = sample_disjoint_boxes(3, 40, 40, fraction=1.0, count=1, ratio=RATIO)
    assert (boxes == torch.tensor([0, 0, 40, 40])).all()
    boxes = sample_disjoint_boxes(3, 40, 40, fraction=1, count=4, ratio=RATIO)
    assert boxes_to_mask(boxes, 40, 40).all()


def test_reproducible_and_global_rng_untouched_with_a_generator():
    options = {"fraction": (0.1, 0.5), "count": (1, 4), "ratio": RATIO}
    state = torch.get_rng_state()
    for size in (1, 5):
        first, second = (
            sample_disjoint_boxes(
                size, 64, 64, generator=torch.Generator().manual_seed(3), **options
            )
            for _ in range(2)
        )
        assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    first = sample_disjoint_boxes(5, 64, 64, **options)
    torch.manual_seed(7)
    assert torch.equal(sample_disjoint_boxes(5, 64, 64, **options), first)
    assert not torch.equal(sample_disjoint_boxes(5, 64, 64, **options), first)


def test_devices_agree(device):
    options = {"fraction": (0.1, 0.5), "count": (1, 4), "ratio": RATIO}
    torch.manual_seed(1)
    here = sample_disjoint_boxes(9, 64, 80, **options)
    torch.manual_seed(1)
    there = sample_disjoint_boxes(9, 64, 80, device=device, **options)
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), here)
    generator = torch.Generator(device).manual_seed(1)
    drawn = sample_disjoint_boxes(9, 64, 80, generator=generator, device=device, **options)
    assert drawn.device.type == device.type


def test_batched_arithmetic_is_the_same_on_every_device(device):
    numbers = torch.randint(2**31, (200, numbers_per_image(4)))
    request = (64, 80, 0.1, 0.6, 1, 4, *RATIO)
    assert torch.equal(_draw(numbers.to(device), *request).cpu(), _draw(numbers, *request))


def test_empty_batch():
    boxes = sample_disjoint_boxes(0, 10, 10, fraction=0.3, count=(1, 3), ratio=RATIO)
    assert boxes.shape == (0, 3, 4)


def test_unaffected_by_autocast():
    torch.manual_seed(2)
    plain = sample_disjoint_boxes(20, 64, 64, fraction=0.4, count=(1, 4), ratio=RATIO)
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sample_disjoint_boxes(20, 64, 64, fraction=0.4, count=(1, 4), ratio=RATIO)
    assert torch.equal(plain, cast)


@given(
    boxes=st.lists(st.tuples(*[st.integers(-3, 9)] * 4), min_size=0, max_size=4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_mask_against_a_loop(boxes, height, width):
    mask = boxes_to_mask(torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4), height, width)
    assert mask.shape == (1, height, width)
    for y in range(height):
        for x in range(width):
            covered = any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)
            assert mask[0, y, x] == covered


def test_mask_batches_equal_a_loop(device):
    boxes = sample_disjoint_boxes(6, 20, 30, fraction=0.4, count=(1, 4), ratio=RATIO).to(device)
    mask = boxes_to_mask(boxes.view(2, 3, 4, 4), 20, 30)
    assert mask.shape == (2, 3, 1, 20, 30)
    assert mask.dtype == torch.bool
    for i in range(6):
        assert torch.equal(mask.view(6, 1, 20, 30)[i], boxes_to_mask(boxes[i], 20, 30))


# The mistakes of the code this op spares people.


def test_mistake_rectangles_that_overlap(promises):
    """The union covers the sum of the areas; drawing without looking covers less."""
    boxes = sample_disjoint_boxes(500, 100, 100, fraction=0.3, count=4, ratio=RATIO)
    union = boxes_to_mask(boxes, 100, 100).sum((1, 2, 3))
    assert (union == 3000).all()
    size = boxes[..., 2:] - boxes[..., :2]
    corner = (torch.rand(500, 4, 2) * (101 - size)).long()
    careless = boxes_to_mask(torch.cat([corner, corner + size], -1), 100, 100).sum((1, 2, 3))
    assert careless.double().mean() < 2800


def test_mistake_rectangles_silently_not_drawn(promises):
    """Each of the four is there, in every draw, also where rejection sampling gives up."""
    for fraction in (0.02, 0.5, 0.7):
        boxes = sample_disjoint_boxes(2000, 100, 100, fraction=fraction, count=4, ratio=RATIO)
        assert (promises.counts(boxes) == 4).all()
        promises.check_areas(boxes, 100, 100, fraction, RATIO)
