"""Baker and Matthews' experiment, and alignment against OpenCV's ECC and kornia's registrator.

python benchmarks/bench_alignment.py
TRIALS=200 python benchmarks/bench_alignment.py    # of 1000: a fifth of the time

The images other than the bundled photograph are read from the folder that TORCHOPS_TEST_DATA names.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from alignment_pairs import PAIRS, attempts, real_pair
from alignment_protocol import (
    ITERATIONS,
    METHODS,
    SIDE,
    Trials,
    corner_error,
    frequency,
    rates,
    solve,
    solvers,
    translation,
    trials,
    with_noise,
)
from harness import Case, main
from PIL import Image
from torch import Tensor

from torchops import LucasKanadeAligner, align, from_kornia, from_opencv, to_opencv, warp_image

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "torchops" / "samples"
DATA = Path(os.environ.get("TORCHOPS_TEST_DATA", ROOT.parent / "shared" / "data"))
NO_DATA = f"no test images at {DATA}; set TORCHOPS_TEST_DATA"
# A smoke test measures nothing, and 1000 trials would make it as long as the benchmark.
QUICK = "--quick" in sys.argv
COUNT = 10 if QUICK else int(os.environ.get("TRIALS", "1000"))
FEW = max(10, min(COUNT // 5, 100))

SIGMAS = (2, 6, 10)
ALL_SIGMAS = SIGMAS if QUICK else tuple(range(1, 11))
STEPS = (1, 15) if QUICK else (1, 2, 3, 4, 5, 6, 8, 10, 15)
BASELINE = "torchops inverse compositional"


def photograph(path: Path) -> Tensor:
    """What every aligner sees: 8-bit grey values as float32, blurred with sigma 1 by OpenCV."""
    with Image.open(path) as image:
        array = np.asarray(image.convert("L"), dtype=np.float32)
    return torch.from_numpy(cv2.GaussianBlur(array, (0, 0), 1.0))[None]


# Peers


def find_transform_ecc(
    template: np.ndarray, image: np.ndarray, start: Tensor, motion: str, iterations: int
) -> Tensor:
    """OpenCV's ECC without a filter of its own; NaN where it throws."""
    kind = {"affine": cv2.MOTION_AFFINE, "homography": cv2.MOTION_HOMOGRAPHY}[motion]
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, iterations, -1)
    warp = to_opencv(start, motion).astype(np.float32)
    try:
        return from_opencv(cv2.findTransformECC(template, image, warp, kind, stop, None, 1)[1])
    except cv2.error:
        return torch.full((3, 3), torch.nan, dtype=torch.float64)


def opencv(
    problem: Trials,
    *,
    motion: str = "homography",
    iterations: int = ITERATIONS,
    workers: int | None = None,
) -> Tensor:
    """Align the trials one by one, as many at a time as there are threads; (N, 3, 3)."""
    workers = workers or torch.get_num_threads()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if workers > 1 else threads)
    with ThreadPoolExecutor(workers) as pool:  # OpenCV runs without the interpreter's lock
        waiting = [
            pool.submit(
                find_transform_ecc,
                template[0].cpu().numpy(),
                image[0].cpu().numpy(),
                problem.start,
                motion,
                iterations,
            )
            for templates, image in problem.pairs()
            for template in templates
        ]
        found = torch.stack([future.result() for future in waiting])
    cv2.setNumThreads(threads)
    return found


def registrator(template: Tensor, image: Tensor) -> Tensor:
    """kornia's, which takes one pair of equal size, starts at the identity and runs Adam."""
    import kornia

    model = kornia.geometry.ImageRegistrator("homography", tolerance=1e-6).to(image.device)
    normal = model.register(image[None], template[None]).detach()
    size = template.shape[-2:]
    return from_kornia(normal, tuple(size), tuple(size))


# Baker and Matthews


