import math

import cv2
import numpy as np
import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.registration import optical_flow_ilk

from torchops import (
    LucasKanade,
    OpticalFlow,
    endpoint_error,
    lucas_kanade,
    read_flo,
    warp_by_flow,
)

WAVES = 40


def waves(height, width, shift=(0.0, 0.0), *, dtype=torch.float32, highest=0.6):
    """A band-limited texture sampled analytically, so that its shift has no resampling error."""
    generator = torch.Generator().manual_seed(1)
    f = (torch.rand(WAVES, 2, 1, 1, generator=generator, dtype=torch.float64) * 2 - 1) * highest
    phase = torch.rand(WAVES, 1, 1, generator=generator, dtype=torch.float64) * 2 * math.pi
    y = torch.arange(height, dtype=torch.float64)[:, None] - shift[1]
    x = torch.arange(width, dtype=torch.float64) - shift[0]
    return (0.5 + torch.cos(f[:, 0] * x + f[:, 1] * y + phase).mean(0)).to(dtype)[None]


def wave_pair(height, width, shift, **options):
    return waves(height, width, **options), waves(height, width, shift, **options)


def constant_flow(shift, height, width):
    return torch.tensor(shift)[:, None, None].expand(2, height, width)


def interior(margin, height, width):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, margin:-margin, margin:-margin] = True
    return mask


def gray(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("L")).copy())[None]


def real_pair(folder, name):
    folder = folder / "flow" / name
    return (
        gray(folder / "frame10.png"),
        gray(folder / "frame11.png"),
        read_flo(folder / "flow10.flo"),
    )


def camera_pair(motion, size=160):
    """The bundled photograph and what it looks like under a known motion: reference, moving, flow.

    ``moving`` is the photograph; ``reference(x) = moving(x + flow(x))`` by quintic splines.
    """
    image = photograph("camera.png")[0, -size:, :size].numpy()
    y, x = np.mgrid[:size, :size].astype(np.float64)
    flow = np.stack(np.broadcast_arrays(*motion(x, y)))
    reference = map_coordinates(image, [y + flow[1], x + flow[0]], order=5, mode="mirror")
    as_tensor = lambda a: torch.from_numpy(a).float()  # noqa: E731
    return as_tensor(reference)[None], as_tensor(image)[None], as_tensor(flow)


def rotation(x, y):
    dx, dy = x - 79.5, y - 79.5
    cosine, sine = math.cos(math.pi / 90), math.sin(math.pi / 90)
    return (cosine - 1) * dx - sine * dy + 1, sine * dx + (cosine - 1) * dy - 0.5


MOTIONS = {
    "translation": lambda x, y: (3.3 + 0 * x, -2.6 + 0 * y),
    "rotation": rotation,
    "zoom": lambda x, y: (0.03 * (x - 79.5), 0.03 * (y - 79.5)),
    "waves": lambda x, y: (
        4 * np.sin(x * math.pi / 100) * np.cos(y * math.pi / 125),
        4 * np.cos(x * math.pi / 115) * np.sin(y * math.pi / 90),
    ),
}


def test_result_has_the_documented_shapes_and_dtypes(device):
    frame = torch.rand(2, 5, 3, 20, 30, device=device)
    result = lucas_kanade(frame, frame)
    assert isinstance(result, OpticalFlow)
    assert result.flow.shape == (2, 5, 2, 20, 30)
    assert result.confidence.shape == (2, 5, 1, 20, 30)
    assert result.eigenvalues.shape == (2, 5, 2, 20, 30)
    assert all(t.dtype == torch.float32 and t.device == frame.device for t in result)


# Accuracy


def test_a_constant_shift_of_a_smooth_texture_is_exact_at_one_level():
    flow = lucas_kanade(*wave_pair(64, 80, (0.4, -0.3)), levels=1).flow
    assert abs(flow[0].median().item() - 0.4) <= 0.002
    assert abs(flow[1].median().item() + 0.3) <= 0.002


@pytest.mark.parametrize("size", [(100, 120), (101, 77)])
def test_the_pyramid_finds_a_large_shift_at_even_and_odd_sizes(size):
    shift = (7.3, -5.6)
    flow = lucas_kanade(*wave_pair(*size, shift)).flow
    error = endpoint_error(flow, constant_flow(shift, *size), mask=interior(20, *size))
    assert error <= 0.002


