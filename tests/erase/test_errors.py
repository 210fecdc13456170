"""Bad input is named: each message says which argument, what it must be, and what came."""

import math

import numpy as np
import pytest
import torch

from torchops import boxes_to_mask, erase_boxes, sample_disjoint_boxes

pytestmark = pytest.mark.unhooked

GOOD = {"fraction": 0.3, "count": (1, 4), "ratio": (0.3, 3.3)}
IMAGE = torch.zeros(3, 8, 8)
BOXES = torch.tensor([[0, 0, 2, 2]])


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("fraction", 0, ValueError, r"fraction must be a finite number > 0 and <= 1, got 0"),
        ("fraction", 1.1, ValueError, r"fraction must be .* got 1.1"),
        ("fraction", math.nan, ValueError, r"fraction must be .* got nan"),
        ("fraction", "0.3", TypeError, r"fraction must be .* got '0.3'"),
        ("fraction", (0.3,), ValueError, r"fraction must be a range \(low, high\), got 1 values"),
        ("fraction", (0.5, 0.2), ValueError, r"fraction must be .* low <= high, got \(0.5, 0.2\)"),
        ("fraction", (-0.1, 0.2), ValueError, r"fraction\[0\] must be .* got -0.1"),
        ("fraction", (0.1, math.inf), ValueError, r"fraction\[1\] must be .* got inf"),
        ("fraction", torch.tensor(0.3), TypeError, r"fraction must be .* got a float32 tensor"),
        ("count", 0, ValueError, r"count must be an integer >= 1, got 0"),
        ("count", 2.0, TypeError, r"count must be an integer >= 1, got 2.0"),
        ("count", True, TypeError, r"count must be an integer >= 1, got True"),
        ("count", (3, 2), ValueError, r"count must be .* low <= high, got \(3, 2\)"),
        ("count", (0, 2), ValueError, r"count\[0\] must be an integer >= 1, got 0"),
        ("count", (1, 2, 3), ValueError, r"count must be a range \(low, high\), got 3 values"),
        ("ratio", 1.0, TypeError, r"ratio must be a range \(low, high\), got 1.0"),
        ("ratio", (0, 1), ValueError, r"ratio\[0\] must be a finite number > 0, got 0"),
        ("ratio", (2, 1), ValueError, r"ratio must be .* low <= high, got \(2, 1\)"),
        ("ratio", (1, math.inf), ValueError, r"ratio\[1\] must be a finite number > 0, got inf"),
        ("generator", 3, TypeError, r"generator must be a torch.Generator or None, got 3"),
    ],
)
def test_sampling_options(option, value, error, message):
    with pytest.raises(error, match=message):
        sample_disjoint_boxes(2, 32, 32, **{**GOOD, option: value})
    with pytest.raises(error, match=message):  # also where nothing is drawn
        sample_disjoint_boxes(0, 32, 32, **{**GOOD, option: value})


def test_sampling_sizes():
    with pytest.raises(ValueError, match=r"batch_size must be an integer >= 0, got -1"):
        sample_disjoint_boxes(-1, 32, 32, **GOOD)
    with pytest.raises(TypeError, match=r"height must be an integer >= 1, got 3.5"):
        sample_disjoint_boxes(1, 3.5, 32, **GOOD)
    with pytest.raises(ValueError, match=r"width must be an integer >= 1, got 0"):
        sample_disjoint_boxes(1, 32, 0, **GOOD)
    with pytest.raises(ValueError, match=r"width must be at most 32767, got 40000"):
        sample_disjoint_boxes(1, 32, 40_000, **GOOD)


@pytest.mark.parametrize("batch", [1, 2])
def test_impossible_requests_name_size_fraction_and_cure(batch):
    with pytest.raises(
        ValueError,
        match=r"fraction must be what 3 disjoint rectangle\(s\).*\(0.9, 1.1\).*size 100 x 100, "
        r"got 0.99: no layout has 9900 pixels; choose another fraction .* ratio or another count",
    ):
        sample_disjoint_boxes(batch, 100, 100, fraction=0.99, count=3, ratio=(0.9, 1.1))
    with pytest.raises(ValueError, match=r"what 2 to 4 .* 4 x 4, got \(0.02, 0.33\): .* 0 to 1 "):
        sample_disjoint_boxes(batch, 4, 4, fraction=(0.02, 0.33), count=(2, 4), ratio=(0.3, 3.3))
    with pytest.raises(ValueError, match=r"no layout has"):  # no rectangle of this ratio at all
        sample_disjoint_boxes(batch, 3, 3, fraction=0.5, count=1, ratio=(5, 6))


