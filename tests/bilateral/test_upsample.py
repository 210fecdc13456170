"""Joint bilateral upsampling: the definition as loops, closed forms, photographs, gradients."""

import math

import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import interpolate

from torchops import bilateral_filter, joint_bilateral_upsample, rgb_to_yuv
from torchops.bilateral import cells


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def overlap(first, last, pixel):
    return max(0.0, min(last, pixel + 1) - max(first, pixel))


def cell_means(guide, h, w):
    """The mean of the guide over the area of every pixel of the small grid, written as loops."""
    _, height, width = guide.shape
    sy, sx = height / h, width / w
    means = torch.zeros(guide.shape[0], h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            for y in range(height):
                for x in range(width):
                    area = overlap(i * sy, (i + 1) * sy, y) * overlap(j * sx, (j + 1) * sx, x)
                    means[:, i, j] += area / (sy * sx) * guide[:, y, x]
    return means


def upsampled(image, guide, sigmas, level, radii, distance, mask):
    """The definition, written as loops."""
    channels, h, w = image.shape
    _, height, width = guide.shape
    means = cell_means(guide, h, w)
    out = torch.zeros(channels, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            # In the units of the small grid, a pixel's centre is at (y + 1/2) h / H from the edge.
            near_y, near_x = (2 * y + 1) * h // (2 * height), (2 * x + 1) * w // (2 * width)
            at_y, at_x = (y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5
            weighted, total = torch.zeros(channels, dtype=torch.float64), 0.0
            for i in range(max(0, near_y - radii[0]), min(h, near_y + radii[0] + 1)):
                for j in range(max(0, near_x - radii[1]), min(w, near_x + radii[1] + 1)):
                    difference = guide[:, y, x] - means[:, i, j]
                    if distance == "l2":
                        d = difference.square().sum().sqrt()
                    else:
                        d = difference.abs().sum()
                    space = ((at_y - i) / sigmas[0]) ** 2 + ((at_x - j) / sigmas[1]) ** 2
                    weight = mask[0, i, j] * math.exp(-space / 2 - float(d / level) ** 2 / 2)
                    weighted += weight * image[:, i, j]
                    total += weight
            out[:, y, x] = weighted / total
    return out


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((3, 4), (9, 12)),
        ((3, 4), (10, 11)),  # no whole ratio on either axis
        ((4, 3), (4, 3)),
        ((3, 5), (8, 5)),
        ((1, 2), (5, 7)),
    ],
)
@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_equals_the_definition(small, large, distance):
    image, guide, mask = rand(2, *small), rand(3, *large, seed=1), rand(1, *small, seed=2)
    found = joint_bilateral_upsample(
        image, guide, (0.6, 0.9), 0.4, radius=(2, 1), distance=distance, mask=mask
    )
    expected = upsampled(image, guide, (0.6, 0.9), 0.4, (2, 1), distance, mask)
    assert_close(found, expected, 1e-13)


def test_blocks_change_nothing(monkeypatch):
    inputs = [t.requires_grad_() for t in (rand(2, 2, 9, 5), rand(2, 1, 31, 17), rand(1, 9, 5))]
    upstream = rand(2, 2, 31, 17, seed=3)

    def run():
        out = joint_bilateral_upsample(*inputs[:2], 0.7, 0.2, mask=inputs[2])
        return out, *torch.autograd.grad(out, inputs, upstream)

    whole = run()
    monkeypatch.setattr(cells, "BLOCK", 1)  # a block for every row of the small image
    for a, b in zip(run(), whole, strict=True):
        assert_close(a, b, 1e-13)


def test_equal_sizes_are_the_joint_bilateral_filter():
    image, guide, mask = rand(2, 9, 8), rand(3, 9, 8, seed=1), rand(1, 9, 8, seed=2)
    for distance in ("l2", "l1"):
        found = joint_bilateral_upsample(image, guide, 1.0, 0.2, mask=mask, distance=distance)
        expected = bilateral_filter(
            image, 1.0, 0.2, guide=guide, mask=mask, distance=distance, border="valid_only"
        )
        assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("size", [(28, 36), (30, 31)])
def test_a_constant_image_stays_constant_up_to_the_border(size):
    image = torch.full((2, 7, 9), 0.7)
    assert_close(
        joint_bilateral_upsample(image, torch.rand(3, *size), 0.5, 0.1),
        image[:, :1, :1].expand(2, *size),
        1e-6,
    )


def test_a_constant_guide_gives_gaussian_upsampling():
    image = rand(1, 6, 7)
    found = joint_bilateral_upsample(image, torch.full((1, 24, 14), 0.3).double(), 0.8, 0.1)
    rows = torch.zeros(24, 6, dtype=torch.float64)
    columns = torch.zeros(14, 7, dtype=torch.float64)
    for matrix, scale in ((rows, 4), (columns, 2)):
        for p in range(len(matrix)):
            for q in range(matrix.shape[1]):
                if abs(p // scale - q) <= 3:
                    away = (p + 0.5) / scale - 0.5 - q
                    matrix[p, q] = math.exp(-(away**2) / (2 * 0.8**2))
        matrix /= matrix.sum(1, keepdim=True)
    assert_close(found[0], rows @ image[0] @ columns.T, 1e-13)


def test_pixel_edges_are_aligned():
    # A picture and its mirror image are upsampled alike: nothing is shifted by part of a pixel.
    image, guide = rand(1, 5, 6), rand(1, 17, 24, seed=1)
    for dims in ((-1,), (-2,)):
        mirrored = joint_bilateral_upsample(image.flip(dims), guide.flip(dims), 0.6, 0.3)
        assert_close(mirrored.flip(dims), joint_bilateral_upsample(image, guide, 0.6, 0.3), 1e-13)
    swapped = joint_bilateral_upsample(image.mT, guide.mT, 0.6, 0.3)
    assert_close(swapped.mT, joint_bilateral_upsample(image, guide, 0.6, 0.3), 1e-13)


@pytest.mark.parametrize("edge", [16, 18])  # between two small pixels, and in the middle of one
def test_a_step_of_depth_keeps_the_guides_edge(edge):
    columns = torch.arange(32)
    guide = torch.where(columns < edge, 0.2, 0.8).expand(1, 32, 32) + 0.02 * torch.rand(1, 32, 32)
    depth = torch.where(columns < edge, 1.0, 5.0).expand(1, 32, 32)
    small = interpolate(depth[None], (8, 8), mode="area")[0]
    sharp = joint_bilateral_upsample(small, guide, 0.5, 0.05)
    assert_close(sharp, depth, 1e-3)
    bicubic = interpolate(small[None], (32, 32), mode="bicubic")[0]
    assert (bicubic - depth).abs().max() > 1


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "chelsea.png"])
def test_chroma_of_a_photograph_comes_closer_than_by_bicubic(name):
    rgb = photograph(name)[:, :256, :256]
    chroma = rgb_to_yuv(rgb)[1:]
    small = interpolate(chroma[None], (64, 64), mode="area")[0]
    steep = sum(chroma.diff(dim=d).square().sum(0)[:255, :255] for d in (-1, -2))
    edges = steep > steep.flatten().quantile(0.9)

    def psnr(found):
        return -10 * float((found - chroma).square()[:, :255, :255][:, edges].mean().log10())

    bicubic = psnr(interpolate(small[None], (256, 256), mode="bicubic")[0])
    joint = psnr(joint_bilateral_upsample(small, rgb, 0.7, 0.06))
    assert joint > bicubic + {"astronaut.png": 1, "coffee.png": 2, "chelsea.png": 0.5}[name]