def peer_errors(reference, moving, flow, mask):
    frames = [np.round(t[0].numpy() * 255).astype(np.uint8) for t in (reference, moving)]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*frames, None)
    v, u = optical_flow_ilk(
        reference[0].numpy(), moving[0].numpy(), radius=7, num_warp=3, gaussian=True
    )
    flows = (torch.from_numpy(dis).permute(2, 0, 1), torch.from_numpy(np.stack([u, v])))
    return [endpoint_error(f, flow.to(f.dtype), mask=mask).item() for f in flows]


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_photograph_under_known_motion_beats_opencv_and_skimage(motion):
    reference, moving, flow = camera_pair(MOTIONS[motion])
    mask = interior(30, 160, 160)
    error = endpoint_error(lucas_kanade(reference, moving).flow, flow, mask=mask).item()
    assert error <= 0.1
    assert error <= min(peer_errors(reference, moving, flow, mask))


@pytest.mark.parametrize(("name", "limit"), [("RubberWhale", 0.11), ("Venus", 0.25)])
def test_real_frames(shared_data, name, limit):
    reference, moving, target = real_pair(shared_data, name)
    result = lucas_kanade(reference, moving)
    assert endpoint_error(result.flow, target) <= limit
    # The confidence is a probability: on average it meets the rate, and it ranks.
    known = ~target.isnan().any(0)
    good = ((result.flow - target).norm(dim=0) < 0.5)[known].float()
    confidence = result.confidence[0][known]
    assert abs(confidence.mean() - good.mean()) <= 0.02
    assert good[confidence >= confidence.median()].mean() >= 0.99


def test_the_warped_frame_looks_like_the_reference():
    reference, moving, _ = camera_pair(MOTIONS["waves"])
    flow = lucas_kanade(reference, moving).flow
    before = (moving - reference).abs().mean()
    after = (warp_by_flow(moving, flow, mode="bicubic") - reference).abs().mean()
    assert after <= 0.15 * before


def test_forth_and_back_cancel():
    reference, moving, _ = camera_pair(MOTIONS["rotation"])
    forth = lucas_kanade(reference, moving).flow
    back = lucas_kanade(moving, reference).flow
    residual = (forth + warp_by_flow(back, forth)).norm(dim=0)
    assert residual.median() <= 0.02


# Symmetries and units

SYMMETRIES = {
    "transpose": (lambda t: t.mT, lambda f: f.flip(-3)),
    "horizontal flip": (lambda t: t.flip(-1), lambda f: f * f.new_tensor([-1, 1])[:, None, None]),
    "vertical flip": (lambda t: t.flip(-2), lambda f: f * f.new_tensor([1, -1])[:, None, None]),
}


@pytest.mark.parametrize("size", [(60, 82), (61, 77)])
@pytest.mark.parametrize("name", SYMMETRIES)
def test_turning_both_frames_turns_the_flow(name, size):
    height, width = size
    reference, moving, _ = camera_pair(MOTIONS["rotation"])
    frames = [t[:, 60 : 60 + height, 70 : 70 + width] for t in (reference, moving)]
    turn, change = SYMMETRIES[name]
    plain, turned = lucas_kanade(*frames), lucas_kanade(*map(turn, frames))
    assert_close(turned.flow, change(turn(plain.flow)), 1e-4)
    assert_close(turned.confidence, turn(plain.confidence), 1e-3)
    expected = turn(plain.eigenvalues)
    assert_close(turned.eigenvalues, expected, 1e-5 * expected.max())


@pytest.mark.parametrize("gain", [255.0, 1e-3, 1e30, 1e-30])
def test_a_gain_on_both_frames_changes_neither_flow_nor_confidence(gain):
    frames = wave_pair(50, 60, (0.8, -0.5))
    plain, scaled = lucas_kanade(*frames), lucas_kanade(*(gain * f for f in frames))
    assert_close(scaled.flow, plain.flow, 1e-4)
    assert_close(scaled.confidence, plain.confidence, 1e-4)
    if gain in (255.0, 1e-3):
        expected = plain.eigenvalues * gain**2
        assert_close(scaled.eigenvalues, expected, 1e-5 * expected.max())
    assert not scaled.eigenvalues.isnan().any()


def test_an_offset_on_one_frame_changes_nothing():
    reference, moving = wave_pair(50, 60, (0.8, -0.5))
    plain, lit = lucas_kanade(reference, moving), lucas_kanade(reference, moving + 0.25)
    assert_close(lit.flow, plain.flow, 1e-4)


