"""A black-box multigrid cycle for the square system: the preconditioner of its solver.

Every level is a 9-point system in the form of the fine one: couplings o >= 0 to the eight
neighbours and a pull e >= 0 towards known values, rows scaled to e + sum o = 1. Coarse pixels are
the even ones. Interpolation follows the couplings (Alcouffe, Brandt, Dendy and Painter), so it does
not cross edges. The matrix is far from symmetric, so restriction is not the transpose of
interpolation but is built in the same way from the transposed matrix (Dendy), after its rows have
been scaled by an approximate stationary vector pi of the walk, which makes its columns sum to
nearly zero too.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchops.colorization.clusters import Clusters
from torchops.colorization.system import System
from torchops.colorization.weights import neighbours, window_offsets

OFFSETS = window_offsets(1)
COARSEST = 16  # longest side of the level that is inverted directly
JACOBI = (0.6, 1.4)  # two damped Jacobi steps: together they damp [0.5, 2] to 0.2 at most
PI_SWEEPS = 4


class Level(NamedTuple):
    """One grid and its bridge to the next coarser one.

    Attributes:
        coupling: o, (B, 8, H, W).
        scale: Factor by which the rows of this level were multiplied, (B, 1, H, W).
        interpolation: Weights of ``interpolate``, (B, 9, h, w).
        restriction: Weights of its transpose as used for residuals, (B, 9, h, w).
    """

    coupling: Tensor
    scale: Tensor
    interpolation: Tensor
    restriction: Tensor


class Multigrid:
    """An approximate inverse of a :class:`System` and of its transpose.

    In the precision of the system, float64: hints that are far away leave a matrix so close to
    singular that float32 differences of the walk, which takes 1e5 steps and more, are noise.
    """

    def __init__(self, system: System) -> None:
        coupling, pull, scale = _finest(system)
        self.clusters = Clusters(coupling, pull, _stationary(coupling))
        self.levels: list[Level] = []
        while max(coupling.shape[-2:]) > COARSEST:
            level, coarse = _coarsen(coupling, pull, scale)
            self.levels.append(level)
            coupling, pull, scale = coarse
        self.scale = scale
        self.inverse = _invert(coupling, pull)

    def __call__(self, residual: Tensor, transposed: bool = False) -> Tensor:
        """Apply the cycle to a residual (B, P, H, W)."""
        if not self.levels:
            if transposed:
                return self._solve_coarsest(residual, True) * self.scale
            return self._solve_coarsest(residual * self.scale, False)
        coupling, scale = self.levels[0].coupling, self.levels[0].scale
        if transposed:
            x = self.clusters(residual, True)
            x = x + self._cycle(0, _residual(coupling, x, residual, True), True, True)
            return x * scale
        rhs = residual * scale
        x = self._cycle(0, rhs, True, False)
        return x + self.clusters(_residual(coupling, x, rhs, False), False)

    def _cycle(self, depth: int, rhs: Tensor, full: bool, transposed: bool) -> Tensor:
        """Solve a level roughly: smooth, correct from the coarser level, smooth.

        An F cycle (``full``) visits the coarser level twice, once by an F and once by a V cycle.
        """
        if depth == len(self.levels):
            return self._solve_coarsest(rhs, transposed)
        level = self.levels[depth]
        coarser = self.levels[depth + 1] if depth + 1 < len(self.levels) else None
        scale = self.scale if coarser is None else coarser.scale
        x = JACOBI[0] * rhs
        x = x + JACOBI[1] * _residual(level.coupling, x, rhs, transposed)
        residual = _residual(level.coupling, x, rhs, transposed)
        down, up = level.restriction, level.interpolation
        if transposed:
            down, up = up, down
        coarse_rhs = restrict(down, residual)
        if not transposed:
            coarse_rhs = coarse_rhs * scale
        y = self._cycle(depth + 1, coarse_rhs, full and not transposed, transposed)
        if full and coarser is not None:
            rest = _residual(coarser.coupling, y, coarse_rhs, transposed)
            y = y + self._cycle(depth + 1, rest, transposed, transposed)
        if transposed:
            y = y * scale
        x = x + interpolate(up, y)[..., : rhs.shape[-2], : rhs.shape[-1]]
        for step in JACOBI:
            x = x + step * _residual(level.coupling, x, rhs, transposed)
        return x

    def _solve_coarsest(self, rhs: Tensor, transposed: bool) -> Tensor:
        inverse = self.inverse.mT if transposed else self.inverse
        return (inverse @ rhs.flatten(2).mT).mT.reshape(rhs.shape)


def _residual(coupling: Tensor, x: Tensor, rhs: Tensor, transposed: bool) -> Tensor:
    """Return rhs - A x (or A^T x) of a level, whose diagonal is 1."""
    result = rhs - x
    if not transposed:
        for k, neighbour in enumerate(neighbours(x, 1)):
            result.addcmul_(coupling[:, k, None], neighbour)
        return result
    return result + arrivals(coupling, x)


def arrivals(coupling: Tensor, x: Tensor) -> Tensor:
    """Return O^T x: what all neighbours send to a pixel; x is (B, P, H, W)."""
    padded_x, padded_o = pad(x, [1] * 4), pad(coupling, [1] * 4)
    height, width = x.shape[-2:]
    result = torch.zeros_like(x)
    for k, (dy, dx) in enumerate(OFFSETS):
        o = padded_o[:, k, None, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        result.addcmul_(o, padded_x[..., 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width])
    return result


def interpolate(weights: Tensor, coarse: Tensor) -> Tensor:
    """Carry (B, P, h, w) to the fine grid (B, P, 2h, 2w).

    The nine weights of a coarse pixel belong to the block of fine pixels to its lower right: its
    own; left and right neighbour of the fine pixel beside it; upper and lower of the one below; and
    the four corners, in raster order, of the diagonal one.
    """
    height, width = coarse.shape[-2:]
    wide = pad(coarse, [0, 1, 0, 1])
    right, below, diagonal = wide[..., :-1, 1:], wide[..., 1:, :-1], wide[..., 1:, 1:]
    w = weights[:, :, None].unbind(1)
    fine = coarse.new_empty(*coarse.shape[:-2], height, 2, width, 2)
    fine[..., 0, :, 0] = w[0] * coarse
    fine[..., 0, :, 1] = w[1] * coarse + w[2] * right
    fine[..., 1, :, 0] = w[3] * coarse + w[4] * below
    fine[..., 1, :, 1] = w[5] * coarse + w[6] * right + w[7] * below + w[8] * diagonal
    return fine.reshape(*coarse.shape[:-2], 2 * height, 2 * width)


def restrict(weights: Tensor, fine: Tensor) -> Tensor:
    """Apply the transpose of ``interpolate`` to (B, P, H, W)."""
    fine = pad(fine, [0, fine.shape[-1] % 2, 0, fine.shape[-2] % 2])
    height, width = fine.shape[-2] // 2, fine.shape[-1] // 2
    blocks = fine.reshape(*fine.shape[:-2], height, 2, width, 2)
    own, beside = blocks[..., 0, :, 0], blocks[..., 0, :, 1]
    below, diagonal = blocks[..., 1, :, 0], blocks[..., 1, :, 1]
    w = weights[:, :, None].unbind(1)
    coarse = w[0] * own + w[1] * beside + w[3] * below + w[5] * diagonal
    coarse[..., :, 1:] += (w[2] * beside + w[6] * diagonal)[..., :, :-1]
    coarse[..., 1:, :] += (w[4] * below + w[7] * diagonal)[..., :-1, :]
    coarse[..., 1:, 1:] += (w[8] * diagonal)[..., :-1, :-1]
    return coarse


def _finest(system: System) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the system to 9-point form without the fixed pixels: couplings, pull and row scale.

    Couplings to fixed pixels become pull. Couplings of a window wider than 3 x 3 go to the
    neighbour in the same direction, times their distance squared, which keeps the diffusion.
    """
    lumped = [torch.zeros_like(system.pull) for _ in OFFSETS]
    for k, (dy, dx) in enumerate(window_offsets(system.radius)):
        reach = max(abs(dy), abs(dx))
        unit = OFFSETS.index((_toward(dy, reach), _toward(dx, reach)))
        lumped[unit] = lumped[unit] + reach**2 * system.coupling[:, k, None]
    couplings, pull = [], system.pull
    fixed = system.fixed.to(pull.dtype)
    for coupling, at_fixed in zip(lumped, neighbours(fixed, 1), strict=True):
        pull = pull + coupling * at_fixed
        couplings.append(coupling * (1 - at_fixed))
    coupling = torch.cat(couplings, 1)
    scale = 1 / (pull + coupling.sum(1, keepdim=True)).clamp(min=1e-300)
    # A fixed pixel is solved before the first iteration: the cycle leaves it alone.
    scale = torch.where(system.fixed, 0, scale)
    return coupling * scale, pull * scale, scale


