"""The preconditioner: transfers, transpose, clusters, and iterations that hardly grow with size."""

import pytest
import torch
from helpers import assert_close, photograph

from torchops import colorize, levin_weights
from torchops.colorization.clusters import Clusters
from torchops.colorization.multigrid import Multigrid, interpolate, restrict
from torchops.colorization.system import System


def system(height, width, *, seed=0, share=0.05):
    generator = torch.Generator().manual_seed(seed)
    luma = (torch.rand(1, 1, height, width, generator=generator).double() * 8).round() / 8
    pull = (torch.rand(1, 1, height, width, generator=generator) < share).double()
    pull[..., 0, 0] = 0.4
    return System((1 - pull) * levin_weights(luma), pull, 1)


def columns(height, width):
    """Every unit image as a plane: what a linear map of images does to them is its matrix."""
    return torch.eye(height * width, dtype=torch.float64).reshape(1, -1, height, width)


def test_system_and_its_transpose(device):
    one = system(7, 9)
    matrix = one.apply(columns(7, 9)).flatten(2)[0].T
    assert_close(one.apply_transposed(columns(7, 9)).flatten(2)[0].T, matrix.T, 1e-15)
    rows = matrix.sum(1)  # constants feel only the pull
    assert_close(rows, one.pull.flatten(), 1e-14)


def test_restriction_is_the_transpose_of_interpolation(device):
    weights = torch.rand(2, 9, 4, 5, dtype=torch.float64, device=device)
    coarse = torch.rand(2, 3, 4, 5, dtype=torch.float64, device=device)
    for height, width in [(8, 10), (7, 10), (8, 9), (7, 9)]:
        fine = torch.rand(2, 3, height, width, dtype=torch.float64, device=device)
        forth = (interpolate(weights, coarse)[..., :height, :width] * fine).sum()
        assert_close(forth, (restrict(weights, fine) * coarse).sum(), 1e-12)


@pytest.mark.parametrize(("height", "width"), [(18, 21), (5, 40), (1, 70), (12, 12)])
def test_transposed_cycle_is_the_transpose_of_the_cycle(height, width):
    cycle = Multigrid(system(height, width))
    matrix = cycle(columns(height, width)).flatten(2)[0].T
    transposed = cycle(columns(height, width), transposed=True).flatten(2)[0].T
    assert_close(transposed.T, matrix, 1e-9 * matrix.abs().max().item())


@pytest.mark.parametrize(("height", "width"), [(18, 21), (40, 33)])
def test_cycle_nearly_inverts_the_system(height, width):
    one = system(height, width)
    matrix = one.apply(columns(height, width)).flatten(2)[0].T
    inverse = Multigrid(one)(columns(height, width)).flatten(2)[0].T
    free = (one.pull != 1).flatten()
    left_over = torch.eye(int(free.sum())) - (matrix @ inverse)[free][:, free]
    # The walk takes hundreds of steps, so without a cycle the largest is above 0.99.
    factors = torch.linalg.eigvals(left_over).abs()
    assert factors.max() < 0.8
    assert factors.median() < 0.1


def test_small_images_are_inverted_directly():
    one = system(12, 14)
    matrix = one.apply(columns(12, 14)).flatten(2)[0].T
    free = (one.pull != 1).flatten()
    inverse = Multigrid(one)(columns(12, 14)).flatten(2)[0].T
    product = (matrix @ inverse)[free][:, free]
    assert_close(product, torch.eye(int(free.sum())), 1e-9)


def test_clusters_are_groups_that_trade_with_each_other_only(device):
    # A pair and a triple linked both ways, one link that goes one way only.
    coupling = torch.zeros(1, 8, 4, 6, dtype=torch.float64, device=device)
    left, right = 3, 4
    coupling[0, right, 0, 0] = coupling[0, left, 0, 1] = 0.9
    coupling[0, right, 2, 2] = coupling[0, left, 2, 3] = 0.8
    coupling[0, right, 2, 3] = coupling[0, left, 2, 4] = 0.2
    coupling[0, right, 3, 0] = 0.7
    pull = 1 - coupling.sum(1, keepdim=True)
    clusters = Clusters(coupling, pull, torch.ones_like(pull))
    assert clusters.pixels.tolist() == [0, 1, 14, 15, 16]
    assert clusters.cluster.tolist() == [0, 0, 1, 1, 1]
    residual = torch.ones(1, 2, 4, 6, dtype=torch.float64, device=device)
    step = clusters(residual, transposed=False)
    assert_close(step[0, :, 0, :2], torch.full((2, 2), 2 / 0.2, device=device), 1e-6)
    assert_close(step[0, :, 2, 2:5], torch.full((2, 3), 3 / 1.0, device=device), 1e-6)
    assert step[0, :, 3].abs().max() == 0


def photograph_iterations(size):
    luma = photograph("astronaut.png").mean(0, keepdim=True)
    luma = torch.nn.functional.adaptive_avg_pool2d(luma, size)
    generator = torch.Generator().manual_seed(0)
    hints = torch.rand(2, size, size, generator=generator, dtype=torch.float64) - 0.5
    mask = torch.rand(1, size, size, generator=generator) < 0.01
    result = colorize(luma, hints, mask, tol=1e-5)
    assert result.converged
    return int(result.iterations)


def test_iterations_hardly_grow_with_the_size():
    small, large = photograph_iterations(128), photograph_iterations(256)
    assert large <= 1.5 * small
    assert large <= 30


@pytest.mark.parametrize("pattern", ["ramp", "noise", "cells", "checkerboard", "stripes"])
def test_hard_patterns_still_converge(pattern, device):
    y, x = torch.meshgrid(torch.arange(70), torch.arange(75), indexing="ij")
    noise = torch.rand(70, 75)
    luma = {
        "ramp": x / 75,
        "noise": noise,
        "cells": ((y // 9 * 31 + x // 9 * 17) % 7) / 7,
        "checkerboard": ((x + y) % 2).float(),
        "stripes": (x % 2).float(),
    }[pattern]
    hints = torch.rand(2, 70, 75, device=device)
    mask = torch.rand(1, 70, 75, device=device) < 0.005
    result = colorize(luma[None].to(device), hints, mask, max_iterations=200)
    assert result.converged
