"""What the tests of the room share: the promises, checked on boxes as plain arithmetic."""

import math

import pytest
import torch


class Promises:
    """Checks of drawn boxes (B, K, 4); every method takes what the caller asked for."""

    @staticmethod
    def sizes(boxes):
        return boxes[..., 3] - boxes[..., 1], boxes[..., 2] - boxes[..., 0]

    @classmethod
    def counts(cls, boxes):
        h, w = cls.sizes(boxes)
        return (h * w > 0).sum(-1)

    @classmethod
    def check_shapes(cls, boxes, height, width, count, ratio):
        """Inside, in [low, high] counts, of allowed ratio, disjoint, zero rows last."""
        x0, y0, x1, y1 = boxes.unbind(-1)
        h, w = cls.sizes(boxes)
        used = h * w > 0
        assert ((x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height)).all()
        assert (used | (boxes == 0).all(-1)).all(), "an unused row is not a zero box"
        n = used.sum(-1)
        assert (used == (torch.arange(boxes.shape[1]) < n[:, None])).all()
        assert ((n >= count[0]) & (n <= count[1])).all()
        quotient = h.double() / w.clamp(min=1).double()
        assert (~used | ((quotient >= ratio[0]) & (quotient <= ratio[1]))).all()
        for i in range(boxes.shape[1]):
            for j in range(i):
                dx = torch.minimum(x1[:, i], x1[:, j]) - torch.maximum(x0[:, i], x0[:, j])
                dy = torch.minimum(y1[:, i], y1[:, j]) - torch.maximum(y0[:, i], y0[:, j])
                assert not ((dx > 0) & (dy > 0)).any(), "rectangles overlap"

    @classmethod
    def check_areas(cls, boxes, height, width, fraction, ratio):
        """Exact sums for two or more, and the nearest representable area for one."""
        target = math.floor(fraction * height * width + 0.5)
        h, w = cls.sizes(boxes)
        area, n = (h * w).sum(-1), cls.counts(boxes)
        assert (area[n >= 2] == target).all()
        if (n == 1).any():
            assert (area[n == 1] == nearest(height, width, ratio, target)[0]).all()


def allowed(height, width, ratio):
    """Areas of all rectangles of allowed ratio, by going through every one of them."""
    h = torch.arange(1, height + 1, dtype=torch.float64)[:, None]
    w = torch.arange(1, width + 1, dtype=torch.float64)[None]
    return (h * w)[(h / w >= ratio[0]) & (h / w <= ratio[1])].long().unique()


def nearest(height, width, ratio, target):
    areas = allowed(height, width, ratio)
    distance = (areas - target).abs()
    return areas[distance == distance.min()]


@pytest.fixture(scope="session")
def promises():
    Promises.allowed = staticmethod(allowed)
    Promises.nearest = staticmethod(nearest)
    return Promises