def test_gray_as_three_channels_is_gray():
    frames = wave_pair(40, 50, (0.8, -0.5))
    plain = lucas_kanade(*frames)
    colour = lucas_kanade(*(f.expand(3, -1, -1) for f in frames))
    for one, three in zip(plain, colour, strict=True):
        assert_close(three, one, 1e-4)


def test_identical_frames_do_not_move():
    frame = photograph("coffee.png", dtype=torch.float32)[:, 100:160, 200:280]
    assert_close(lucas_kanade(frame, frame).flow, torch.zeros(2, 60, 80), 1e-5)


# The mistakes this project exists to spare people


def test_mistake_one_displacement_for_the_whole_image():
    # Two halves move apart: one vector for all pixels would have an error of 1 px everywhere.
    reference, moving, flow = camera_pair(lambda x, y: (np.where(x < 80, 1.0, -1.0), 0 * y))
    found = lucas_kanade(reference, moving).flow
    halves = interior(20, 160, 160)
    halves[..., 60:100] = False
    assert endpoint_error(found, flow, mask=halves) <= 0.05


def test_mistake_sobel_without_one_eighth():
    # Gradients eight times too large shrink a one-step flow to an eighth, and multiply
    # eigenvalues by 64: a ramp of slope 3 has eigenvalues 0 and 9.
    one_step = lucas_kanade(*wave_pair(64, 80, (0.4, -0.3)), levels=1, warps=1).flow
    assert abs(one_step[0].median().item() - 0.4) <= 0.02
    assert abs(one_step[1].median().item() + 0.3) <= 0.02
    ramp = (3 * torch.arange(60.0)).expand(1, 50, 60)
    eigenvalues = lucas_kanade(ramp, ramp).eigenvalues
    assert_close(
        eigenvalues[:, 20:-20, 20:-20],
        torch.tensor([0.0, 9.0])[:, None, None].expand(2, 10, 20),
        1e-4,
    )


def test_mistake_a_flow_with_the_wrong_sign():
    # The scene moves 2 px right and 1 px down: moving(x + flow(x)) = reference(x).
    scene = waves(70, 80)
    reference, moving = scene[:, 10:60, 10:70], scene[:, 9:59, 8:68]
    flow = lucas_kanade(reference, moving).flow
    assert_close(flow.median(-1).values.median(-1).values, torch.tensor([2.0, 1.0]), 0.01)


def test_mistake_uint8_differences_that_wrap():
    reference, moving = ((200 * f).round().to(torch.uint8) for f in wave_pair(64, 64, (0.4, -0.3)))
    flow = lucas_kanade(reference, moving).flow
    assert_close(flow, lucas_kanade(reference.float(), moving.float()).flow, 1e-3)
    assert_close(flow, lucas_kanade(reference.float() / 255, moving.float() / 255).flow, 1e-3)
    assert endpoint_error(flow, constant_flow((0.4, -0.3), 64, 64), mask=interior(8, 64, 64)) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [1, None])
def test_mistake_det_plus_epsilon_that_kills_the_flow_of_a_one_dimensional_pattern(dtype, levels):
    # The numerator of the closed form is 0 with the determinant: adding 1e-6 returns 0 there.
    x = torch.arange(64, dtype=dtype)
    frames = [torch.sin(2 * math.pi * (x - s) / 20).expand(1, 64, 64) for s in (0.0, 0.5)]
    result = lucas_kanade(*frames, levels=levels)
    assert_close(result.flow[0, :, 10:-10], torch.full((64, 44), 0.5, dtype=dtype), 0.05)
    assert result.flow[1].abs().max() <= 1e-3
    assert result.confidence.max() <= 0.01
    assert result.eigenvalues[0].max() <= 1e-6


# Neutral results


@pytest.mark.parametrize("value", [0.0, 0.3, 255.0])
def test_a_flat_image_has_no_flow_no_confidence_and_finite_gradients(value):
    reference = torch.full((1, 20, 30), value, requires_grad=True)
    moving = torch.full((1, 20, 30), value + 1, requires_grad=True)
    result = lucas_kanade(reference, moving, levels=2, warps=2)
    assert_close(result.flow, torch.zeros(2, 20, 30), 1e-6)
    assert_close(result.confidence, torch.zeros(1, 20, 30), 1e-6)
    gradients = torch.autograd.grad(sum(t.sum() for t in result), (reference, moving))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (7, 40)])
@pytest.mark.parametrize("levels", [None, 4])
def test_images_smaller_than_the_window(size, levels):
    frames = torch.rand(2, 3, *size)
    result = lucas_kanade(*frames, levels=levels)
    assert all(t.isfinite().all() for t in result)
    if size == (1, 1):
        assert not result.flow.any()


