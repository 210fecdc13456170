import math

import numpy as np
import pytest
import torch
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from torchops import angular_error, endpoint_error

METRICS = [endpoint_error, angular_error]


def constant(u, v):
    return torch.tensor([u, v], dtype=torch.float64)[:, None, None].expand(2, 3, 4)


components = st.floats(-50, 50)


@given(components, components, components, components)
def test_closed_forms(u, v, p, q):
    flow, target = constant(u, v), constant(p, q)
    assert abs(endpoint_error(flow, target).item() - math.hypot(u - p, v - q)) < 1e-9
    cosine = (u * p + v * q + 1) / math.sqrt((u * u + v * v + 1) * (p * p + q * q + 1))
    angle = math.degrees(math.acos(min(cosine, 1)))
    assert abs(angular_error(flow, target).item() - angle) < 1e-5  # acos loses digits near 1


def test_small_angles_are_exact():
    assert abs(angular_error(constant(1e-9, 0), constant(0, 0)).item() - math.degrees(1e-9)) < 1e-20


def test_one_value_per_sample_as_numpy_computes_it():
    flow, target = torch.randn(2, 5, 3, 2, 6, 7)
    expected = np.linalg.norm((flow - target).numpy(), axis=-3).mean((-1, -2))
    error = endpoint_error(flow, target)
    assert error.dtype == torch.float32
    assert_close(error, torch.from_numpy(expected), 1e-6)
    assert endpoint_error(flow, target[0, 0]).shape == (5, 3)
    assert endpoint_error(flow[:0], target[:0]).shape == (0, 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unknown", [float("nan"), 1e10, -1.7e9, float("inf")])
def test_unknown_target_pixels_never_count(metric, unknown):
    flow = torch.randn(2, 4, 5, requires_grad=True)
    target = torch.randn(2, 4, 5)
    target[1, :2] = unknown
    error = metric(flow, target)
    assert_close(error, metric(flow[:, 2:], target[:, 2:]), 1e-5)
    (gradient,) = torch.autograd.grad(error, flow)
    assert gradient.isfinite().all()
    assert not gradient[:, :2].any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_mask(metric, kind):
    flow, target = torch.randn(2, 2, 4, 6)
    flow[:, :, :2] = float("nan")
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    mask[..., :2] = False
    mask = mask if kind == "bool" else 0.5 * mask.float()
    error = metric(flow, target, mask=mask)
    assert_close(error, metric(flow[..., 2:], target[..., 2:]), 1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_no_counting_pixel_gives_nan_with_gradient_zero(metric):
    flow = torch.randn(2, 4, 5, requires_grad=True)
    error = metric(flow, torch.full((2, 4, 5), float("nan")))
    assert error.isnan()
    (gradient,) = torch.autograd.grad(error, flow)
    assert not gradient.any()


@pytest.mark.parametrize("metric", METRICS)
def test_a_flow_of_nan_is_not_hidden(metric):
    flow = torch.zeros(2, 4, 5)
    flow[0, 0, 0] = float("nan")
    assert metric(flow, torch.zeros(2, 4, 5)).isnan()


@pytest.mark.parametrize("metric", METRICS)
def test_the_gradient_is_zero_not_nan_at_equality(metric):
    flow = torch.randn(2, 4, 5, requires_grad=True)
    error = metric(flow, flow.detach().clone())
    assert error == 0
    (gradient,) = torch.autograd.grad(error, flow)
    assert torch.equal(gradient, torch.zeros(2, 4, 5))


@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric):
    flow, target = torch.randn(2, 2, 2, 3, 4, dtype=torch.float64)
    mask = torch.rand(2, 1, 3, 4, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (flow, target, mask)]
    assert gradcheck(lambda f, t, m: metric(f, t, mask=m), arguments)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(metric, dtype, device):
    flow, target = torch.randn(2, 2, 4, 5, device=device).to(dtype)
    with torch.autocast(device.type, torch.bfloat16):
        error = metric(flow, target)
    assert error.dtype == torch.float32
    assert_close(error, metric(flow.double(), target.double()), 1e-5)
