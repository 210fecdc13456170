"""A template whose place in a photograph is known, so that an alignment can be judged."""

import torch
from torch import Tensor

import torchops
from torchops.cli.align.overlay import red_cyan
from torchops.cli.demo.sheet import Sheet

NOISE = 2 / 255


def overlay(template: Tensor, image: Tensor, matrix: Tensor) -> Tensor:
    """Show how well the image, seen through the matrix, matches the template."""
    height, width = template.shape[-2:]
    seen = torchops.warp_image(image, matrix, (height, width))  # seen(x) = image(W x)
    return red_cyan(template, seen)


class Scene:
    """A template cut out of a photograph by a known matrix, and the corners it should find."""

    def __init__(self, sheet: Sheet):
        side = sheet.scaled(128, 48)
        self.image = sheet.photograph("astronaut").mean(0, keepdim=True)
        self.matrix = _true_matrix(side).to(self.image)
        clean = torchops.warp_image(self.image, self.matrix, (side, side), mode="bicubic")
        noise = torch.randn(clean.shape, generator=sheet.generator()).to(sheet.device)
        self.template = clean + NOISE * noise
        last = side - 1
        corners = torch.tensor([[0, 0], [last, 0], [last, last], [0, last]])
        self.corners = corners.to(self.image)
        self.goal = torchops.warp_points(self.corners, self.matrix)

    def guess(self, shift: Tensor) -> Tensor:
        """Return the upright square of template size about the goal, moved by ``shift`` (*, 2)."""
        centre = self.goal.mean(0) - self.corners.mean(0) + shift.to(self.goal)
        parameters = torch.zeros(*shift.shape[:-1], 8).to(self.goal)
        parameters[..., 4:6] = centre
        return torchops.motion_matrix(parameters, "homography")

    def error(self, matrix: Tensor) -> Tensor:
        """Return the mean distance of the four corners from where they should be, in pixels."""
        return (torchops.warp_points(self.corners, matrix) - self.goal).norm(dim=-1).mean(-1)


def _true_matrix(side: int) -> Tensor:
    """Place the template over face and collar: turned, larger, in perspective."""
    parameters = torch.tensor([0.06, 0.10, -0.08, 0.10, 160.0, 60.0, 4e-4, -2e-4])
    parameters[6:] *= 128 / side  # the same perspective across a template of another size
    return torchops.motion_matrix(parameters, "homography")
