"""Dense optical flow beside OpenCV's and scikit-image's: error and time on the same frames.

The two real pairs (Middlebury's RubberWhale and Venus) are not part of the repository; without
them only the synthetic motion on a bundled photograph is measured.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import HERE, Case, main
from skimage.registration import optical_flow_ilk
from torchvision.io import decode_image

from torchops import endpoint_error, lucas_kanade, read_flo, warp_by_flow

DATA = Path(os.environ.get("TORCHOPS_TEST_DATA", HERE.parents[1] / "shared" / "data"))
SAMPLES = HERE.parent / "torchops" / "samples"


def gray(path):
    image = decode_image(str(path)).float() / 255
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return image if len(image) == 1 else (image[:3] * weights).sum(0, keepdim=True)


def smooth_motion():
    """A photograph and a sinusoidal motion of up to 4 px; the margin is left out of the error."""
    moving = gray(SAMPLES / "camera.png")
    height, width = moving.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    truth = torch.stack(
        [4 * torch.sin(2 * torch.pi * y / height), 3 * torch.cos(2 * torch.pi * x / width)]
    )
    reference = warp_by_flow(moving, truth, mode="bicubic")
    known = torch.full_like(truth, float("nan"))
    known[:, 20:-20, 20:-20] = truth[:, 20:-20, 20:-20]
    return reference, moving, known


def scenes():
    yield "photograph 512x512, smooth synthetic motion to 4 px", *smooth_motion()
    for name in ("RubberWhale", "Venus"):
        folder = DATA / "flow" / name
        if folder.is_dir():
            frames = [gray(folder / f"frame{k}.png") for k in (10, 11)]
            yield name, *frames, read_flo(folder / "flow10.flo")


def peers(reference, moving):
    """Each takes 8-bit or float arrays as it needs them and returns (2, H, W)."""
    first, second = (f[0].numpy() for f in (reference, moving))
    bytes_first, bytes_second = (np.round(255 * f).astype(np.uint8) for f in (first, second))
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = first.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    every_pixel = np.stack([x, y], -1).reshape(-1, 1, 2)

    def pyr_lk():
        moved, _, _ = cv2.calcOpticalFlowPyrLK(
            bytes_first, bytes_second, every_pixel, None, winSize=(15, 15), maxLevel=3
        )
        return (moved - every_pixel).reshape(height, width, 2).transpose(2, 0, 1)

    def farneback():
        flow = cv2.calcOpticalFlowFarneback(
            bytes_first, bytes_second, None, 0.5, 5, 15, 5, 5, 1.1, 0
        )
        return flow.transpose(2, 0, 1)

    def ilk():
        v, u = optical_flow_ilk(first, second, radius=7)
        return np.stack([u, v])

    yield "OpenCV DIS medium", lambda: dis.calc(bytes_first, bytes_second, None).transpose(2, 0, 1)
    yield "OpenCV Farneback", farneback
    yield "OpenCV PyrLK at every pixel, 15x15", pyr_lk
    yield "scikit-image iLK, radius 7", ilk


def cases(device):
    for name, reference, moving, truth in scenes():
        here = [f.to(device) for f in (reference, moving)]
        with_gradient = [f.clone().requires_grad_() for f in here]

        def forward(frames=here):
            with torch.no_grad():
                return lucas_kanade(*frames).flow

        def forward_backward(frames=with_gradient):
            flow = lucas_kanade(*frames).flow
            flow.square().mean().backward()
            return flow

        def error(flow, truth=truth):
            flow = (
                torch.as_tensor(np.ascontiguousarray(flow))
                if isinstance(flow, np.ndarray)
                else flow
            )
            return endpoint_error(flow.detach().cpu().float(), truth).item()

        yield Case(
            name=name,
            candidates={
                "torchops": forward,
                "torchops, forward + backward": forward_backward,
                **dict(peers(reference, moving)),
            },
            baseline="torchops",
            metrics={"endpoint error": error},
            image_bytes=reference.numel() * 4,
        )


if __name__ == "__main__":
    main("flow", cases)
