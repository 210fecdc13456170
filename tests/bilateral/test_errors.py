"""Bad input: every message of the room, matched. Runs without the shape-checking hook."""

import pytest
import torch

from torchops import BilateralFilter, bilateral_filter, durand_tonemap

pytestmark = pytest.mark.unhooked

IMAGE = torch.rand(2, 3, 8, 9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": 3}, TypeError, r"image must be a torch.Tensor, got 3"),
        ({"image": torch.rand(8, 9)}, ValueError, r"image must be of shape \(\*batch, C, H, W\)"),
        ({"image": IMAGE.int()}, TypeError, r"image must be of dtype .*uint8, got a int32"),
        ({"image": torch.rand(3, 0, 5)}, ValueError, "image must have at least one channel"),
        ({"sigma_space": 0}, ValueError, r"sigma_space must be a finite number > 0.*, got 0"),
        ({"sigma_space": -1.0}, ValueError, r"sigma_space must be a finite number > 0.*, got -1"),
        ({"sigma_space": float("nan")}, ValueError, r"sigma_space must be .*, got nan"),
        ({"sigma_space": "2"}, TypeError, r"sigma_space must be .* number"),
        ({"sigma_space": (1.0, 2.0, 3.0)}, ValueError, "sigma_space must be one value or 2"),
        ({"sigma_space": torch.tensor(2)}, TypeError, "sigma_space must be of dtype float16"),
        (
            {"sigma_space": torch.tensor(torch.inf)},
            ValueError,
            "must be finite where radius is None",
        ),
        ({"sigma_space": torch.rand(5)}, ValueError, "must have batch dimensions that broadcast"),
        ({"sigma_range": float("inf")}, ValueError, r"sigma_range must be .*, got inf"),
        ({"sigma_range": (0.1, 0.2)}, TypeError, r"sigma_range must be .*, got a tuple"),
        ({"radius": -1}, ValueError, "radius must be an integer >= 0, got -1"),
        ({"radius": 1.5}, TypeError, "radius must be an integer >= 0, got 1.5"),
        ({"radius": (1, 2, 3)}, ValueError, "radius must be one value or 2"),
        ({"window": "round"}, ValueError, "window must be one of 'square', 'disc', got 'round'"),
        ({"distance": "l3"}, ValueError, "distance must be one of 'l2', 'l1', got 'l3'"),
        ({"border": "wrap"}, ValueError, "border must be one of 'reflect', .*, got 'wrap'"),
        ({"spatial_dims": 4}, ValueError, "spatial_dims must be one of 1, 2, 3, got 4"),
        ({"method": "magic"}, ValueError, "method must be one of 'exact', 'piecewise', 'grid'"),
        (
            {"guide": torch.rand(2, 1, 8, 8)},
            ValueError,
            r"guide must have the spatial size \(8, 9\)",
        ),
        ({"guide": torch.rand(5, 1, 8, 9)}, ValueError, "image and guide must have batch"),
        ({"mask": torch.ones(2, 3, 8, 9)}, ValueError, r"mask must have 1 channel"),
        ({"mask": torch.ones(1, 4, 9)}, ValueError, r"mask must have the spatial size \(8, 9\)"),
        ({"mask": torch.ones(1, 8, 9, dtype=torch.int32)}, TypeError, "mask must be of dtype"),
        (
            {"method": "grid"},
            ValueError,
            "image, which is its own guide, must have 1 channel.*guide=",
        ),
        (
            {"method": "grid", "guide": IMAGE},
            ValueError,
            'guide must have 1 channel for a fast method, got 3: .* or method="exact"',
        ),
        (
            {"method": "grid", "guide": IMAGE[:, :1], "window": "disc"},
            ValueError,
            "window must be 'square' for method='grid', got 'disc'",
        ),
        (
            {"method": "grid", "guide": IMAGE[:, :1], "border": "circular"},
            ValueError,
            "border must be 'reflect' or 'valid_only' for method='grid', got 'circular'",
        ),
        ({"method": "grid", "spatial_dims": 1}, ValueError, "spatial_dims must be 2 or 3"),
        (
            {"method": "piecewise", "guide": IMAGE[:, :1], "border": "replicate"},
            ValueError,
            "border must be 'reflect' or 'valid_only' for method='piecewise', got 'replicate'",
        ),
        ({"method": "piecewise"}, ValueError, "image, which is its own guide, must have 1 channel"),
        ({"method": "fourier"}, ValueError, "image, which is its own guide, must have 1 channel"),
        (
            {"method": "fourier", "guide": IMAGE[:, :1], "window": "disc"},
            ValueError,
            "window must be 'square' for method='fourier', got 'disc'",
        ),
        ({"tolerance": 0}, ValueError, r"tolerance must be a finite number > 0 and <= 0.5, got 0"),
        ({"tolerance": 0.6}, ValueError, r"tolerance must be .*, got 0.6"),
        ({"tolerance": "low"}, TypeError, "tolerance must be a finite number"),
        ({"method": "fourier", "terms": 0}, ValueError, "terms must be an integer >= 1, got 0"),
        ({"method": "fourier", "terms": 2.5}, TypeError, "terms must be an integer >= 1, got 2.5"),
        ({"method": "grid", "terms": 5}, ValueError, "terms must be None for method='grid', got 5"),
        (
            {"method": "fourier", "guide": IMAGE[:, :1], "sigma_range": 1e-4},
            ValueError,
            "sigma_range must be at least about 1/250 of the guide's range .* got 1/9.* of it",
        ),
    ],
)
def test_bilateral_filter(arguments, error, message):
    defaults = {"image": IMAGE, "sigma_space": 1.0, "sigma_range": 0.1}
    with pytest.raises(error, match=message):
        bilateral_filter(**{**defaults, **arguments})


def test_different_devices():
    meta = torch.empty(1, 8, 9, device="meta")
    for arguments in (
        {"guide": meta},
        {"mask": meta},
        {"sigma_range": torch.tensor(0.1, device="meta")},
    ):
        with pytest.raises(
            ValueError, match=r"image and .* must be on one device, got image on cpu"
        ):
            bilateral_filter(
                **{"image": IMAGE, "sigma_space": 1.0, "sigma_range": 0.1, **arguments}
            )


def test_module():
    with pytest.raises(ValueError, match="window must be one of"):
        BilateralFilter(1.0, 0.1, window="round")
    with pytest.raises(ValueError, match="sigma_range must be"):
        BilateralFilter(1.0, -0.1)
    with pytest.raises(ValueError, match="radius must be an integer >= 0"):
        BilateralFilter(1.0, 0.1, radius=-2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"radiance": torch.rand(1, 8, 9)}, ValueError, r"radiance must have 3 channel\(s\)"),
        ({"radiance": torch.ones(3, 8, 9).byte()}, TypeError, "radiance must be of dtype"),
        ({"contrast": 1}, ValueError, "contrast must be a finite number > 1, got 1"),
        ({"contrast": "5"}, TypeError, "contrast must be a finite number > 1"),
        ({"contrast": torch.tensor(5)}, TypeError, "contrast must be of dtype"),
        ({"eps": 0}, ValueError, "eps must be a finite number > 0, got 0"),
        ({"sigma_space": -1}, ValueError, "sigma_space must be a finite number > 0"),
        ({"sigma_range": 0}, ValueError, "sigma_range must be a finite number > 0"),
        ({"method": "magic"}, ValueError, "method must be one of"),
    ],
)
def test_durand_tonemap(arguments, error, message):
    with pytest.raises(error, match=message):
        durand_tonemap(**{"radiance": torch.rand(3, 8, 9), **arguments})
