"""Alignment beside OpenCV's ECC and kornia's registrator, on Baker and Matthews' trials."""

import cv2
import kornia
import numpy as np
import torch
from alignment_protocol import corner_error, trials
from harness import HERE, Case, main
from torchvision.io import decode_image
from torchvision.transforms.v2.functional import gaussian_blur

from torchops import align, to_opencv

SIDE, TRIALS, ITERATIONS = 100, 64, 15
CONVERGED = 1.0  # pixels, root mean square over the corners


def photograph():
    image = decode_image(str(HERE.parent / "torchops" / "samples" / "camera.png")).double()
    return gaussian_blur(image[None], [9, 9], [1.0, 1.0])[0] / 255


def ecc(templates, image, start, motion):
    """One problem after the other, as OpenCV has it; a failure to converge leaves the start."""
    kind = cv2.MOTION_HOMOGRAPHY if motion == "homography" else cv2.MOTION_AFFINE
    stop = (cv2.TERM_CRITERIA_COUNT, ITERATIONS, -1)
    target = image[0].float().numpy()
    initial = to_opencv(start, motion).astype(np.float32)
    results = []
    for template in templates:
        matrix = initial.copy()
        try:
            _, matrix = cv2.findTransformECC(
                template[0].float().numpy(), target, matrix, kind, stop, None, 1
            )
        except cv2.error:
            matrix = initial
        full = np.eye(3)
        full[: len(matrix)] = matrix
        results.append(torch.from_numpy(full))
    return torch.stack(results)


def frequency_case(motion, sigma, device):
    image = photograph()
    templates, true, start = trials(image, sigma, TRIALS, motion=motion)
    inputs = [x.float().to(device) for x in (templates, image)]
    begin = start.to(device, torch.float32)

    def ours(algorithm):
        def run():
            with torch.no_grad():
                return align(
                    *inputs,
                    motion=motion,
                    algorithm=algorithm,
                    initial=begin,
                    iterations=ITERATIONS,
                    tol=0.0,
                    gradient="none",
                ).matrix

        return run

    algorithms = ("inverse_compositional", "forward_compositional", "forward_additive", "esm")
    candidates = {f"torchops {name}": ours(name) for name in algorithms}
    candidates["OpenCV ECC"] = lambda: ecc(templates, image, start, motion)
    return Case(
        name=f"{motion}, {TRIALS} templates of {SIDE}x{SIDE}, corner noise {sigma} px, "
        f"{ITERATIONS} iterations, one level",
        candidates=candidates,
        baseline="OpenCV ECC",
        metrics={
            "converged": lambda m: (corner_error(m, true) < CONVERGED).double().mean().item(),
            "median error px": lambda m: corner_error(m, true).median().item(),
        },
        items=TRIALS,
        target="inverse compositional homography <= 1/3 of ECC's time per problem",
    )


def registrator_case(device):
    """kornia optimises one pair by Adam and differentiates through nothing: a single problem."""
    image = photograph()
    templates, _, start = trials(image, 2.0, 1)
    template, target = (x.float().to(device)[None] for x in (templates[0], image))
    left, top = start[:2, 2].int().tolist()
    crop = target[..., top : top + SIDE, left : left + SIDE]
    begin = start.to(device, torch.float32)

    def registrator():
        model = kornia.geometry.ImageRegistrator("homography", num_iterations=100, pyramid_levels=3)
        return model.to(device).register(template, crop)

    def ours():
        with torch.no_grad():
            return align(template[0], target[0], initial=begin, gradient="none").matrix

    return Case(
        name=f"one homography of {SIDE}x{SIDE}, corner noise 2 px, until convergence",
        candidates={"torchops": ours, "kornia ImageRegistrator": registrator},
        baseline="torchops",
        metrics={"entries of the matrix": lambda m: float(m.numel())},
    )


def cases(device):
    for motion in ("affine", "homography"):
        for sigma in (2.0, 6.0, 10.0):
            yield frequency_case(motion, sigma, device)
    yield registrator_case(device)


if __name__ == "__main__":
    main("alignment", cases)