def test_an_empty_batch_gives_an_empty_flow():
    result = lucas_kanade(torch.rand(0, 3, 12, 14), torch.rand(3, 12, 14))
    assert [tuple(t.shape) for t in result] == [(0, 2, 12, 14), (0, 1, 12, 14), (0, 2, 12, 14)]


def test_missing_pixels_do_not_disturb_the_rest():
    shift = (1.6, -1.2)
    reference, moving = wave_pair(80, 90, shift)
    damaged, other = reference.clone(), moving.clone()
    damaged[:, 30:40, 40:50] = float("nan")
    other[:, 10:16, 60:70] = float("inf")
    damaged.requires_grad_()
    result = lucas_kanade(damaged, other)
    assert all(t.isfinite().all() for t in result)
    target = constant_flow(shift, 80, 90)
    assert endpoint_error(result.flow, target, mask=interior(10, 80, 90)) <= 0.01
    (gradient,) = torch.autograd.grad(result.flow.sum(), damaged)
    assert gradient.isfinite().all()
    assert not gradient[:, 30:40, 40:50].any()


def test_a_frame_of_missing_pixels_keeps_the_initial_flow():
    nan = torch.full((1, 20, 24), float("nan"))
    initial = torch.full((2, 20, 24), 1.5)
    result = lucas_kanade(nan, torch.rand(1, 20, 24), initial=initial)
    assert_close(result.flow, initial, 1e-5)
    assert not result.confidence.any()


def test_unrelated_frames_are_not_trusted():
    assert lucas_kanade(torch.rand(1, 80, 80), torch.rand(1, 80, 80)).confidence.mean() <= 0.05


# Options


def test_a_masked_region_does_not_count():
    # Two halves that move apart: masked, the right one's edge takes the flow of the left one.
    reference, moving, _ = camera_pair(lambda x, y: (np.where(x < 80, 1.0, -1.0), 0 * y))
    mask = torch.ones(1, 160, 160, dtype=torch.bool)
    mask[..., 80:] = False
    masked = lucas_kanade(reference, moving, mask=mask)
    right = (0, slice(20, -20), slice(84, 92))
    assert abs(masked.flow[right].median().item() - 1) <= 0.1
    assert abs(lucas_kanade(reference, moving).flow[right].median().item() + 1) <= 0.1
    weights = lucas_kanade(reference, moving, mask=mask.float())
    assert torch.equal(weights.flow, masked.flow)


def test_an_initial_flow_finds_a_motion_beyond_the_pyramid():
    scene = photograph("camera.png", dtype=torch.float32)
    reference, moving = scene[:, 100:200, 150:250], scene[:, 140:240, 120:220]
    initial = torch.tensor([30.5, -40.5])[:, None, None].expand(2, 100, 100)
    flow = lucas_kanade(reference, moving, initial=initial, levels=3).flow
    target, mask = constant_flow((30.0, -40.0), 100, 100), torch.zeros(1, 100, 100)
    mask[:, 45:90, 10:65] = 1
    assert endpoint_error(flow, target, mask=mask) <= 0.1
    unknown = initial.clone()
    unknown[:, 50] = float("nan")
    assert lucas_kanade(reference, moving, initial=unknown).flow.isfinite().all()


def test_eigenvalues_are_those_of_the_gaussian_average_of_gradient_products():
    image = photograph("coffee.png")[:, 100:148, 200:260]
    derivative = np.array([1, -8, 0, 8, -1]) / 12
    products = torch.zeros(2, 2, *image.shape[1:], dtype=torch.float64)
    for channel in image.numpy():
        padded = np.pad(channel, 2, mode="edge")
        gx = sum(w * padded[2:-2, k : k + 60] for k, w in enumerate(derivative))
        gy = sum(w * padded[k : k + 48, 2:-2] for k, w in enumerate(derivative))
        products += torch.from_numpy(np.array([[gx * gx, gx * gy], [gx * gy, gy * gy]])) / 3
    kernel = torch.from_numpy(cv2.getGaussianKernel(19, 3.0)).ravel()  # cut at 3 sigma
    total = torch.zeros_like(products)
    for i, a in enumerate(kernel):
        for j, b in enumerate(kernel):
            rows, columns = i - 9, j - 9
            source = torch.nn.functional.pad(products, [9, 9, 9, 9])
            total += a * b * source[..., 9 + rows : 57 + rows, 9 + columns : 69 + columns]
    inner = (slice(None), slice(10, -10), slice(10, -10))
    expected = torch.linalg.eigvalsh(total.permute(2, 3, 0, 1)).permute(2, 0, 1)[inner]
    assert_close(lucas_kanade(image, image, sigma=3).eigenvalues[inner], expected, 1e-12)