def test_a_value_unlike_all_others_takes_what_is_least_unlike():
    # A thin line that no small pixel shows: every weight is below the smallest float32.
    guide = torch.zeros(1, 16, 16)
    guide[:, :, 9] = 1.0
    image = torch.where(torch.arange(4) == 2, 3.0, 1.0).expand(1, 4, 4)
    found = joint_bilateral_upsample(image, guide, 0.5, 0.01)
    assert_close(found[:, :, 9], torch.full((1, 16), 3.0), 1e-6)
    # So does a tiny sigma_space: it ends in the nearest pixel, not in 0 / 0.
    nearest = joint_bilateral_upsample(image, torch.zeros(1, 16, 16), 1e-3, 0.1, radius=1)
    assert_close(nearest, interpolate(image[None], (16, 16), mode="nearest")[0], 1e-6)


def test_sparse_depth():
    guide = torch.where(torch.arange(24) < 12, 0.0, 1.0).expand(1, 24, 24).double()
    depth = torch.where(torch.arange(12) < 6, 2.0, 4.0).expand(1, 12, 12).double().clone()
    mask = rand(1, 12, 12, seed=4) < 0.2
    depth[~mask] = torch.nan
    found = joint_bilateral_upsample(depth, guide, 3.0, 0.1, mask=mask)
    assert_close(found, torch.where(guide > 0.5, 4.0, 2.0).double(), 1e-12)
    nothing = joint_bilateral_upsample(depth, guide, 3.0, 0.1, mask=torch.zeros_like(mask))
    assert (nothing == 0).all()
    far = torch.zeros_like(mask)
    far[:, 0, 0] = True
    depth[:, 0, 0] = 2.0
    found = joint_bilateral_upsample(depth, guide, 3.0, 0.1, mask=far, radius=2)
    assert (found[:, :6, :6] == 2).all()
    assert (found[:, 6:] == 0).all()
    assert (found[:, :, 6:] == 0).all()


