"""Wrong arguments; without the shape-checking hook, which would speak first."""

import pytest
import torch

from torchops import (
    LucasKanade,
    angular_error,
    endpoint_error,
    lucas_kanade,
    warp_by_flow,
    write_flo,
)

pytestmark = pytest.mark.unhooked

FRAME = torch.rand(3, 8, 9)
FLOW = torch.rand(2, 8, 9)

FLOW_CASES = {
    "not a tensor": (([[1]], FRAME), {}, TypeError, "reference must be a torch.Tensor, got a list"),
    "rank": ((FRAME[0], FRAME), {}, ValueError, r"reference must be of shape \(\*batch, C, H, W\)"),
    "integers": ((FRAME.int(), FRAME), {}, TypeError, "reference must be of dtype .*uint8"),
    "moving": ((FRAME, FRAME.long()), {}, TypeError, "moving must be of dtype"),
    "mixed units": ((FRAME, (255 * FRAME).byte()), {}, TypeError, "both uint8 or both floating"),
    "sizes": ((FRAME, FRAME[:, 1:]), {}, ValueError, "moving must have the channels and size"),
    "channels": ((FRAME, FRAME[:1]), {}, ValueError, "moving must have the channels and size"),
    "no pixels": ((FRAME[:, :0], FRAME[:, :0]), {}, ValueError, "at least one channel and pixel"),
    "batches": (
        (FRAME.expand(2, 3, 8, 9), FRAME.expand(3, 3, 8, 9)),
        {},
        ValueError,
        r"reference and moving must have batch dimensions that broadcast, got reference \(2,\)",
    ),
    "initial": ((FRAME, FRAME), {"initial": FRAME}, ValueError, r"initial must have 2 channel"),
    "initial size": ((FRAME, FRAME), {"initial": FLOW[:, 1:]}, ValueError, "initial must have the"),
    "initial dtype": ((FRAME, FRAME), {"initial": FLOW.int()}, TypeError, "initial must be of"),
    "mask": ((FRAME, FRAME), {"mask": FLOW}, ValueError, r"mask must have 1 channel"),
    "mask dtype": ((FRAME, FRAME), {"mask": FLOW[:1].byte()}, TypeError, "mask must be of dtype"),
    "device": (
        (FRAME, FRAME.to("meta")),
        {},
        ValueError,
        "reference and moving must be on one device, got reference on cpu, moving on meta",
    ),
}
OPTION_CASES = {
    "sigma 0": ({"sigma": 0}, ValueError, "sigma must be a finite number > 0, got 0"),
    "sigma NaN": ({"sigma": float("nan")}, ValueError, "sigma must be .*, got nan"),
    "sigma text": ({"sigma": "6"}, TypeError, "sigma must be .*, got '6'"),
    "levels": ({"levels": 0}, ValueError, "levels must be an integer >= 1, got 0"),
    "levels float": ({"levels": 2.0}, TypeError, "levels must be an integer >= 1, got 2.0"),
    "warps": ({"warps": -1}, ValueError, "warps must be an integer >= 1, got -1"),
    "gradient": ({"gradient": "implicit"}, ValueError, "gradient must be one of 'unroll', 'last'"),
}


@pytest.mark.parametrize("name", FLOW_CASES)
def test_lucas_kanade(name):
    arguments, options, kind, message = FLOW_CASES[name]
    with pytest.raises(kind, match=message):
        lucas_kanade(*arguments, **options)


@pytest.mark.parametrize("name", OPTION_CASES)
def test_options(name):
    options, kind, message = OPTION_CASES[name]
    with pytest.raises(kind, match=message):
        lucas_kanade(FRAME, FRAME, **options)
    with pytest.raises(kind, match=message):
        LucasKanade(**options)


WARP_CASES = {
    "image": ((FLOW[0], FLOW), {}, ValueError, "image must be of shape"),
    "image dtype": ((FRAME.byte(), FLOW), {}, TypeError, "image must be of dtype"),
    "flow": ((FRAME, FRAME), {}, ValueError, "flow must have 2 channel"),
    "mode": ((FRAME, FLOW), {"mode": "spline"}, ValueError, "mode must be one of 'bilinear'"),
    "border": ((FRAME, FLOW), {"border": "wrap"}, ValueError, "border must be one of 'zeros'"),
    "batches": (
        (FRAME.expand(2, 3, 8, 9), FLOW.expand(3, 2, 8, 9)),
        {},
        ValueError,
        "image and flow must have batch",
    ),
    "device": ((FRAME, FLOW.to("meta")), {}, ValueError, "image and flow must be on one device"),
}


@pytest.mark.parametrize("name", WARP_CASES)
def test_warp_by_flow(name):
    arguments, options, kind, message = WARP_CASES[name]
    with pytest.raises(kind, match=message):
        warp_by_flow(*arguments, **options)


METRIC_CASES = {
    "flow": ((FRAME, FLOW), {}, ValueError, "flow must have 2 channel"),
    "target": ((FLOW, FLOW[0]), {}, ValueError, "target must be of shape"),
    "sizes": ((FLOW, FLOW[:, 1:]), {}, ValueError, "target must have the height and width of flow"),
    "mask": ((FLOW, FLOW), {"mask": FLOW}, ValueError, "mask must have 1 channel"),
    "mask size": (
        (FLOW, FLOW),
        {"mask": torch.ones(1, 3, 3)},
        ValueError,
        "mask must have the height and width of flow",
    ),
    "device": ((FLOW, FLOW.to("meta")), {}, ValueError, "flow and target must be on one device"),
}


@pytest.mark.parametrize("metric", [endpoint_error, angular_error])
@pytest.mark.parametrize("name", METRIC_CASES)
def test_metrics(metric, name):
    arguments, options, kind, message = METRIC_CASES[name]
    with pytest.raises(kind, match=message):
        metric(*arguments, **options)


@pytest.mark.parametrize(
    ("flow", "kind", "message"),
    [
        (FRAME, ValueError, "flow must have 2 channel"),
        (FLOW[None], ValueError, r"flow must be of shape \(2, H, W\)"),
        (FLOW.int(), TypeError, "flow must be of dtype"),
    ],
)
def test_write_flo(tmp_path, flow, kind, message):
    with pytest.raises(kind, match=message):
        write_flo(tmp_path / "motion.flo", flow)
    assert not list(tmp_path.iterdir())
