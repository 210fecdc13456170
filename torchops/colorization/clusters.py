"""Correction of small clusters of pixels that trade weight with each other only.

Eight-bit pictures have pairs and small groups of equal pixels inside windows that differ by a level
or two. Their weights lie almost wholly within the group, which then drifts as a whole: too slowly
for a smoother, too finely for a coarse grid. Adding a constant to each is what is left to do.
"""

import torch
from torch import Tensor

from torchops.colorization.weights import neighbours

LINK = 0.1  # two pixels are linked if either gives the other more than this share of its row
LARGEST = 64  # pixels of a cluster; larger ones are visible to the coarse grids
ROUNDS = 12


class Clusters:
    """The clusters of a 9-point system (couplings (B, 8, H, W), pull (B, 1, H, W)).

    ``pi`` weighs the rows of a cluster, as in the multigrid restriction.
    """

    def __init__(self, coupling: Tensor, pull: Tensor, pi: Tensor) -> None:
        label = _labels(coupling)
        drain = pull  # what leaves the cluster; no coupling leads out of the image
        for k, near in enumerate(neighbours(label, 1)):
            drain = drain + torch.where(near != label, coupling[:, k, None], 0)
        count = torch.bincount(label.flatten(), minlength=label.numel())
        member = (count[label] >= 2) & _settled(coupling, label) & (count[label] <= LARGEST)
        self.pixels = member.flatten().nonzero()[:, 0]
        _, self.cluster = label.flatten()[self.pixels].unique(return_inverse=True)
        self.count = int(self.cluster.max()) + 1 if self.pixels.numel() else 0
        self.pi = pi.flatten()[self.pixels]
        total = pi.new_zeros(self.count)
        total = total.index_add(0, self.cluster, self.pi * drain.flatten()[self.pixels])
        self.inverse = torch.where(total > 0, 1 / torch.where(total > 0, total, 1), 0)
        self.pi, self.inverse = self.pi, self.inverse

    def __call__(self, residual: Tensor, transposed: bool) -> Tensor:
        """Return the correction of every pixel for a residual (B, P, H, W)."""
        flat = residual.movedim(1, 0).flatten(1)
        picked = flat[:, self.pixels]
        if not transposed:
            picked = picked * self.pi
        totals = picked.new_zeros(len(picked), self.count).index_add(1, self.cluster, picked)
        step = (totals * self.inverse)[:, self.cluster]
        if transposed:
            step = step * self.pi
        result = torch.zeros_like(flat).index_copy(1, self.pixels, step)
        batch, planes, height, width = residual.shape
        return result.reshape(planes, batch, height, width).movedim(0, 1)


def _links(coupling: Tensor) -> list[Tensor]:
    """Say for every neighbour whether both rows give more than ``LINK`` to each other."""
    return [
        (coupling[:, k, None] > LINK) & (near[:, 7 - k, None] > LINK)
        for k, near in enumerate(neighbours(coupling, 1))
    ]


def _labels(coupling: Tensor) -> Tensor:
    """Give every pixel the least index that ``ROUNDS`` rounds carry to it over links."""
    batch, _, height, width = coupling.shape
    count = batch * height * width
    label = torch.arange(count, device=coupling.device).reshape(batch, 1, height, width)
    links = _links(coupling)
    for _ in range(ROUNDS):
        for link, near in zip(links, neighbours(label, 1), strict=True):
            label = torch.where(link, torch.minimum(label, near), label)
        label = label.flatten()[label]  # follow the label of the label: distances double
    return label


def _settled(coupling: Tensor, label: Tensor) -> Tensor:
    """Say which pixels' clusters are complete: no link leads to another label."""
    open_ended = torch.zeros_like(label, dtype=torch.bool)
    for link, near in zip(_links(coupling), neighbours(label, 1), strict=True):
        open_ended = open_ended | (link & (near != label))
    touched = torch.zeros(label.numel(), dtype=torch.int64, device=label.device)
    touched = touched.index_add(0, label.flatten(), open_ended.flatten().long())
    return touched[label] == 0
