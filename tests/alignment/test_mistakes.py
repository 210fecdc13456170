"""Each test is named after a mistake of common alignment code that it would catch."""

import pytest
import torch
from helpers import smooth_image

import torchops

SIDE = 60


def hessian_condition(template, points):
    """Condition of the sum of steepest-descent products of a homography, in these coordinates."""
    jacobian = torchops.motion_jacobian(points, torch.zeros(8, dtype=torch.float64), "homography")
    dy, dx = torch.gradient(template[0])
    descent = torch.stack([dx.flatten(), dy.flatten()], -1)[:, None, :] @ jacobian
    return torch.linalg.cond(descent[:, 0].T @ descent[:, 0]).item()


def test_the_hessian_of_raw_pixel_coordinates():
    image = smooth_image(1, SIDE + 30, SIDE + 30, seed=3)
    template = image[:, 15 : 15 + SIDE, 15 : 15 + SIDE]
    y, x = torch.meshgrid(
        torch.arange(SIDE, dtype=torch.float64), torch.arange(SIDE).double(), indexing="ij"
    )
    points = torch.stack([x.flatten(), y.flatten()], -1)
    half = (SIDE - 1) / 2
    assert hessian_condition(template, points) > 1e7  # nothing is left of float32
    assert hessian_condition(template, points + 1000) > 1e14
    assert hessian_condition(template, (points - half) / half) < 1e3

    # The same problem once at the origin and once 1000 pixels away, from the same start.
    found = []
    for offset in (0, 1000):
        wide = torch.zeros(1, SIDE + 30 + offset, SIDE + 30 + offset)
        wide[:, offset:, offset:] = image.float()
        start = torch.eye(3)
        start[:2, 2] = offset + torch.tensor([16.5, 13.5])
        result = torchops.align(template.float(), wide, motion="homography", initial=start)
        assert result.converged
        corners = torch.tensor([[0.0, 0], [SIDE - 1, 0], [0, SIDE - 1], [SIDE - 1, SIDE - 1]])
        found.append(torchops.warp_points(corners.double(), result.matrix.double()) - offset - 15)
        assert (found[-1] - corners).abs().max() < 1e-3
    assert (found[0] - found[1]).abs().max() < 1e-3


@pytest.mark.unhooked
def test_uint8_differences_that_wrap():
    # Integer frames cannot be subtracted by accident: they are refused.
    image = (255 * smooth_image(1, 40, 40)).to(torch.uint8)
    with pytest.raises(TypeError, match="template must be of dtype"):
        torchops.align(image[:, 4:30, 4:30], image, motion="translation")