def test_an_impossible_end_of_the_range_raises_at_once():
    """Not in the draw that happens to need it."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with pytest.raises(ValueError, match=r"fraction must be"):
            sample_disjoint_boxes(
                1, 100, 100, fraction=(0.1, 1.0), count=3, ratio=(0.5, 2), generator=generator
            )


@pytest.mark.parametrize(
    ("image", "boxes", "error", "message"),
    [
        ([1], BOXES, TypeError, r"image must be a torch.Tensor, got a list"),
        (torch.zeros(8, 8), BOXES, ValueError, r"image must be of shape \(\*batch, C, H, W\), got"),
        (torch.zeros(3, 0, 8), BOXES, ValueError, r"image must have at least one channel"),
        (IMAGE.to(torch.complex64), BOXES, TypeError, r"image must be of dtype .* got a complex64"),
        (IMAGE, [[0, 0, 1, 1]], TypeError, r"boxes must be a torch.Tensor, got a list"),
        (IMAGE, BOXES.double(), TypeError, r"boxes must be of dtype int64.* got a float64 tensor"),
        (IMAGE, BOXES[0], ValueError, r"boxes must be of shape \(\*batch, N, 4\), got"),
        (IMAGE, BOXES[:, :3], ValueError, r"boxes must be of shape \(\*batch, N, 4\), got"),
        (
            IMAGE.expand(2, 3, 8, 8),
            BOXES.expand(3, 1, 4),
            ValueError,
            r"image and boxes must have batch dimensions that broadcast, got image \(2,\)",
        ),
    ],
)
def test_erase_arguments(image, boxes, error, message):
    with pytest.raises(error, match=message):
        erase_boxes(image, boxes)


@pytest.mark.parametrize(
    ("dtype", "value", "error", "message"),
    [
        (torch.uint8, 0.5, ValueError, r"value must be a whole number from 0 to 255, as uint8"),
        (torch.uint8, 256, ValueError, r"value must be .* uint8 holds, got 256"),
        (torch.uint8, -1, ValueError, r"value must be .* uint8 holds, got -1"),
        (torch.uint8, math.nan, ValueError, r"value must be .* uint8 holds, got nan"),
        (torch.int8, [0, 0, 200], ValueError, r"value must be .* from -128 to 127, .* got 200"),
        (torch.uint16, 70_000, ValueError, r"value must be .* uint16 holds, got 70000"),
        (torch.bool, 2, ValueError, r"value must be a whole number from 0 to 1, as bool holds"),
        (torch.float16, 1e6, ValueError, r"value must be a number that float16 holds, got 1000000"),
        (torch.float32, 1e39, ValueError, r"value must be a number that float32 holds, got 1e\+39"),
        (torch.float32, [1, 2], ValueError, r"value must hold one number per channel, got 2 for"),
        (torch.float32, [1, 2, "3"], TypeError, r"value must be made of numbers, got '3'"),
        (
            torch.float32,
            "noise",
            ValueError,
            r"value must be one of 'random', 'color', got",
        ),
        (torch.float32, None, TypeError, r"value must be a number, a sequence .* got None"),
        (torch.float32, torch.zeros(3), TypeError, r"value must be a number, .* got a float32"),
        (torch.float32, np.zeros(3), TypeError, r"value must be a number, .* got a ndarray"),
    ],
)
def test_fill_values(dtype, value, error, message):
    with pytest.raises(error, match=message):
        erase_boxes(IMAGE.to(dtype), BOXES, value=value)


def test_other_erase_options():
    with pytest.raises(TypeError, match=r"inplace must be True or False, got 1"):
        erase_boxes(IMAGE, BOXES, inplace=1)
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator or None, got 1"):
        erase_boxes(IMAGE, BOXES, value="random", generator=1)
    with pytest.raises(ValueError, match=r"boxes must have batch dimensions .* when inplace"):
        erase_boxes(IMAGE, BOXES.expand(2, 1, 4), inplace=True)


def test_devices_must_agree():
    meta = BOXES.to("meta")
    with pytest.raises(ValueError, match=r"image and boxes must be on one device"):
        erase_boxes(IMAGE, meta)
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"generator must be on the device of the image"):
            erase_boxes(IMAGE, BOXES, value="random", generator=torch.Generator("cuda"))


def test_mask_arguments():
    with pytest.raises(TypeError, match=r"boxes must be of dtype"):
        boxes_to_mask(BOXES.float(), 4, 4)
    with pytest.raises(ValueError, match=r"boxes must be of shape"):
        boxes_to_mask(BOXES[0], 4, 4)
    with pytest.raises(ValueError, match=r"height must be an integer >= 1, got 0"):
        boxes_to_mask(BOXES, 0, 4)


def test_a_generator_does_not_compile():
    """It is an argument of the draw that a graph cannot hold."""
    generator = torch.Generator().manual_seed(0)
    compiled = torch.compile(
        lambda: sample_disjoint_boxes(2, 32, 32, generator=generator, **GOOD),
        fullgraph=True,
        backend="eager",
    )
    with pytest.raises(Exception, match=r"[Gg]enerator"):
        compiled()