def frequencies(
    name: str,
    settings: Mapping[str, Callable[[], Trials]],
    motion: str,
    device: torch.device,
    count: int,
    chosen: str,
    target: str | None = None,
) -> Case:
    """The share of converged trials for each setting, and the typical error of the chosen one."""
    problems: dict[str, Trials] = {}

    def setup() -> None:
        problems.update({key: build().to(device) for key, build in settings.items()})

    def run(solver: Callable[..., Tensor]) -> dict[str, Tensor]:
        return {
            key: corner_error(solver(problem, motion=motion), problem.true)
            for key, problem in problems.items()
        }

    return Case(
        name=f"{name}, {motion}: share of converged trials",
        candidates={
            label: lambda solver=solver: run(solver)
            for label, solver in solvers({"opencv ECC": opencv}).items()
        },
        baseline=BASELINE,
        metrics={
            **{key: lambda errors, key=key: frequency(errors[key]) for key in settings},
            f"px, {chosen}": lambda errors: errors[chosen].nanmedian().item(),
        },
        items=count * len(settings),
        once=True,
        setup=setup,
        target=target,
    )


def over_sigma(
    name: str, image: Tensor, motion: str, sigmas: Iterable[int], count: int, device: torch.device
) -> Case:
    settings = {
        f"sigma {sigma}": lambda sigma=sigma: trials(image, sigma, count, motion=motion)
        for sigma in sigmas
    }
    best = "best one-level algorithm >= ECC's - 0.02 at every sigma"
    return frequencies(f"{name}, {count} trials", settings, motion, device, count, "sigma 2", best)


def over_noise(image: Tensor, where: str, count: int, device: torch.device) -> Case:
    settings = {
        f"{level} grey, s. {sigma}": lambda level=level, sigma=sigma: with_noise(
            trials(image, sigma, count), level, where
        )
        for level in (8, 16)
        for sigma in SIGMAS
    }
    return frequencies(
        f"camera, {count} trials, noise on the {where}",
        settings,
        "homography",
        device,
        count,
        "16 grey, s. 2",
    )


def convergence_rate(
    image: Tensor, motion: str, sigma: int, count: int, device: torch.device
) -> Case:
    """Mean error after n iterations, over the trials in which all methods converge."""
    problem = trials(image, sigma, count, motion=motion).to(device)
    curves: dict[str, dict[int, Tensor]] = {}

    def run(label: str, solver: Callable[..., Tensor]) -> str:
        curves[label] = {
            n: corner_error(solver(problem, motion=motion, iterations=n), problem.true)
            for n in STEPS
        }
        return label

    return Case(
        name=f"camera, {motion}, corner noise {sigma} px, {count} trials: mean error (px)",
        candidates={
            label: lambda label=label, solver=solver: run(label, solver)
            for label, solver in solvers({"opencv ECC": opencv}).items()
        },
        baseline=BASELINE,
        metrics={f"{n} iterations": lambda label, n=n: rates(curves)[label][n] for n in STEPS},
        items=count * sum(STEPS),
        once=True,
    )


# What else is promised


def largest_error(problem: Trials) -> dict[str, Callable[[Tensor], float]]:
    return {"max error (px)": lambda m: corner_error(m, problem.true).max().item()}