def test_guide_pixels_that_are_not_finite():
    image, guide = rand(1, 4, 4), rand(2, 16, 16, seed=1)
    expected = joint_bilateral_upsample(image, guide, 0.5, 0.3)
    broken = guide.clone()
    broken[0, 5, 6] = torch.nan
    broken[1, 6, 7] = torch.inf
    found = joint_bilateral_upsample(image, broken, 0.5, 0.3)
    assert (found[:, 5, 6] == 0).all()
    assert (found[:, 6, 7] == 0).all()
    rest = torch.ones(16, 16, dtype=torch.bool)
    rest[5, 6] = rest[6, 7] = False
    assert_close(found[:, rest], expected[:, rest], 0.05)
    broken[:, 4:8, 4:8] = torch.nan  # a whole cell: its pixel of the image does not count
    hidden = image.clone()
    hidden[:, 1, 1] = 1e6
    found = joint_bilateral_upsample(hidden, broken, 0.5, 0.3)
    assert found.max() < 2
    broken, hidden = broken.requires_grad_(), hidden.requires_grad_()
    joint_bilateral_upsample(hidden, broken, 0.5, 0.3).sum().backward()
    assert broken.grad.isfinite().all()
    assert (broken.grad[:, 4:8, 4:8] == 0).all()
    assert hidden.grad[:, 1, 1] == 0


def test_nan_of_a_counting_pixel_stays_in_its_windows():
    image, guide = rand(1, 8, 8), rand(1, 16, 16, seed=1)
    image[0, 2, 2] = torch.nan
    found = joint_bilateral_upsample(image, guide, 0.5, 0.3, radius=1)[0]
    assert found[2:8, 2:8].isnan().all()
    assert found.isfinite().sum() == 16 * 16 - 36


# --- Gradients -----------------------------------------------------------------------------------


def problem(size=(5, 7)):
    inputs = (
        rand(2, 1, 2, 3),
        rand(2, *size, seed=1),
        0.1 + 0.9 * rand(1, 2, 3, seed=2),
        torch.tensor([0.6, 0.8], dtype=torch.float64),
        torch.tensor(0.4, dtype=torch.float64),
    )
    return tuple(t.requires_grad_() for t in inputs)


def run(image, guide, mask, space, level, distance="l2"):
    return joint_bilateral_upsample(
        image, guide, space, level, mask=mask, radius=1, distance=distance
    )


@pytest.mark.parametrize(("size", "distance"), [((5, 7), "l2"), ((4, 6), "l1")])
def test_first_and_second_order_to_everything(size, distance):
    inputs = problem(size)
    assert gradcheck(lambda *x: run(*x, distance), inputs)
    assert gradgradcheck(lambda *x: run(*x, distance), inputs, fast_mode=True)


@pytest.mark.parametrize("which", range(5))
def test_each_argument_alone(which):
    inputs = [t.detach() for t in problem()]
    leaf = inputs[which].requires_grad_()
    alone = torch.autograd.grad(run(*inputs).square().sum(), leaf)[0]
    together = problem()
    assert_close(
        alone, torch.autograd.grad(run(*together).square().sum(), together[which])[0], 1e-12
    )


def test_sigmas_per_axis_and_per_sample_with_different_radii():
    image, guide = rand(3, 1, 4, 4), rand(3, 1, 8, 12, seed=1)
    along_y = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64, requires_grad=True)
    along_x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    level = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64, requires_grad=True)

    def both(along_y, along_x, level):
        return joint_bilateral_upsample(image, guide, (along_y, along_x), level)

    assert gradcheck(both, (along_y, along_x, level), fast_mode=True)
    together = both(along_y, along_x, level)
    for k, (y, sharpness) in enumerate(((0.3, 0.2), (0.6, 0.4), (0.9, 0.8))):
        alone = joint_bilateral_upsample(image[k], guide[k], (y, 0.5), sharpness)
        assert_close(together[k], alone, 1e-13)


def test_the_mask_has_a_gradient_where_it_is_zero():
    image, guide, mask = rand(1, 3, 4), rand(1, 9, 8, seed=1), rand(1, 3, 4, seed=2)
    mask[0, 1, 2] = 0
    step = torch.zeros_like(mask)
    step[0, 1, 2] = 1e-6

    def total(mask):
        return joint_bilateral_upsample(image, guide, 0.7, 0.5, mask=mask).sum()

    grad = torch.func.grad(total)(mask)[0, 1, 2]
    assert abs(grad - (total(mask + step) - total(mask)) / 1e-6) < 1e-4


def test_no_gradient_is_nan_where_nothing_counts():
    image, guide, _, space, level = problem()
    mask = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    for grad in torch.autograd.grad(
        run(image, guide, mask, space, level).sum(), [image, guide, mask, space, level]
    ):
        assert (grad == 0).all()


