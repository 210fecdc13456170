"""Affinities between a pixel and its neighbours: the weights of Levin, Lischinski and Weiss."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from torchops._common.checks import check_choice, check_image, check_integer
from torchops._common.precision import compute_dtype, no_autocast

Weighting = Literal["levin", "gaussian", "correlation"]
WEIGHTINGS = ("levin", "gaussian", "correlation")
# The least range scale, for luma in [0, 1]: sqrt(2e-6) is 0.36 of an 8-bit grey level.
FLOOR = 2e-6
# The released code keeps the raw weight of the most similar neighbour at 0.01 or above.
NEAREST_LOG = -math.log(0.01)


def window_offsets(radius: int) -> list[tuple[int, int]]:
    """Return the (dy, dx) of the neighbours in raster order, without the centre."""
    reach = range(-radius, radius + 1)
    return [(dy, dx) for dy in reach for dx in reach if (dy, dx) != (0, 0)]


def neighbours(field: Tensor, radius: int) -> list[Tensor]:
    """Return, per offset o, the view field(r + o) of the last two axes; outside counts as 0."""
    height, width = field.shape[-2:]
    padded = pad(field, [radius] * 4)
    return [
        padded.narrow(-2, radius + dy, height).narrow(-1, radius + dx, width)
        for dy, dx in window_offsets(radius)
    ]


def to_neighbour(plane: Tensor, offset: tuple[int, int], radius: int) -> Tensor:
    """Move plane(r) to position r + offset, on a canvas ``radius`` wider on every side.

    Summed over the offsets and cropped by ``crop`` this is the transpose of ``neighbours``.
    """
    dy, dx = offset
    return pad(plane, [radius + dx, radius - dx, radius + dy, radius - dy])


def crop(canvas: Tensor, radius: int) -> Tensor:
    """Cut the image out of a canvas of ``to_neighbour``; what left the image is dropped."""
    height, width = (side - 2 * radius for side in canvas.shape[-2:])
    return canvas.narrow(-2, radius, height).narrow(-1, radius, width)


def neighbour_exists(image: Tensor, radius: int) -> Tensor:
    """Return, as booleans (K, H, W), which neighbours lie inside the image."""
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device)[:, None]
    x = torch.arange(width, device=image.device)
    planes = []
    for dy, dx in window_offsets(radius):
        rows = (y + dy >= 0) & (y + dy < height)
        columns = (x + dx >= 0) & (x + dx < width)
        planes.append(rows & columns)
    return torch.stack(planes)


def check_options(radius: object, weighting: object) -> None:
    """Check the two options that every function of this room has."""
    check_integer("radius", radius, minimum=1)
    check_choice("weighting", weighting, WEIGHTINGS)


def levin_weights(
    luma: Float[Tensor, "*batch 1 h w"], *, radius: int = 1, weighting: Weighting = "levin"
) -> Float[Tensor, "*batch k h w"]:
    """Weigh the neighbours of every pixel by how much their luma resembles its own.

    With d_s = Y(s) - Y(r) for the neighbours s of r, and mean and variance taken over the window
    with its centre (the population variance), the three kinds are, before they are scaled to sum
    to 1 over the neighbours::

        "levin"        exp(-d_s^2 / c),  c = max(0.6 variance, min_s d_s^2 / -ln 0.01, 2e-6)
        "gaussian"     exp(-d_s^2 / c),  c = max(2 variance, 2e-6)
        "correlation"  1 + (Y(r) - mean) (Y(s) - mean) / (variance + 2e-6)

    "levin" is what the authors' released code computes, the other two are equations 2 and 3 of the
    paper. 2e-6 is (0.36 / 255)^2: it keeps windows without variance finite (their weights are
    uniform), and in "correlation" also isolated spikes, whose eight raw weights would all be 0.

    Args:
        luma: Brightness of shape (*batch, 1, H, W), in [0, 1] (the constants above are for this
            range), floating.
        radius: The window has 2 radius + 1 pixels a side; in pixels, at least 1. The default is the
            paper's 3 x 3 window.
        weighting: "levin" by default, because equation 2 taken literally leaks 6 % of every row
            across an edge, of whatever height; "correlation" has negative weights.

    Returns:
        Weights (*batch, K, H, W), K = (2 radius + 1)^2 - 1, neighbours in raster order without the
        centre; float32, or float64 for float64 luma. The window is clipped at the border: weights
        of neighbours outside are 0 and the rest sum to 1. A pixel without neighbours (1 x 1 image)
        has only zeros.

    Raises:
        TypeError: If luma is not a floating tensor or radius is not an integer.
        ValueError: If luma does not have one channel, radius < 1, or weighting is unknown.

    Gradients:
        To luma, any order. "levin" and "gaussian" have a kink where the maximum changes its branch;
        at ties of the minimum the first neighbour in raster order receives the gradient.

    References:
        Levin, Lischinski and Weiss, Colorization using optimization, 2004.

    Example:
        >>> import torch
        >>> weights = levin_weights(torch.full((1, 5, 5), 0.5))
        >>> weights.shape, weights[:, 2, 2].tolist() == [1 / 8] * 8
        (torch.Size([8, 5, 5]), True)
    """
    check_image("luma", luma, channels=1)
    check_options(radius, weighting)
    with no_autocast(luma):
        return raw_weights(luma.to(compute_dtype(luma)), radius, weighting)


def raw_weights(luma: Tensor, radius: int, weighting: str) -> Tensor:
    """Compute ``levin_weights`` of a checked float32 or float64 luma."""
    inside = neighbour_exists(luma, radius)
    differences = torch.where(inside, torch.cat(neighbours(luma, radius), -3) - luma, 0)
    count = inside.sum(-3, keepdim=True).to(luma.dtype)
    if weighting == "correlation":
        return _correlation_weights(differences, inside, count)
    squares = differences * differences
    mean = differences.sum(-3, keepdim=True) / (count + 1)
    variance = squares.sum(-3, keepdim=True) / (count + 1) - mean * mean
    if weighting == "levin":
        most = torch.finfo(luma.dtype).max
        nearest = torch.where(inside, squares, most).argmin(-3, keepdim=True)
        scale = torch.maximum(0.6 * variance, squares.gather(-3, nearest) / NEAREST_LOG)
    else:
        scale = 2 * variance
    logits = -squares / scale.clamp(min=FLOOR)
    # A finite stand-in for -inf, so that a pixel without any neighbour is 0 and not 0 / 0.
    logits = torch.where(inside, logits, torch.finfo(luma.dtype).min)
    return torch.where(inside, torch.softmax(logits, -3), 0)


def _correlation_weights(differences: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """Return equation 3, normalised, in a form without cancellation.

    With the mean m and the variance v of the neighbours alone (the centre left out), n of them,
    the raw weights of equation 3 divided by their sum are exactly
    (1 + (Y(r) - m) (Y(s) - m) / (v + e (n + 1) / n)) / n: the weights with which linear regression
    of the chroma on the luma, with a ridge e, predicts the centre from its neighbours.
    """
    count = count.clamp(min=1)  # a 1 x 1 image: no weight, and no 0 / 0
    mean = differences.sum(-3, keepdim=True) / count  # relative to Y(r): m - Y(r)
    deviation = torch.where(inside, differences - mean, 0)
    variance = (deviation * deviation).sum(-3, keepdim=True) / count
    ridge = FLOOR * (count + 1) / count
    return torch.where(inside, 1 - mean * deviation / (variance + ridge), 0) / count