def _toward(step: int, reach: int) -> int:
    return round(step / reach)


def _coarsen(
    coupling: Tensor, pull: Tensor, scale: Tensor
) -> tuple[Level, tuple[Tensor, Tensor, Tensor]]:
    """Build the bridge to the coarser level, and that level's couplings, pull and row scale."""
    pi = _stationary(coupling)
    weights = _interpolation(coupling, pull)
    # Row r of the transpose of diag(pi) A: coupling pi(s) o(s -> r), and what is left as its pull.
    reverse = [n[:, 7 - k, None] for k, n in enumerate(neighbours(coupling * pi, 1))]
    back = torch.cat(reverse, 1)
    left = (pi * (pull + coupling.sum(1, keepdim=True)) - back.sum(1, keepdim=True)).clamp(min=0)
    restriction = _interpolation(back, left) * _blocks(pi)
    level = Level(coupling, scale, weights, restriction)
    return level, _coarse_system(level, pull)


def _stationary(coupling: Tensor) -> Tensor:
    """Return roughly how often a walk along the couplings is found at each pixel."""
    pi = torch.ones_like(coupling[:, :1])
    for _ in range(PI_SWEEPS):
        pi = (0.3 * pi + 0.7 * arrivals(coupling, pi)).clamp(min=1e-12)
    return pi


