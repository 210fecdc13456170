"""Each test is named after a mistake of common optical flow code that it would catch."""

import torch
from helpers import photograph, smooth_image

import torchops

SHIFT = (0.4, -0.3)


def pair(dtype=torch.float64):
    """Two frames of one analytic texture; the content of the second lies SHIFT further."""
    height, width = 64, 80
    y = torch.arange(height, dtype=dtype)[:, None]
    x = torch.arange(width, dtype=dtype)[None]

    def texture(x, y):
        waves = [(0.35, 0.1), (-0.12, 0.42), (0.25, -0.31), (0.5, 0.22), (-0.4, 0.05)]
        return sum(torch.cos(a * x + b * y + 1.7 * k) for k, (a, b) in enumerate(waves)) / 10 + 0.5

    return texture(x, y)[None], texture(x - SHIFT[0], y - SHIFT[1])[None]


def inner(tensor):
    return tensor[..., 8:-8, 8:-8]


def test_one_displacement_for_the_whole_image():
    image = photograph("camera.png", dtype=torch.float32)[:, 128:288, 128:288]
    y, x = torch.meshgrid(torch.arange(160.0) - 79.5, torch.arange(160.0) - 79.5, indexing="ij")
    truth = torch.stack([-0.02 * y, 0.02 * x])  # a small turn: every pixel moves its own way
    reference = torchops.warp_by_flow(image, truth, mode="bicubic")
    flow = torchops.lucas_kanade(reference, image).flow
    one_for_all = truth.mean((-2, -1), keepdim=True).expand_as(truth)
    error = torchops.endpoint_error(inner(flow), inner(truth))
    assert error < 0.1
    assert torchops.endpoint_error(inner(one_for_all), inner(truth)) > 5 * error


def test_sobel_without_the_eighth():
    reference, moving = pair()
    flow = torchops.lucas_kanade(reference, moving, levels=1, warps=1).flow
    # A derivative that is 8 (or 8/3) times too large makes one step 8 (8/3) times too short.
    u, v = (inner(channel).median().item() for channel in flow)
    assert abs(u - SHIFT[0]) < 0.04
    assert abs(v - SHIFT[1]) < 0.04


def test_a_flow_with_the_wrong_sign():
    reference, moving = pair()
    flow = torchops.lucas_kanade(reference, moving).flow
    u, v = (inner(channel).median().item() for channel in flow)
    assert abs(u - SHIFT[0]) < 0.02
    assert abs(v - SHIFT[1]) < 0.02
    assert (
        inner(torchops.warp_by_flow(moving, flow, mode="bicubic") - reference)
    ).abs().max() < 0.01


def test_uint8_differences_that_wrap():
    reference, moving = ((255 * frame).round() for frame in pair())
    as_bytes = torchops.lucas_kanade(reference.to(torch.uint8), moving.to(torch.uint8)).flow
    as_floats = torchops.lucas_kanade(reference.float(), moving.float()).flow
    assert (as_bytes - as_floats).abs().max() <= 1e-3


def test_det_plus_epsilon_that_kills_the_flow_of_a_one_dimensional_pattern():
    x = torch.arange(96, dtype=torch.float64)
    reference = torch.sin(0.2 * x).expand(1, 64, 96)
    moving = torch.sin(0.2 * (x - 0.5)).expand(1, 64, 96)
    result = torchops.lucas_kanade(reference, moving)
    u, v = inner(result.flow)
    assert (u - 0.5).abs().max() <= 0.05
    assert v.abs().max() <= 1e-3
    assert inner(result.confidence).max() < 0.1  # and it says that one direction is unknown


def test_a_gain_on_both_frames_changes_nothing():
    reference, moving = pair()
    image = smooth_image(1, 40, 50)
    flow = torchops.lucas_kanade(reference, moving)
    bright = torchops.lucas_kanade(255 * reference, 255 * moving)
    assert (flow.flow - bright.flow).abs().max() <= 1e-4
    assert (flow.confidence - bright.confidence).abs().max() <= 1e-4
    assert torchops.lucas_kanade(image, image).flow.abs().max() <= 1e-6
