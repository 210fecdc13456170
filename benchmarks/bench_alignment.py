"""Alignment against OpenCV's ECC and kornia's registrator, on the trials of Baker and Matthews.

python benchmarks/bench_alignment.py
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from alignment_protocol import corner_error, translation, trials
from harness import Case, main
from PIL import Image
from torch import Tensor

from torchops import align, from_kornia, from_opencv, to_opencv, warp_image

SAMPLES = Path(__file__).resolve().parents[1] / "torchops" / "samples"
SIGMAS = (2, 4, 6, 8, 10)
ALGORITHMS = ("inverse_compositional", "forward_compositional", "forward_additive", "esm")
ITERATIONS = 15


def camera() -> Tensor:
    """The photograph every peer sees: 8 bits as float32, blurred with sigma 1 by OpenCV."""
    with Image.open(SAMPLES / "camera.png") as image:
        array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(cv2.GaussianBlur(array, (0, 0), 1.0))[None]


def ecc(templates: Tensor, image: Tensor, start: Tensor, motion: str) -> Tensor:
    """One problem after the other, as OpenCV does it; the start where it throws."""
    kind = {"affine": cv2.MOTION_AFFINE, "homography": cv2.MOTION_HOMOGRAPHY}[motion]
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ITERATIONS, -1)
    array = image[0].cpu().numpy()
    found = []
    for template in templates[:, 0].cpu().numpy():
        warp = to_opencv(start, motion).astype(np.float32)
        try:
            warp = cv2.findTransformECC(template, array, warp, kind, stop, None, 1)[1]
        except cv2.error:
            warp = to_opencv(start, motion)
        found.append(from_opencv(warp))
    return torch.stack(found)


def registrator(template: Tensor, image: Tensor) -> Tensor:
    """kornia's, which takes one pair of equal size, starts at the identity and runs Adam."""
    import kornia

    model = kornia.geometry.ImageRegistrator("homography", tolerance=1e-6)
    normal = model.register(image[None], template[None]).detach()
    size = template.shape[-2:]
    return from_kornia(normal, tuple(size), tuple(size))


def converged(matrix: Tensor, true: Tensor) -> float:
    return (corner_error(matrix, true) < 1).double().mean().item()


def frequency(image: Tensor, motion: str, sigma: float, count: int) -> Case:
    templates, true, start = trials(image.cpu(), sigma, count, motion=motion)
    templates, start = templates.to(image.device), start.to(image.device)

    def ours(algorithm: str, levels: int) -> Tensor:
        found = align(
            templates,
            image,
            motion=motion,
            algorithm=algorithm,
            initial=start,
            levels=levels,
            iterations=ITERATIONS,
            tol=0,
        )
        return found.matrix

    candidates = {
        f"torchops {algorithm}": lambda algorithm=algorithm: ours(algorithm, 1)
        for algorithm in ALGORITHMS
    }
    candidates["torchops inverse_compositional, 3 levels"] = lambda: ours(ALGORITHMS[0], 3)
    candidates["opencv ECC, one by one"] = lambda: ecc(templates, image, start, motion)
    return Case(
        name=f"{motion}, corner noise {sigma} px, 100x100, {ITERATIONS} iterations",
        candidates=candidates,
        baseline="torchops inverse_compositional",
        metrics={
            "converged": lambda matrix: converged(matrix, true),
            "median error (px)": lambda matrix: corner_error(matrix, true).median().item(),
        },
        items=count,
        target="converged: best one-level algorithm >= ECC's - 0.02",
    )


def speed(image: Tensor, batch: int) -> Case:
    templates, true, start = trials(image.cpu(), 2, batch)
    templates, start = templates.to(image.device), start.to(image.device)
    options = {"initial": start, "levels": 1}
    return Case(
        name=f"batch of {batch}, homography, 100x100, inverse compositional",
        candidates={
            "torchops, 15 iterations": lambda: (
                align(templates, image, iterations=ITERATIONS, tol=0, **options).matrix
            ),
            "torchops, tol 1e-3": lambda: align(templates, image, **options).matrix,
            "opencv ECC, 15 iterations": lambda: ecc(templates, image, start, "homography"),
        },
        baseline="torchops, 15 iterations",
        metrics={"largest error (px)": lambda m: corner_error(m, true).max().item()},
        items=batch,
        target="<= 1/3 of ECC's time per problem on a CPU",
    )


def gradient(image: Tensor) -> Case:
    templates, _, start = trials(image.cpu(), 2, 16)
    templates = templates.to(image.device).requires_grad_()
    start = start.to(image.device)

    def backward(kind: str) -> Tensor:
        found = align(templates, image, initial=start, levels=1, gradient=kind)
        return torch.autograd.grad(found.matrix.sum(), templates)[0]

    return Case(
        name="batch of 16, forward and backward",
        candidates={kind: lambda kind=kind: backward(kind) for kind in ("implicit", "unroll")},
        baseline="implicit",
        items=16,
    )


def small_shift(image: Tensor) -> Case:
    scene = image[:, 200:328, 200:328] / 255
    true = translation(1.7, -1.2)
    template = warp_image(scene, true.to(image.device), (128, 128), border="replicate")
    return Case(
        name="one pair 128x128, shift (1.7, -1.2), from the identity",
        candidates={
            "torchops": lambda: align(template, scene).matrix,
            "kornia ImageRegistrator": lambda: registrator(template, scene)[0],
        },
        baseline="torchops",
        metrics={"error (px)": lambda matrix: corner_error(matrix, true, 128).item()},
    )


def cases(device: torch.device) -> Iterable[Case]:
    image = camera().to(device)
    count = 1000 if device.type == "cuda" else 100
    yield speed(image, 64)
    if device.type == "cuda":
        yield speed(image, 4096)
    yield gradient(image)
    yield small_shift(image)
    for motion in ("affine", "homography"):
        for sigma in SIGMAS:
            yield frequency(image, motion, sigma, count)


if __name__ == "__main__":
    main("alignment", cases)
