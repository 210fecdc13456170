"""Many aligned frames as one picture, and the region that all of them show."""

import torch
from torch import Tensor

_ROWS = 64  # that are sorted at a time


class Stack:
    """The mean or the median of frames, at each pixel of those that show it."""

    def __init__(self, mode: str):
        self.mode = mode
        self.count = 0
        self._frames: list[tuple[Tensor, Tensor]] = []
        self._sum: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    def add(self, frame: Tensor, seen: Tensor) -> None:
        """Add a frame (1 or 3, H, W); boolean ``seen`` (1, H, W) says which pixels it shows."""
        self.count += 1
        if self.mode == "median":
            self._frames.append((frame.cpu(), seen.cpu()))
            return
        self._sum = self._sum + torch.where(seen, frame.double(), 0)
        self._weight = self._weight + seen.double()

    def picture(self) -> Tensor:
        """Return the stacked frames, black where none shows anything."""
        if self.mode == "mean":
            assert isinstance(self._sum, Tensor)
            assert isinstance(self._weight, Tensor)
            return self._sum / self._weight.clamp(min=1)
        channels = max(len(frame) for frame, _ in self._frames)  # gray ones beside colour
        height = self._frames[0][0].shape[-2]
        strips = []
        for top in range(0, height, _ROWS):
            rows = slice(top, top + _ROWS)
            values = [
                torch.where(seen[:, rows], frame[:, rows], torch.nan).expand(channels, -1, -1)
                for frame, seen in self._frames
            ]
            strips.append(_median(torch.stack(values)))
        return torch.cat(strips, dim=-2)


def _median(values: Tensor) -> Tensor:
    """Return the median over the first dimension without the NaNs, 0 if there is nothing else."""
    ordered = values.sort(dim=0).values  # NaN come last
    count = values.isfinite().sum(0, keepdim=True)
    middle = [ordered.gather(0, index.clamp(min=0)) for index in ((count - 1) // 2, count // 2)]
    # An even number has two middles. Of none, both are NaN.
    upper = torch.where(count > 0, middle[1], 0)
    return torch.where(count > 0, (middle[0] + upper) / 2, 0)[0]


def common_rectangle(seen: Tensor) -> tuple[int, int, int, int]:
    """Return half-open (x0, y0, x1, y1) inside the True pixels of (H, W).

    Takes the row or column at a side away that has the largest part outside, until nothing is.
    What cameras see of each other's view is convex, and little of it is lost by that.

    Raises:
        ValueError: if nothing is left.
    """
    outside = (~seen).cpu().numpy()
    y1, x1 = outside.shape
    x0 = y0 = 0
    while x0 < x1 and y0 < y1:
        inner = outside[y0:y1, x0:x1]
        sides = [inner[:, 0].mean(), inner[0].mean(), inner[:, -1].mean(), inner[-1].mean()]
        worst = max(sides)
        if worst == 0:
            return x0, y0, x1, y1
        side = sides.index(worst)
        x0, y0, x1, y1 = x0 + (side == 0), y0 + (side == 1), x1 - (side == 2), y1 - (side == 3)
    raise ValueError("there is no region that all frames show: leave --crop out")