def test_confidence_grows_with_contrast_and_falls_at_a_hidden_region():
    reference, moving, _ = camera_pair(MOTIONS["translation"], size=128)
    moving = moving.clone()
    moving[:, 40:80, 40:80] = torch.rand(1, 40, 40)
    confidence = lucas_kanade(reference, moving).confidence
    assert confidence[:, 50:70, 50:70].mean() <= 0.3
    assert confidence[:, 90:110, 20:110].mean() >= 0.7


@pytest.mark.parametrize("gradient", ["unroll", "last", "none"])
def test_the_gradient_option_does_not_change_values(gradient):
    frames = [f.requires_grad_() for f in wave_pair(30, 40, (0.8, -0.5))]
    result = lucas_kanade(*frames, gradient=gradient)
    expected = lucas_kanade(*(f.detach() for f in frames))
    for actual, value in zip(result, expected, strict=True):
        assert_close(actual, value, 1e-6)
        assert actual.requires_grad == (gradient != "none")


def test_module_equals_function():
    frames = torch.rand(2, 2, 3, 24, 28)
    initial, mask = torch.rand(2, 24, 28), torch.rand(1, 24, 28)
    module = LucasKanade(sigma=3, levels=2, warps=2, gradient="last")
    expected = lucas_kanade(
        *frames, sigma=3, levels=2, warps=2, initial=initial, mask=mask, gradient="last"
    )
    for actual, value in zip(module(*frames, initial, mask), expected, strict=True):
        assert torch.equal(actual, value)
    assert repr(module) == "LucasKanade(sigma=3, levels=2, warps=2, gradient='last')"


# Batches, layouts, dtypes


def test_a_sample_in_a_batch_gets_what_it_gets_alone():
    reference, moving = wave_pair(30, 40, (0.8, -0.5))
    batch = torch.stack([reference, reference * 50, reference.flip(-1)])
    together = lucas_kanade(batch, moving)  # one moving frame for all three
    for k, sample in enumerate(batch):
        for actual, expected in zip(together, lucas_kanade(sample, moving), strict=True):
            assert_close(actual[k], expected, 1e-5 * max(1, expected.abs().max().item()))


def test_layouts():
    reference = smooth_image(2, 3, 20, 24, dtype=torch.float32)
    moving = smooth_image(2, 3, 20, 24, dtype=torch.float32, seed=1)
    expected = lucas_kanade(reference[0], moving[0]).flow
    for name, image in layouts(reference[0]):
        assert_close(lucas_kanade(image, moving[0]).flow, expected, 1e-6, name)
    channels_last = reference.contiguous(memory_format=torch.channels_last)
    assert_close(lucas_kanade(channels_last, moving).flow[0], expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    frames = [f.to(dtype) for f in wave_pair(40, 50, (0.8, -0.5))]
    result = lucas_kanade(*frames)
    exact = lucas_kanade(*(f.double() for f in frames))
    assert all(
        t.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for t in result
    )
    for actual, expected in zip(result, exact, strict=True):
        assert_close(actual, expected, 1e-4)


def test_autocast_changes_nothing(device):
    frames = [f.to(device) for f in wave_pair(30, 40, (0.8, -0.5))]
    expected = lucas_kanade(*frames)
    with torch.autocast(device.type, torch.bfloat16):
        result = lucas_kanade(*frames)
    for actual, value in zip(result, expected, strict=True):
        assert torch.equal(actual, value)


def test_devices_agree(device):
    frames = wave_pair(40, 50, (2.3, -1.5))
    expected = lucas_kanade(*frames)
    for actual, value in zip(lucas_kanade(*(f.to(device) for f in frames)), expected, strict=True):
        assert_close(actual.cpu(), value, 1e-4)


def test_inputs_are_not_modified():
    tensors = [*torch.rand(2, 1, 20, 24), torch.rand(2, 20, 24), torch.rand(1, 20, 24)]
    copies = [t.clone() for t in tensors]
    reference, moving, initial, mask = tensors
    lucas_kanade(reference[None], moving[None], initial=initial, mask=mask)
    assert all(torch.equal(t, copy) for t, copy in zip(tensors, copies, strict=True))
