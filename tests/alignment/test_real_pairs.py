"""Real photographs of planes with known homographies, from starts 10 px off at the corners."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.alignment_protocol import corners, through_points, translation
from torchops import align, warp_image, warp_points
from torchops._common.smoothing import gaussian_blur

PAIRS = {
    "graf": ("graf1.png", "graf3.png", "H1to3p.txt"),
    "adam": ("adamA.png", "adamB.png", "H_A_to_B.txt"),
}
# Places whose surroundings the second view shows, flat and textured, (x, y) in the first image.
PLACES = {
    "graf": [(300, 200), (400, 300), (250, 350), (500, 200)],
    "adam": [(250, 150), (320, 200), (350, 120), (280, 230)],
}


def read(path, blur=1.0):
    with Image.open(path) as image:
        array = np.asarray(image.convert("L"), dtype=np.float64)
    return gaussian_blur(torch.from_numpy(array)[None] / 255, blur)


def problem(folder, name, side, sigma=10.0, seed=0):
    first, second, file = PAIRS[name]
    folder = folder / "homography" / name
    truth = torch.from_numpy(np.loadtxt(folder / file))
    template, image = read(folder / first), read(folder / second)
    generator = torch.Generator().manual_seed(seed)
    cuts, true, starts = [], [], []
    for x, y in PLACES[name]:
        cuts.append(template[:, y : y + side, x : x + side])
        matrix = truth @ translation(x, y)
        goal = warp_points(corners(side), matrix)
        noise = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        noise = sigma * noise / noise.norm(dim=-1, keepdim=True)  # every corner 10 px off
        true.append(matrix / matrix[2, 2])
        starts.append(through_points(corners(side), goal + noise, "homography"))
    return torch.stack(cuts), image, torch.stack(true), torch.stack(starts)


def error(matrix, true, side):
    gap = warp_points(corners(side), matrix) - warp_points(corners(side), true)
    return gap.norm(dim=-1).mean(-1)


def correlation(matrix, cut, image):
    seen = warp_image(image, matrix, cut.shape[-2:])
    a, b = (v - v.mean((-2, -1), keepdim=True) for v in (seen, cut))
    product = (a * b).sum((-3, -2, -1))
    return product / (a.square().sum((-3, -2, -1)) * b.square().sum((-3, -2, -1))).sqrt()


METHODS = [
    {},
    {"objective": "ecc"},
    {"robust": "huber"},
    {"robust": "tukey"},
    {"solver": "levenberg_marquardt"},
    {"objective": "ecc", "solver": "levenberg_marquardt"},
]
methods = pytest.mark.parametrize("options", METHODS, ids=lambda o: "-".join(o.values()) or "ssd")
SIDE = 128


@methods
def test_graf_within_a_pixel(shared_data, options):
    cut, image, true, start = problem(shared_data, "graf", SIDE)
    found = align(cut, image, initial=start, algorithm="esm", **options)
    assert found.converged.all()
    assert error(start, true, SIDE).min() > 9.9
    assert error(found.matrix, true, SIDE).max() < 1


@methods
def test_adam_as_near_as_its_ground_truth_is(shared_data, options):
    # Its homography goes through eight points clicked by hand: the pictures match better, and all
    # methods agree, at a warp 1 to 3 px from it.
    cut, image, true, start = problem(shared_data, "adam", SIDE)
    found = align(cut, image, initial=start, algorithm="esm", **options)
    assert found.converged.all()
    assert error(found.matrix, true, SIDE).max() < 3
    assert (correlation(found.matrix, cut, image) > correlation(true, cut, image)).all()
    reference = align(cut, image, initial=start, algorithm="esm", objective="ecc")
    assert error(found.matrix, reference.matrix, SIDE).max() < 1
