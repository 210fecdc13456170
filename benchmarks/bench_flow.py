"""Dense Lucas-Kanade beside OpenCV and scikit-image: time and error on frames with known flow."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import Case, main
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.registration import optical_flow_ilk
from torch import Tensor

import torchops

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TORCHOPS_TEST_DATA", ROOT.parent / "shared" / "data")) / "flow"


def gray(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def real_pairs() -> Iterator[tuple[str, np.ndarray, np.ndarray, Tensor]]:
    for name in ("RubberWhale", "Venus"):
        folder = DATA / name
        if folder.is_dir():
            frames = [gray(folder / f"frame{k}.png") for k in (10, 11)]
            yield name, *frames, torchops.read_flo(folder / "flow10.flo")


def smooth_pair() -> tuple[str, np.ndarray, np.ndarray, Tensor]:
    """The bundled photograph under a smooth motion up to 4 px, a 20-pixel margin not counted."""
    moving = gray(ROOT / "torchops" / "samples" / "camera.png")
    y, x = np.mgrid[: moving.shape[0], : moving.shape[1]].astype(np.float64)
    u = 4 * np.sin(x * np.pi / 100) * np.cos(y * np.pi / 125)
    v = 4 * np.cos(x * np.pi / 115) * np.sin(y * np.pi / 90)
    reference = map_coordinates(moving.astype(np.float64), [y + v, x + u], order=5, mode="mirror")
    flow = np.full((2, *moving.shape), np.nan, np.float32)
    flow[:, 20:-20, 20:-20] = np.stack([u, v])[:, 20:-20, 20:-20]
    reference = np.clip(np.round(reference), 0, 255).astype(np.uint8)
    return "camera, smooth motion", reference, moving, torch.from_numpy(flow)


def peers(reference: np.ndarray, moving: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return the peers' calls; each gives a flow (H, W, 2)."""
    height, width = reference.shape
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack([x, y], -1).reshape(-1, 1, 2)

    def pyrlk() -> np.ndarray:
        found, _, _ = cv2.calcOpticalFlowPyrLK(
            reference, moving, points, None, winSize=(15, 15), maxLevel=3
        )
        return (found - points).reshape(height, width, 2)

    def ilk() -> np.ndarray:
        v, u = optical_flow_ilk(reference / 255, moving / 255, radius=7)
        return np.stack([u, v], -1)

    def farneback() -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(reference, moving, None, 0.5, 5, 15, 10, 5, 1.1, 0)

    return {
        "OpenCV DIS medium": lambda: dis.calc(reference, moving, None),
        "OpenCV Farneback": farneback,
        "OpenCV PyrLK 15x15, every pixel": pyrlk,
        "scikit-image iLK radius 7": ilk,
    }


def cases(device: torch.device) -> Iterator[Case]:
    cv2.setNumThreads(torch.get_num_threads())
    for name, reference, moving, target in [*real_pairs(), smooth_pair()]:
        frames = [torch.tensor(f, device=device)[None] for f in (reference, moving)]

        def ours(frames: list[Tensor] = frames, **options: int) -> Tensor:
            return torchops.lucas_kanade(*frames, **options).flow

        def endpoint(flow: Tensor | np.ndarray, target: Tensor = target) -> float:
            if isinstance(flow, np.ndarray):
                flow = torch.from_numpy(flow).permute(2, 0, 1)
            return torchops.endpoint_error(flow.float().cpu(), target).item()

        height, width = reference.shape
        yield Case(
            name=f"{name}, {width}x{height} gray, uint8",
            candidates={
                "torchops": ours,
                "torchops, one warp a level": lambda ours=ours: ours(warps=1),
                **peers(reference, moving),
            },
            baseline="OpenCV DIS medium",
            metrics={"error px": endpoint},
            target="endpoint error at most 0.35 px" if name == "RubberWhale" else None,
        )


if __name__ == "__main__":
    main("flow", cases)
