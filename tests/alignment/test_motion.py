"""Motion groups: matrices, parameters and Jacobians agree with each other and with autograd."""

import pytest
import torch
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from torchops import motion_jacobian, motion_matrix, motion_parameters, warp_points

COUNTS = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}
motions = pytest.mark.parametrize("motion", COUNTS)


def parameters(motion, *batch, seed=0, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    count = COUNTS[motion]
    p = torch.randn(*batch, count, generator=generator, dtype=torch.float64) * size
    if motion == "homography":
        p[..., 6:] *= 0.01
    return p


def points(*batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, 2, generator=generator, dtype=torch.float64) * 20


@motions
def test_zero_is_the_identity(motion):
    assert_close(motion_matrix(torch.zeros(COUNTS[motion]), motion), torch.eye(3), 0)


def test_the_order_of_the_parameters_is_the_documented_one():
    p = torch.arange(1.0, 9.0)
    expected = torch.tensor([[2.0, 3, 5], [2, 5, 6], [7, 8, 1]])
    assert_close(motion_matrix(p, "homography"), expected, 0)
    expected[2, :2] = 0
    assert_close(motion_matrix(p[:6], "affine"), expected, 0)
    expected = torch.tensor([[2.0, -2, 3], [2, 2, 4], [0, 0, 1]])
    assert_close(motion_matrix(p[:4], "similarity"), expected, 0)
    quarter = torch.tensor([torch.pi / 2, 3.0, 4.0], dtype=torch.float64)
    expected = torch.tensor([[0.0, -1, 3], [1, 0, 4], [0, 0, 1]])
    assert_close(motion_matrix(quarter, "euclidean"), expected, 1e-15)


@motions
def test_parameters_come_back_from_the_matrix(motion):
    p = parameters(motion, 3, 4)
    assert_close(motion_parameters(motion_matrix(p, motion), motion), p, 1e-14)


@given(st.floats(-50, 50).filter(lambda scale: abs(scale) > 1e-3))
def test_a_homography_is_known_up_to_scale(scale):
    p = parameters("homography")
    assert_close(motion_parameters(scale * motion_matrix(p, "homography"), "homography"), p, 1e-12)


@motions
def test_the_jacobian_is_autograds(motion):
    p, x = parameters(motion), points(7)
    found = motion_jacobian(x, p, motion)
    expected = torch.func.jacrev(lambda q: warp_points(x, motion_matrix(q, motion)))(p)
    assert_close(found, expected, 1e-12 * expected.abs().max().item())


@motions
def test_the_jacobian_broadcasts(motion):
    p, x = parameters(motion, 5), points(7)
    found = motion_jacobian(x, p, motion)
    assert found.shape == (5, 7, 2, COUNTS[motion])
    for i in range(5):
        assert_close(found[i], motion_jacobian(x, p[i], motion), 0)
    assert motion_jacobian(points(0), p, motion).shape == (5, 0, 2, COUNTS[motion])


@motions
def test_gradients(motion):
    p = parameters(motion, 2).requires_grad_()
    x = points(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: motion_matrix(q, motion), p)
    assert torch.autograd.gradgradcheck(lambda q: motion_matrix(q, motion), p)
    assert torch.autograd.gradcheck(lambda a, q: motion_jacobian(a, q, motion), (x, p))

    def back(q):
        return motion_parameters(motion_matrix(q, motion), motion)

    assert torch.autograd.gradcheck(back, p)


@motions
def test_half_computes_in_float32(motion):
    p = parameters(motion).half()
    assert motion_matrix(p, motion).dtype == torch.float32
    assert_close(motion_matrix(p, motion), motion_matrix(p.float(), motion), 0)


OUTSIDE = {
    "translation": [[1.001, 0, 3], [0, 1, 4], [0, 0, 1]],
    "euclidean": [[1.001, 0, 3], [0, 1.001, 4], [0, 0, 1]],
    "similarity": [[1, 0.001, 3], [0.001, 1, 4], [0, 0, 1]],
    "affine": [[1, 0, 3], [0, 1, 4], [1e-6, 0, 1]],
    "homography": [[1, 0, 3], [0, 1, 4], [1e-6, 0, 0]],
}


@motions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_outside_the_group_raises(motion, dtype):
    matrix = torch.tensor(OUTSIDE[motion], dtype=dtype)
    with pytest.raises(ValueError, match=f"matrix must be a {motion}, got a matrix outside"):
        motion_parameters(torch.stack([torch.eye(3, dtype=dtype), matrix]), motion)
    with pytest.raises(ValueError, match="outside that group"):
        motion_parameters(torch.full((3, 3), torch.nan, dtype=dtype), motion)


@motions
def test_rounding_is_not_outside(motion):
    p = parameters(motion, 100).float()
    matrix = motion_matrix(p, motion)
    assert_close(motion_parameters(matrix, motion), p, 1e-6)