def captured(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record a function's kernels in a CUDA graph; what is returned plays them again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def speed(image: Tensor, batch: int, device: torch.device) -> Case:
    problem = trials(image, 2, batch).to(device)

    def fixed() -> Tensor:
        return solve(problem, tol=0)

    candidates = {
        "torchops, 15 iterations": fixed,
        "torchops, tol 1e-3": lambda: solve(problem),
        "torchops ESM, tol 1e-3": lambda: solve(problem, algorithm="esm"),
        "opencv ECC, one by one": lambda: opencv(problem, workers=1),
        "opencv ECC, one per thread": lambda: opencv(problem),
    }
    target = "<= 1/3 of ECC's time per problem on a CPU"
    if device.type == "cuda":
        # The recording happens at the first call, as compilation does.
        replay = cache(lambda: captured(fixed))
        candidates["torchops, 15 iterations, CUDA graph"] = lambda: replay()()
        target = ">= 100,000 alignments a second: 0.01 ms per item"
    if batch > 1000:  # seconds a call, and no other number than with a small batch
        candidates = {k: v for k, v in candidates.items() if not k.startswith("opencv")}
    return Case(
        name=f"batch of {batch}, homography, 100x100, inverse compositional",
        candidates=candidates,
        baseline="torchops, 15 iterations",
        metrics=largest_error(problem),
        items=batch,
        target=target,
    )


def compiled_speed(image: Tensor, device: torch.device) -> Case:
    problem = trials(image, 2, 16).to(device)

    def fixed(templates: Tensor, start: Tensor) -> Tensor:
        options: dict[str, Any] = {"initial": start, "levels": 1, "tol": 0}
        return align(templates, problem.images[0], iterations=ITERATIONS, **options).matrix

    compiled = torch.compile(fixed, fullgraph=True)
    return Case(
        name="batch of 16, homography, 100x100, 15 iterations, compiled",
        candidates={
            "torchops": lambda: fixed(problem.templates, problem.start),
            "torchops, compiled": lambda: compiled(problem.templates, problem.start),
            "opencv ECC, one per thread": lambda: opencv(problem),
        },
        baseline="torchops",
        metrics=largest_error(problem),
        items=16,
    )


def accuracy(image: Tensor, dtype: torch.dtype, device: torch.device) -> Case:
    """What is left of the error where the images hold no noise but their own rounding."""
    problem = trials(image.to(dtype), 2, 64).to(device)
    options: dict[str, Any] = {"tol": 1e-12, "iterations": 30}
    candidates = {
        f"torchops {name}": lambda own=own: solve(problem, **own, **options)
        for name, own in METHODS.items()
    }
    if dtype == torch.float32:
        candidates["opencv ECC"] = lambda: opencv(problem, iterations=30)
    return Case(
        name=f"final error, {str(dtype).removeprefix('torch.')} images, corner noise 2 px",
        candidates=candidates,
        baseline=BASELINE,
        metrics=largest_error(problem),
        items=64,
        once=True,
        target="<= 1e-4 px for float32 images, <= 1e-9 px for float64",
    )


def light(image: Tensor, device: torch.device) -> Case:
    """How far the results move when the image becomes 1.7 image + 20."""
    problem = trials(image, 4, FEW).to(device)
    changed = problem._replace(images=1.7 * problem.images + 20)
    names = ("inverse compositional", "ESM", "inverse compositional, ECC", "ESM, ECC")
    chosen: dict[str, Callable[[Trials], Tensor]] = {
        f"torchops {name}": lambda p, own=METHODS[name]: solve(p, iterations=30, **own)
        for name in names
    }
    chosen["opencv ECC"] = lambda p: opencv(p, iterations=30)
    return Case(
        name=f"camera becomes 1.7 camera + 20, corner noise 4 px, {FEW} trials",
        candidates={
            label: lambda run=run: (run(problem), run(changed)) for label, run in chosen.items()
        },
        baseline="torchops ESM, ECC",
        metrics={
            "median move (px)": lambda two: corner_error(*two).nanmedian().item(),
            "converged": lambda two: frequency(corner_error(two[0], problem.true)),
            "in new light": lambda two: frequency(corner_error(two[1], problem.true)),
            "largest move": lambda two: largest_move(*two, problem.true),
        },
        items=2 * FEW,
        once=True,
        target="ECC: moves <= 1e-4 px where it converges",
    )


def largest_move(one: Tensor, other: Tensor, true: Tensor) -> float:
    """Of the trials that converged in the first light."""
    moves = corner_error(one, other)[corner_error(one, true) < 1]
    return moves[moves.isfinite()].max().item()


def occlusion(image: Tensor, device: torch.device) -> Case:
    """A block of the template, a fifth of it, shows another part of the picture."""
    problem = trials(image, 2, FEW)
    generator = torch.Generator().manual_seed(2)
    block = round(SIDE * 0.2**0.5)
    for template in problem.templates:
        places = torch.randint(SIDE - block + 1, (2,), generator=generator).tolist()
        other = torch.randint(image.shape[-1] - block + 1, (2,), generator=generator).tolist()
        rows, columns = (slice(place, place + block) for place in places)
        there, across = (slice(place, place + block) for place in other)
        template[:, rows, columns] = image[:, there, across]
    problem = problem.to(device)
    robust: dict[str, dict[str, Any]] = {
        f"{algorithm}, {name}": {"algorithm": algorithm, "iterations": 30, **own}
        for algorithm in ("inverse_compositional", "esm")
        for name, own in {
            "SSD": {},
            "Huber": {"robust": "huber"},
            "Tukey": {"robust": "tukey"},
            "Tukey, 3 levels": {"robust": "tukey", "levels": 3},
        }.items()
    }
    candidates = {
        f"torchops {n}": lambda own=own: solve(problem, **own) for n, own in robust.items()
    }
    return Case(
        name=f"a fifth of the template occluded, corner noise 2 px, {FEW} trials",
        candidates={**candidates, "opencv ECC": lambda: opencv(problem, iterations=30)},
        baseline="torchops inverse_compositional, SSD",
        metrics={
            "median (px)": lambda m: corner_error(m, problem.true).nanmedian().item(),
            "< 0.1 px": lambda m: share(corner_error(m, problem.true) < 0.1),
            "> 0.5 px": lambda m: share(~(corner_error(m, problem.true) <= 0.5)),
        },
        items=FEW,
        once=True,
        target="robust < 0.1 px where SSD is > 0.5 px",
    )


def share(condition: Tensor) -> float:
    return condition.double().mean().item()


def gradient(image: Tensor, batch: int, device: torch.device) -> Case:
    problem = trials(image, 2, batch).to(device)
    templates = problem.templates.requires_grad_()

    def backward(kind: str, iterations: int) -> Tensor:
        found = align(
            templates,
            problem.images[0],
            initial=problem.start,
            levels=1,
            iterations=iterations,
            tol=0,
            gradient=kind,
        )
        return torch.autograd.grad(found.matrix.sum(), templates)[0]

    return Case(
        name=f"batch of {batch}, forward and backward",
        candidates={
            f"{kind}, {n} iterations": lambda kind=kind, n=n: backward(kind, n)
            for kind in ("implicit", "unroll")
            for n in (5, 15)
        },
        baseline="implicit, 15 iterations",
        items=batch,
        image_bytes=templates.nbytes,  # so that the peak is told in batches of templates
        target="memory of implicit: of the order of the templates, whatever the iterations",
    )


def video(image: Tensor, device: torch.device) -> Case:
    """A template followed through frames, each started where the one before ended."""
    generator = torch.Generator().manual_seed(3)
    frames, warps = [], []
    path = torch.eye(3, dtype=torch.float64)
    for _ in range(10 if QUICK else 40):
        turn, dx, dy = (0.7 * torch.randn(3, generator=generator, dtype=torch.float64)).tolist()
        move = translation(dx, dy)
        move[0, 1], move[1, 0] = -turn / 100, turn / 100
        path = move @ path
        warps.append(torch.linalg.inv(path) @ translation(100, 100))
        frames.append(warp_image(image[:, 100:400, 100:400], path, (300, 300), border="reflect"))
    frames = torch.stack(frames).to(device)
    true = torch.stack(warps)
    template = image[:, 200:300, 200:300].to(device)
    start = translation(100, 100).to(device)
    aligner = LucasKanadeAligner(template, levels=1)

    def follow(step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = [start]
        for frame in frames:
            found.append(step(frame, found[-1]))
        return torch.stack(found[1:])

    array = template[0].cpu().numpy()
    return Case(
        name=f"template 100x100 followed through {len(frames)} frames 300x300, homography",
        candidates={
            "LucasKanadeAligner": lambda: follow(lambda f, s: aligner(f, s).matrix),
            "align": lambda: follow(lambda f, s: align(template, f, initial=s, levels=1).matrix),
            "align, ESM": lambda: follow(
                lambda f, s: align(template, f, initial=s, levels=1, algorithm="esm").matrix
            ),
            "opencv ECC, 15 iterations": lambda: follow(
                lambda f, s: find_transform_ecc(
                    array, f[0].cpu().numpy(), s, "homography", ITERATIONS
                )
            ),
        },
        baseline="LucasKanadeAligner",
        metrics={"max error (px)": lambda m: corner_error(m, true).max().item()},
        items=len(frames),
    )


def small_shift(image: Tensor, device: torch.device) -> Case:
    scene = image[:, 200:328, 200:328].to(device) / 255
    true = translation(1.7, -1.2)
    template = warp_image(scene, true.to(device), (128, 128), border="replicate")
    return Case(
        name="one pair 128x128, shift (1.7, -1.2), from the identity",
        candidates={
            "torchops": lambda: align(template, scene).matrix,
            "kornia ImageRegistrator": lambda: registrator(template, scene)[0],
        },
        baseline="torchops",
        metrics={"error (px)": lambda matrix: corner_error(matrix, true, 128).item()},
    )


def real(name: str, blur: float, distance: float, device: torch.device) -> Case:
    """Two photographs of a plane, from starts whose corners are off the ground truth.

    The ground truth comes from points that others have matched or clicked: of 1 px or so.
    """
    pair = real_pair(DATA / "homography", name, blur)
    starts = attempts(pair, 4 if QUICK else 20, distance).to(device)
    template, image = pair.template.to(device), pair.image.to(device)
    setting = f"half size, blur {blur:g} px, starts {distance:g} px off, {len(starts)} trials"
    common: dict[str, Any] = {"initial": starts, "iterations": 50, "tol": 1e-2}
    options: dict[str, dict[str, Any]] = {
        f"{objective}{', ESM' * (algorithm == 'esm')}, {levels} level{'s' * (levels > 1)}": {
            "algorithm": algorithm,
            "levels": levels,
            **own,
        }
        for objective, own in {
            "SSD": {},
            "ECC": {"objective": "ecc"},
            "Tukey": {"robust": "tukey"},
        }.items()
        for algorithm in ("inverse_compositional", "esm")
        for levels in (1, 3)
    }

    def within(matrix: Tensor, distance: float) -> float:
        return share(pair.pixels(corner_error(matrix, pair.true, pair.side)) < distance)

    def typical(matrix: Tensor) -> float:
        return pair.pixels(corner_error(matrix, pair.true, pair.side)).nanmedian().item()

    def peer() -> Tensor:
        array, other = template[0].cpu().numpy(), image[0].cpu().numpy()
        return torch.stack(
            [find_transform_ecc(array, other, start, "homography", 50) for start in starts]
        )

    return Case(
        name=f"{name}, {setting}",
        candidates={
            **{
                f"torchops {label}": lambda own=own: align(template, image, **common, **own).matrix
                for label, own in options.items()
            },
            "opencv ECC": peer,
        },
        baseline="torchops SSD, 1 level",
        metrics={
            "< 1 px": lambda m: within(m, 1),
            "< 2 px": lambda m: within(m, 2),
            "< 5 px": lambda m: within(m, 5),
            "median (px)": typical,
        },
        items=len(starts),
        once=True,
    )


def cases(device: torch.device) -> Iterable[Case]:
    camera = photograph(SAMPLES / "camera.png")
    yield speed(camera, 64, device)
    if device.type == "cuda":
        yield speed(camera, 4096, device)
        # The compiler takes some minutes for fifteen iterations; on a CPU there is nothing to gain
        # from it that would pay for them.
        yield compiled_speed(camera, device)
    for batch in (4, 16):
        yield gradient(camera, batch, device)
    yield video(camera, device)
    yield small_shift(camera, device)
    for dtype in (torch.float32, torch.float64):
        yield accuracy(camera, dtype, device)
    yield light(camera, device)
    yield occlusion(camera, device)
    for motion in ("affine", "homography"):
        yield over_sigma("camera", camera, motion, ALL_SIGMAS, COUNT, device)
    for motion in ("affine", "homography"):
        for sigma in SIGMAS:
            yield convergence_rate(camera, motion, sigma, FEW, device)
    for where in ("image", "template"):
        yield over_noise(camera, where, FEW, device)
    others = {"takeo": "homography/takeo/takeo.ppm", "kodak_19": "natural/kodak_19.png"}
    for name, path in others.items():
        if (DATA / path).exists():
            image = photograph(DATA / path)
            yield over_sigma(name, image, "homography", SIGMAS, 3 * FEW, device)
        else:
            yield Case(f"{name}, homography", {}, "", skipped=NO_DATA)
    for name in PAIRS:
        for blur, distance in ((1.0, 10.0), (3.0, 10.0), (1.0, 30.0)):
            if (DATA / "homography" / name).exists():
                yield real(name, blur, distance, device)
            else:
                yield Case(f"{name}, half size, blur {blur:g} px", {}, "", skipped=NO_DATA)


if __name__ == "__main__":
    main("alignment", cases)