def _blocks(plane: Tensor) -> Tensor:
    """Lay a fine plane out as the fine pixels that the nine interpolation weights belong to."""
    plane = pad(plane, [0, plane.shape[-1] % 2, 0, plane.shape[-2] % 2])
    own, beside = plane[..., ::2, ::2], plane[..., ::2, 1::2]
    below, diagonal = plane[..., 1::2, ::2], plane[..., 1::2, 1::2]
    return torch.cat([own, beside, beside, below, below, *[diagonal] * 4], 1)


def _interpolation(coupling: Tensor, pull: Tensor) -> Tensor:
    """Return the weights of ``interpolate`` that follow the couplings; rows sum to at most 1."""
    height, width = pull.shape[-2:]
    edges = [0, width % 2, 0, height % 2]
    o, e = pad(coupling, edges), pad(pull, edges)
    nw, n, ne, w, east, sw, s, se = (plane[:, None] for plane in o.unbind(1))
    left, right, up, down = nw + w + sw, ne + east + se, nw + n + ne, sw + s + se
    # The fine pixel beside a coarse one, and the one below it.
    across, along = left + right + e, up + down + e
    left, right = (_safe(part, across) for part in (left, right))
    up, down = (_safe(part, along) for part in (up, down))
    own = (o.sum(1, keepdim=True) > 0).to(o.dtype)[..., ::2, ::2]
    l01, r01 = left[..., ::2, 1::2], right[..., ::2, 1::2]
    u10, d10 = up[..., 1::2, ::2], down[..., 1::2, ::2]
    # The diagonal pixel: its row, with the four edge neighbours replaced by their own weights.
    total = o.sum(1, keepdim=True) + e
    parts = [_safe(part, total)[..., 1::2, 1::2] for part in (nw, n, ne, w, east, sw, s, se)]
    nw, n, ne, w, east, sw, s, se = parts
    left_below, right_below = pad(l01, [0, 0, 0, 1])[..., 1:, :], pad(r01, [0, 0, 0, 1])[..., 1:, :]
    up_right, down_right = pad(u10, [0, 1])[..., 1:], pad(d10, [0, 1])[..., 1:]
    corners = [
        nw + n * l01 + w * u10,
        ne + n * r01 + east * up_right,
        sw + s * left_below + w * d10,
        se + s * right_below + east * down_right,
    ]
    return torch.cat([own, l01, r01, u10, d10, *corners], 1)


def _safe(part: Tensor, total: Tensor) -> Tensor:
    return part / torch.where(total > 0, total, 1)


def _coarse_system(level: Level, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the couplings, pull and row scale of restriction * A * interpolation.

    Its stencil is 3 x 3, so nine combs (coarse pixels equal modulo 3) show all its entries.
    """
    height, width = pull.shape[-2:]
    h, w = level.interpolation.shape[-2:]
    y, x = torch.arange(h, device=pull.device)[:, None], torch.arange(w, device=pull.device)
    comb = (y % 3) * 3 + x % 3
    combs = (comb == torch.arange(9, device=pull.device)[:, None, None]).to(pull.dtype)
    both = torch.cat([combs, torch.ones_like(combs[:1])]).expand(len(pull), 10, h, w)

    def product(field: Tensor) -> Tensor:
        fine = interpolate(level.interpolation, field)[..., :height, :width]
        result = pull * fine
        for k, neighbour in enumerate(neighbours(fine, 1)):
            result = result + level.coupling[:, k, None] * (fine - neighbour)
        return restrict(level.restriction, result)

    image = product(both)
    planes = []
    for dy, dx in OFFSETS:
        seen = ((y + dy) % 3) * 3 + (x + dx) % 3
        entry = image.gather(1, seen.expand(len(pull), 1, h, w))
        inside = (y + dy >= 0) & (y + dy < h) & (x + dx >= 0) & (x + dx < w)
        # A positive entry would break the sign pattern that interpolation needs: it is dropped,
        # and the row keeps its sum.
        planes.append(torch.where(inside, -entry, 0).clamp(min=0))
    coupling, coarse_pull = torch.cat(planes, 1), image[:, -1:].clamp(min=0)
    total = coarse_pull + coupling.sum(1, keepdim=True)
    scale = torch.where(total > 0, 1 / torch.where(total > 0, total, 1), 0)
    return coupling * scale, coarse_pull * scale, scale


def _invert(coupling: Tensor, pull: Tensor) -> Tensor:
    """Return the dense inverse of the coarsest level, (B, h w, h w)."""
    batch, _, height, width = coupling.shape
    count = height * width
    index = torch.arange(count, device=pull.device).reshape(height, width)
    matrix = torch.eye(count, dtype=pull.dtype, device=pull.device).repeat(batch, 1, 1)
    for k, (dy, dx) in enumerate(OFFSETS):
        rows = index[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        columns = (rows + dy * width + dx).flatten()
        rows = rows.flatten()
        matrix[:, rows, columns] -= coupling[:, k].flatten(1)[:, rows]
    inverse = torch.linalg.inv_ex(matrix).inverse
    return torch.where(inverse.isfinite(), inverse, 0)