def test_saved_memory_does_not_grow_with_the_window():
    image, guide = torch.rand(1, 16, 16, requires_grad=True), torch.rand(1, 64, 64)
    saved = {}
    for radius in (1, 5):
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            joint_bilateral_upsample(image, guide.clone().requires_grad_(), 0.5, 0.1, radius=radius)
        saved[radius] = sum(sizes.values()) / 64**2
    assert saved[5] < saved[1] + 1
    assert saved[5] < 10


# --- Batches, dtypes, layouts --------------------------------------------------------------------


def test_a_batch_equals_the_loop(device):
    image, guide = rand(2, 3, 2, 5, 6).float().to(device), rand(3, 1, 15, 20).float().to(device)
    level = torch.tensor([[0.1], [0.4]], device=device)
    together = joint_bilateral_upsample(image, guide, 0.6, level)
    assert together.shape == (2, 3, 2, 15, 20)
    for i in range(2):
        for j in range(3):
            alone = joint_bilateral_upsample(image[i, j], guide[j], 0.6, float(level[i, 0]))
            assert_close(together[i, j], alone, 1e-6)


def test_one_image_and_many_guides_and_the_reverse():
    image, guide = rand(2, 4, 5), rand(3, 1, 9, 10, seed=1)
    assert joint_bilateral_upsample(image, guide, 0.5, 0.2).shape == (3, 2, 9, 10)
    assert joint_bilateral_upsample(image.expand(3, 2, 4, 5), guide[0], 0.5, 0.2).shape[0] == 3
    for empty in (image.new_zeros(0, 2, 4, 5), image.new_zeros(2, 0, 2, 4, 5)):
        out = joint_bilateral_upsample(empty, guide[0], 0.5, 0.2)
        assert out.shape == (*empty.shape[:-2], 9, 10)
    leaf = image.new_zeros(0, 2, 4, 5).requires_grad_()
    joint_bilateral_upsample(leaf, guide[0], 0.5, 0.2).sum().backward()
    assert leaf.grad.shape == leaf.shape


def test_layouts():
    image, guide = rand(2, 2, 5, 6), rand(2, 3, 15, 20, seed=1)
    expected = joint_bilateral_upsample(image, guide, 0.6, 0.3)
    for name, same in layouts(image):
        assert_close(joint_bilateral_upsample(same, guide, 0.6, 0.3), expected, 1e-13, name)
    for name, same in layouts(guide):
        assert_close(joint_bilateral_upsample(image, same, 0.6, 0.3), expected, 1e-13, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_autocast(dtype):
    image, guide = rand(2, 5, 6).to(dtype), rand(3, 15, 20, seed=1).to(dtype)
    expected = joint_bilateral_upsample(image.double(), guide.double(), 0.6, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = joint_bilateral_upsample(image, guide, 0.6, 0.3)
    assert found.dtype == dtype
    assert_close(found, expected, max(torch.finfo(dtype).eps, 1e-6))


def test_uint8():
    levels = (255 * smooth_image(3, 24, 20)).round()
    depth = rand(1, 6, 5).float()
    found = joint_bilateral_upsample(depth, levels.byte(), 0.6, 20.0)
    assert found.dtype == torch.float32
    expected = joint_bilateral_upsample(depth.double(), levels / 255, 0.6, 20 / 255)
    assert_close(found, expected, 1e-5)
    labels = (255 * rand(1, 6, 5)).byte()
    found = joint_bilateral_upsample(labels, levels.byte(), 0.6, 20.0)
    assert found.dtype == torch.uint8
    exact = joint_bilateral_upsample(labels.double(), levels, 0.6, 20.0)
    assert_close(found, exact.round(), 0)


def test_values_far_from_0_and_1():
    # A shift or a scale of the image, or of guide and sigma together, does what it should.
    image, guide = rand(1, 5, 6), rand(1, 15, 18, seed=1)
    expected = joint_bilateral_upsample(image, guide, 0.6, 0.1)
    assert_close(joint_bilateral_upsample(image, guide + 100, 0.6, 0.1), expected, 1e-9)
    assert_close(joint_bilateral_upsample(image, 255 * guide, 0.6, 25.5), expected, 1e-9)
    assert_close(joint_bilateral_upsample(7 - image, guide, 0.6, 0.1), 7 - expected, 1e-12)
    low, high = image.min(), image.max()
    assert expected.min() >= low - 1e-12
    assert expected.max() <= high + 1e-12


def test_a_nan_sigma_spoils_its_own_sample_only():
    image, guide = rand(2, 1, 4, 5), rand(2, 1, 8, 10, seed=1)
    level = torch.tensor([0.2, torch.nan], dtype=torch.float64)
    found = joint_bilateral_upsample(image, guide, 0.5, level)
    assert_close(found[0], joint_bilateral_upsample(image[0], guide[0], 0.5, 0.2), 1e-13)
    assert found[1].isnan().all()
