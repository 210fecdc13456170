"""The aligner finds known warps, says how it ended, and treats a batch as its samples."""

import pytest
import torch
from helpers import assert_close, layouts, photograph, smooth_image

from benchmarks.alignment_protocol import corner_error, translation, trials
from torchops import (
    AlignmentStatus,
    LucasKanadeAligner,
    align,
    motion_jacobian,
    motion_matrix,
    motion_parameters,
    parameter_covariance,
    warp_image,
    warp_points,
)
from torchops._common.smoothing import gaussian_blur
from torchops.alignment import objective, system, template

ALGORITHMS = ("forward_additive", "forward_compositional", "inverse_compositional", "esm")
MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
motions = pytest.mark.parametrize("motion", MOTIONS)


@pytest.fixture(scope="module")
def camera():
    return gaussian_blur(photograph(), 1.0)


def small_motion(motion, *batch, seed=0, size=0.02):
    """Random motions that move a 40 x 40 template by a pixel or two."""
    generator = torch.Generator().manual_seed(seed)
    count = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}
    p = torch.randn(*batch, count[motion], generator=generator, dtype=torch.float64) * size
    shift = slice(4, 6) if count[motion] > 4 else slice(-2, None)
    p[..., shift] *= 50
    if motion == "homography":
        p[..., 6:] *= 0.01
    return motion_matrix(p, motion)


def pair(motion, *batch, channels=1, seed=0, dtype=torch.float64):
    """Templates cut from a smooth image by known warps near (20, 15)."""
    image = smooth_image(*batch, channels, 80, 90, seed=seed, dtype=torch.float64)
    true = translation(20, 15) @ small_motion(motion, *batch, seed=seed)
    return warp_image(image, true, (40, 40)).to(dtype), image.to(dtype), true


# --- what "done" means -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_baker_and_matthews_trials_at_sigma_4(camera, dtype):
    template, _, true, start = trials(camera, 4)
    found = align(template.to(dtype), camera.to(dtype), initial=start, levels=1, iterations=50)
    good = corner_error(found.matrix, true) < 0.01
    assert good.sum() >= 97
    assert not (found.converged & ~good).any()


@algorithms
def test_scenario_of_the_question(camera, algorithm):
    cut = camera[:, 100:200, 100:200]
    start = translation(90, 90)
    found = align(cut, camera, initial=start, algorithm=algorithm, levels=1)
    assert found.converged
    assert corner_error(found.matrix, translation(100, 100)) < 0.01


# --- the acceptance tests of the literature ------------------------------------------------------


def test_esm_is_exact_in_one_step_on_a_quadratic():
    y, x = torch.meshgrid(*[torch.arange(-6.0, 7.0, dtype=torch.float64)] * 2, indexing="ij")
    d, e = 0.75, -1.25
    fixed, moved = (x**2 + y**2)[None, None], ((x - d) ** 2 + (y - e) ** 2)[None, None]
    prepared = template.prepare_template(fixed, None, "translation")
    scale = prepared.grid.scale
    fixed_slopes = torch.stack([x, y])[None, :, None] * 2 * scale
    moved_slopes = torch.stack([x - d, y - e])[None, :, None] * 2 * scale
    error = {}
    for name, slopes in (
        ("inverse_compositional", fixed_slopes),
        ("forward_compositional", moved_slopes),
        ("esm", (fixed_slopes + moved_slopes) / 2),
    ):
        products = objective.structure_products(slopes)
        step = torch.linalg.solve(
            system.gauss_newton_matrix(products, prepared.basis),
            system.steepest_descent_vector(slopes, moved - fixed, prepared.basis),
        )
        error[name] = (-step[0] * scale - torch.tensor([d, e])).norm()
    assert error["esm"] < 1e-9
    start = torch.tensor([d, e]).norm()
    assert error["inverse_compositional"] < start
    assert error["forward_compositional"] < start


@algorithms
def test_one_step_exact_for_a_plane(algorithm):
    y, x = torch.meshgrid(*[torch.arange(30.0, dtype=torch.float64)] * 2, indexing="ij")
    image = torch.stack([2 * x + y, x - 3 * y])
    found = align(
        image[:, 10:20, 10:20],
        image,
        motion="translation",
        algorithm=algorithm,
        iterations=1,
        initial=translation(8.5, 11.25),
    )
    assert_close(found.matrix, translation(10, 10), 1e-12)


@algorithms
@motions
def test_every_motion_is_found(motion, algorithm):
    cut, image, true = pair(motion)
    found = align(cut, image, motion=motion, algorithm=algorithm, initial=translation(20, 15))
    assert found.converged
    assert corner_error(found.matrix, true, 40) < 1e-3
    exact = align(
        cut, image, motion=motion, algorithm=algorithm, initial=translation(20, 15), tol=1e-9
    )
    assert corner_error(exact.matrix, true, 40) < 1e-9
    assert exact.error < 1e-10


def test_float32_images_reach_a_ten_thousandth_of_a_pixel(camera):
    cut, _, true, start = trials(camera.float(), 2, 20)
    found = align(cut, camera.float(), initial=start, tol=1e-5)
    assert found.matrix.dtype == found.error.dtype == torch.float32
    assert corner_error(found.matrix, true).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["affine", "homography"])
def test_frequency_of_convergence(camera, motion):
    needed = {2: (1.0, 1.0), 6: (0.85, 0.85), 10: (0.6, 0.8)}
    for sigma, fractions in needed.items():
        cut, _, true, start = trials(camera, sigma, motion=motion)
        for algorithm, fraction in zip(("inverse_compositional", "esm"), fractions, strict=True):
            found = align(
                cut,
                camera,
                motion=motion,
                algorithm=algorithm,
                initial=start,
                levels=1,
                iterations=15,
                tol=0,
            )
            good = corner_error(found.matrix, true) < 1
            assert good.double().mean() >= fraction, (sigma, algorithm)


@algorithms
def test_five_iterations_at_sigma_2(camera, algorithm):
    cut, _, true, start = trials(camera, 2, 40)
    found = align(cut, camera, algorithm=algorithm, initial=start, levels=1, iterations=5)
    assert corner_error(found.matrix, true).mean() < 1e-3


def test_the_algorithms_agree_without_noise(camera):
    cut, _, true, start = trials(camera, 3, 10)
    for algorithm in ALGORITHMS:
        found = align(cut, camera, algorithm=algorithm, initial=start, levels=1, tol=1e-9)
        assert corner_error(found.matrix, true).max() < 1e-6


def test_the_hessian_of_inverse_compositional_is_summed_once(camera, monkeypatch):
    calls = []
    original = template.gauss_newton_matrix

    def counted(*arguments):
        calls.append(None)
        return original(*arguments)

    monkeypatch.setattr(template, "gauss_newton_matrix", counted)
    monkeypatch.setattr(objective, "gauss_newton_matrix", counted)
    cut, _, _, start = trials(camera, 2, 3)
    aligner = LucasKanadeAligner(cut, levels=1)
    assert len(calls) == 1
    assert aligner(camera, start).iterations.max() > 2
    aligner(camera, start)
    assert len(calls) == 1


def test_forward_additive_is_the_textbooks(camera):
    # One step with explicit steepest-descent images, in the same centred and scaled coordinates.
    cut, _, _, start = trials(camera, 2, 1)
    cut, side, scale = cut[0], 100, 99 / 2
    grid = torch.linspace(-1, 1, side, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    to_pixels = torch.tensor([[scale, 0, scale], [0, scale, scale], [0, 0, 1]], dtype=torch.float64)
    frame = start @ to_pixels
    p = torch.zeros(8, dtype=torch.float64)
    counts = torch.ones_like(camera[None], dtype=torch.bool)
    gx, gy = template.image_gradient(camera[None], counts)[0]
    for count in (1, 2):
        increment = motion_matrix(p, "homography")
        seen = [
            warp_image(i, frame @ increment @ torch.linalg.inv(to_pixels), (side, side)).flatten()
            for i in (camera, gx, gy)
        ]
        slopes = torch.stack(seen[1:], -1) * scale  # the frame is a shift and a scale
        descent = (slopes[:, None] @ motion_jacobian(points, p, "homography"))[:, 0]
        p = p + torch.linalg.solve(descent.mT @ descent, descent.mT @ (cut.flatten() - seen[0]))
        found = align(
            cut,
            camera,
            algorithm="forward_additive",
            initial=start,
            levels=1,
            iterations=count,
            tol=0,
        )
        expected = frame @ motion_matrix(p, "homography") @ torch.linalg.inv(to_pixels)
        assert_close(found.matrix, expected / expected[2, 2], 1e-8)


@algorithms
def test_the_scale_of_the_initial_matrix_does_not_matter(algorithm):
    cut, image, _ = pair("homography")
    start = translation(20, 15)
    expected = align(cut, image, algorithm=algorithm, initial=start)
    for scale in (0.01, -3.0):
        found = align(cut, image, algorithm=algorithm, initial=scale * start)
        assert_close(found.matrix, expected.matrix, 1e-10)


@algorithms
@motions
def test_the_result_stays_in_the_group_of_the_start(motion, algorithm):
    cut, image, _ = pair("homography")
    start = translation(20, 15) @ motion_matrix(
        torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64), "euclidean"
    )
    found = align(cut, image, motion=motion, algorithm=algorithm, initial=start, iterations=5)
    change = torch.linalg.inv(start) @ found.matrix
    if motion == "translation":
        assert_close(change[:2, :2], torch.eye(2, dtype=torch.float64), 1e-12)
    if motion in ("euclidean", "similarity"):
        gram = change[:2, :2].mT @ change[:2, :2]
        assert_close(gram / gram[0, 0], torch.eye(2, dtype=torch.float64), 1e-12)
    if motion == "euclidean":
        assert abs(gram[0, 0] - 1) < 1e-12
    if motion != "homography":
        assert_close(change[2], torch.tensor([0.0, 0, 1], dtype=torch.float64), 1e-12)


# --- statuses ----------------------------------------------------------------------------------


def test_converged_means_what_it_says(camera):
    cut, _, _, start = trials(camera, 10, 60)
    found = align(cut, camera, initial=start, levels=1, iterations=12, tol=0.05)
    initial_error = align(
        cut, camera, initial=start, levels=1, iterations=1, tol=0, gradient="none"
    ).error
    assert {int(s) for s in found.status.unique()} >= {0, 1}
    for i in found.converged.nonzero()[:10, 0].tolist():
        count = int(found.iterations[i])
        before = align(cut[i], camera, initial=start, levels=1, iterations=count - 1, tol=1e-300)
        moved = warp_points(corners_of(100), found.matrix[i]) - warp_points(
            corners_of(100), before.matrix
        )
        assert moved.norm(dim=-1).max() < 0.05
        assert found.error[i] <= initial_error[i]


def corners_of(side):
    last = side - 1.0
    return torch.tensor([[0, 0], [last, 0], [0, last], [last, last]], dtype=torch.float64)


def error_at(cut, image, matrix):
    seen = warp_image(image, matrix, cut.shape[-2:])
    inside = warp_image(torch.ones_like(image), matrix, cut.shape[-2:]) > 1 - 1e-9
    return ((seen - cut)[inside].square().mean()).sqrt()


def test_otherwise_the_iterate_of_least_error_comes_back(camera):
    cut, _, _, start = trials(camera, 14, 40, seed=3)
    found = align(cut, camera, initial=start, levels=1, iterations=10, tol=0)
    assert not found.converged.any()
    assert torch.isfinite(found.matrix).all()
    before = torch.stack([error_at(c, camera, start) for c in cut])
    now = torch.stack([error_at(c, camera, m) for c, m in zip(cut, found.matrix, strict=True)])
    assert_close(found.error, now, 1e-12)
    assert (now <= before + 1e-15).all()
    for i in range(3):
        path = [
            error_at(
                cut[i], camera, align(cut[i], camera, initial=start, levels=1, iterations=n).matrix
            )
            for n in range(1, 11)
        ]
        assert now[i] <= min(path) + 1e-12


def test_error_is_the_residual_of_the_pixels_that_count(camera):
    cut, _, _, start = trials(camera, 2, 1)
    noisy = cut + 0.05 * torch.randn(cut.shape, dtype=cut.dtype)
    found = align(noisy, camera, initial=start, levels=1)
    assert found.converged
    assert_close(found.error[0], error_at(noisy[0], camera, found.matrix[0]), 1e-12)
    assert abs(found.error[0] - 0.05) < 0.005


def test_a_constant_template_is_singular(device):
    for dtype in (torch.float32, torch.float64):
        for algorithm in ALGORITHMS:
            cut = torch.full((1, 20, 20), 0.1, dtype=dtype, device=device)
            image = torch.full((1, 40, 40), 0.1, dtype=dtype, device=device)
            start = translation(3.3, 4.7).to(device)
            found = align(cut, image, algorithm=algorithm, initial=start)
            assert found.status == AlignmentStatus.SINGULAR, (dtype, algorithm)
            assert_close(found.matrix, start, 1e-6)
            assert found.iterations == 0


def test_a_pattern_of_one_direction_is_singular():
    for dtype in (torch.float32, torch.float64):
        y, x = torch.meshgrid(*[torch.arange(60.0, dtype=dtype)] * 2, indexing="ij")
        for phase in (x / 4, y / 3):
            image = phase.sin()[None]
            for algorithm in ALGORITHMS:
                found = align(
                    image[:, 10:40, 10:40],
                    image,
                    motion="translation",
                    algorithm=algorithm,
                    initial=translation(10.4, 9.7),
                )
                assert found.status == AlignmentStatus.SINGULAR, (dtype, algorithm)


def test_out_of_view(camera):
    cut = camera[:, 100:200, 100:200]
    for x, y in ((-200, 0), (600, 100), (100, -95), (505, 505)):
        found = align(cut, camera, initial=translation(x, y))
        assert found.status == AlignmentStatus.OUT_OF_VIEW
        assert found.error == torch.inf
        assert_close(found.matrix, translation(x, y), 0)


@algorithms
def test_a_start_at_the_truth_of_noisy_pictures_converges(algorithm, camera):
    # The root that noise moves has an error above that of the truth by parts of a per cent.
    cut, _, true, _ = trials(camera, 0, 6)
    cut = cut + 0.02 * torch.randn(cut.shape, dtype=torch.float64)
    found = align(cut, camera, algorithm=algorithm, initial=true, iterations=200, levels=1)
    assert found.converged.all()
    assert corner_error(found.matrix, true).max() < 0.25


def test_settled_above_the_initial_error_is_diverged():
    # The solution of inverse compositional under noise is not the least error: starting from the
    # least, it settles above it.
    cut, image, _ = pair("affine")
    noisy = cut + 0.3 * torch.rand(cut.shape, dtype=cut.dtype)
    least = align(
        noisy,
        image,
        motion="affine",
        algorithm="forward_additive",
        initial=translation(20, 15),
        tol=0,
        iterations=30,
    )
    found = align(noisy, image, motion="affine", initial=least.matrix, tol=1e-7)
    assert found.status == AlignmentStatus.DIVERGED
    assert found.error <= least.error
    assert_close(found.matrix, least.matrix, 1e-9)


def test_a_start_that_is_not_a_number_is_diverged_and_alone():
    cut, image, true = pair("affine")
    start = translation(20, 15).repeat(6, 1, 1)
    start[0, 0, 1] = torch.nan
    start[1, 2, 2] = 0
    start[2, 0, 2] = torch.inf
    start[3] = 1  # all of the template on one point
    start[4, 2, 0] = -0.1  # a horizon through the template
    for algorithm in ALGORITHMS:
        found = align(cut, image, motion="affine", algorithm=algorithm, initial=start)
        assert found.status.tolist() == [2, 2, 2, 2, 2, 0]
        assert torch.equal(found.matrix.isnan(), start.isnan())
        assert_close(found.matrix[3:5], start[3:5], 1e-12)
        assert corner_error(found.matrix[5], true, 40) < 1e-3


# --- masks, channels, borders ------------------------------------------------------------------


@algorithms
def test_masks_take_pixels_out(algorithm):
    cut, image, true = pair("affine")
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    mask[:, 10:22, 12:26] = False
    spoilt = torch.where(mask, cut, 5.0)
    keep = {"motion": "affine", "algorithm": algorithm, "initial": translation(20, 15)}
    found = align(spoilt, image, template_mask=mask, tol=1e-9, **keep)
    assert corner_error(found.matrix, true, 40) < 1e-8
    seen = torch.ones(1, 80, 90, dtype=torch.bool)
    seen[:, 25:38, 30:45] = False
    found = align(cut, torch.where(seen, image, -3.0), image_mask=seen, tol=1e-9, **keep)
    assert corner_error(found.matrix, true, 40) < 1e-8


@algorithms
def test_nan_pixels_count_as_masked(algorithm):
    cut, image, true = pair("affine", channels=2)
    cut[0, 10:22, 12:26] = torch.nan
    image[1, 25:38, 30:45] = torch.inf
    found = align(
        cut, image, motion="affine", algorithm=algorithm, initial=translation(20, 15), tol=1e-9
    )
    assert found.converged
    assert corner_error(found.matrix, true, 40) < 1e-8


@algorithms
def test_a_template_partly_outside_does_not_drift(camera, algorithm):
    true = translation(-30, 450) @ small_motion("affine")
    padded = torch.nn.functional.pad(camera, (50, 50, 50, 50), mode="replicate")
    cut = warp_image(padded, translation(50, 50) @ true, (100, 100))
    found = align(cut, camera, motion="affine", algorithm=algorithm, initial=translation(-30, 450))
    assert found.converged
    assert corner_error(found.matrix, true) < 1e-2


def test_template_larger_than_the_image():
    image = smooth_image(1, 80, 90)
    true = translation(-12, -9)
    found = align(image, image[:, 9:70, 12:80], motion="affine", initial=true @ translation(1, 1))
    assert found.converged
    assert corner_error(found.matrix, true, 80) < 1e-2


@algorithms
def test_channels_add_up(algorithm):
    cut, image, true = pair("homography", channels=3)
    found = align(cut, image, algorithm=algorithm, initial=translation(20, 15), tol=1e-9)
    assert corner_error(found.matrix, true, 40) < 1e-8
    # Stripes in x in one channel and in y in the other: neither alone determines a shift.
    y, x = torch.meshgrid(*[torch.arange(60.0, dtype=torch.float64)] * 2, indexing="ij")
    image = torch.stack([(x / 4).sin(), (y / 3).sin()])
    found = align(
        image[:, 10:40, 10:40], image, motion="translation", initial=translation(11, 9), tol=1e-9
    )
    assert_close(found.matrix, translation(10, 10), 1e-8)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1), (2, 2)])
def test_tiny_templates_end_without_a_crash(size):
    image = smooth_image(1, 30, 30)
    for motion in MOTIONS:
        for algorithm in ALGORITHMS:
            cut = image[:, 5 : 5 + size[0], 6 : 6 + size[1]]
            found = align(
                cut, image, motion=motion, algorithm=algorithm, initial=translation(6.2, 5.1)
            )
            assert torch.isfinite(found.matrix).all()
            if size == (1, 1):
                assert found.status == AlignmentStatus.SINGULAR


# --- batches, dtypes, layouts ------------------------------------------------------------------


@algorithms
@pytest.mark.parametrize("tol", [1e-3, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_batch_is_its_samples(camera, algorithm, tol):
    torch.manual_seed(1)
    cut, _, _, start = trials(camera, 8, 16)
    cut[3] = 0.5
    start = start.repeat(16, 1, 1)
    start[5, 0, 2] += 900
    options = {"algorithm": algorithm, "iterations": 12, "tol": tol, "levels": 1}
    together = align(cut, camera, initial=start, **options)
    assert {0, 3, 4} <= {*together.status.tolist(), *([0] if tol == 0 else [])}
    for i in (0, 3, 5, 7, 12, 15):
        alone = align(cut[i], camera, initial=start[i], **options)
        assert alone.status == together.status[i]
        assert alone.iterations == together.iterations[i]
        assert corner_error(alone.matrix, together.matrix[i]) < 1e-5


def test_batches_broadcast():
    cut, image, _ = pair("affine", 3)
    start = translation(20, 15)
    options = {"motion": "affine"}
    one_image = align(cut, image[0], initial=start, **options)
    one_cut = align(cut[0], image, initial=start, **options)
    table = align(cut[:, None], image, initial=start.expand(3, 1, 3, 3), **options)
    masked = align(
        cut[0], image[0], initial=start, template_mask=torch.ones(3, 1, 40, 40).bool(), **options
    )
    assert table.matrix.shape == (3, 3, 3, 3)
    assert table.status.shape == table.error.shape == table.iterations.shape == (3, 3)
    assert_close(table.matrix[:, 0], one_image.matrix, 1e-9)
    assert_close(table.matrix[0], one_cut.matrix, 1e-9)
    assert_close(masked.matrix, table.matrix[0, :1].expand(3, 3, 3), 1e-9)


@pytest.mark.parametrize("tol", [1e-3, 0.0])
def test_empty_batches(tol):
    cut, image = torch.rand(0, 1, 9, 9), torch.rand(1, 20, 20)
    for algorithm in ALGORITHMS:
        found = align(cut, image, algorithm=algorithm, tol=tol, iterations=2)
        assert found.matrix.shape == (0, 3, 3)
        assert found.status.shape == found.error.shape == (0,)
        assert align(image, torch.rand(2, 0, 1, 9, 9), tol=tol).matrix.shape == (2, 0, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(camera, dtype, device):
    cut, _, true, start = trials(camera, 2, 4)
    cut, image, start = cut.to(device, dtype), camera.to(device, dtype), start.to(device)
    found = align(cut, image, initial=start)
    assert found.matrix.dtype == torch.float32
    expected = align(cut.float(), image.float(), initial=start)
    assert_close(found.matrix, expected.matrix, 0)
    assert corner_error(found.matrix, true).max() < 0.1
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = align(cut.float(), image.float(), initial=start)
    assert_close(inside.matrix, expected.matrix, 0)


def test_the_range_of_the_values_does_not_matter(camera):
    cut, _, _, start = trials(camera, 4, 5)
    expected = align(cut, camera, initial=start)
    for gain, bias in ((255.0, 0.0), (1e-4, 0.0), (-3.0, 7.0)):
        found = align(cut * gain + bias, camera * gain + bias, initial=start)
        assert_close(found.matrix, expected.matrix, 1e-6)


def test_layouts():
    cut, image, _ = pair("affine", 2, channels=3)
    start = translation(20, 15)
    expected = align(cut, image, motion="affine", initial=start)
    for (name, a), (_, b) in zip(layouts(cut), layouts(image), strict=True):
        found = align(a, b, motion="affine", initial=start)
        assert_close(found.matrix, expected.matrix, 1e-9, name)


def test_inputs_are_not_changed():
    cut, image, _ = pair("affine")
    start = translation(20, 15)
    copies = cut.clone(), image.clone(), start.clone()
    align(cut, image, motion="affine", initial=start)
    for now, before in zip((cut, image, start), copies, strict=True):
        assert torch.equal(now, before)


# --- the module, the covariance ----------------------------------------------------------------


@algorithms
def test_the_module_is_the_function(algorithm):
    cut, image, _ = pair("affine", 3)
    start = translation(20, 15)
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    mask[:, :5] = False
    seen = torch.ones(1, 80, 90, dtype=torch.bool)
    seen[:, 30:34, 30:34] = False
    options = {"motion": "affine", "algorithm": algorithm, "tol": 1e-4}
    for part in (cut[0], cut):
        module = LucasKanadeAligner(part, template_mask=mask, **options)
        found = module(image, start, seen)
        expected = align(part, image, initial=start, template_mask=mask, image_mask=seen, **options)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, 1e-12)
    assert set(module.state_dict()) == {"template", "template_mask"}
    assert "algorithm=" in repr(module)


def test_the_module_moves_with_its_terms():
    cut, image, true = pair("affine")
    module = LucasKanadeAligner(cut, motion="affine").float()
    found = module(image.float(), translation(20, 15))
    assert found.matrix.dtype == torch.float32
    assert corner_error(found.matrix, true, 40) < 1e-2


@motions
def test_covariance_predicts_the_scatter(motion):
    cut, image, true = pair(motion)
    noisy = cut + 0.003 * torch.randn(400, 1, 40, 40, dtype=torch.float64)
    found = align(noisy, image, motion=motion, algorithm="forward_additive", initial=true, tol=1e-6)
    scatter = motion_parameters(found.matrix, motion).mT.cov()
    predicted = parameter_covariance(noisy[0], image, true, motion)
    ratio = predicted.diagonal() / scatter.diagonal()
    assert ratio.min() > 0.75, ratio
    assert ratio.max() < 1.35, ratio
    assert_close(predicted, predicted.mT, 1e-12 * predicted.abs().max().item())


@motions
def test_covariance_is_the_textbooks(motion):
    cut, image, true = pair(motion)
    p = motion_parameters(true, motion)
    noisy = cut + 1e-4 * torch.randn(cut.shape, dtype=torch.float64)
    grid = torch.arange(40.0, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    counts = torch.ones_like(image[None], dtype=torch.bool)
    slopes = template.image_gradient(image[None], counts)[0]
    slopes = torch.stack([warp_image(g, true, (40, 40)).flatten() for g in slopes], -1)
    descent = (slopes[:, None] @ motion_jacobian(points, p, motion))[:, 0]
    variance = (warp_image(image, true, (40, 40)) - noisy).square().sum() / (1600 - p.numel())
    expected = variance * torch.linalg.inv(descent.mT @ descent)
    found = parameter_covariance(noisy, image, true, motion)
    # Mean gradient of template and warped image here, the image's, sampled, in the textbook.
    error = (found - expected).diagonal() / expected.diagonal()
    assert error.abs().max() < 0.1, error


def test_covariance_without_texture_is_infinite_without_gradient():
    flat = torch.full((2, 1, 20, 20), 0.3, dtype=torch.float64)
    flat[1] = smooth_image(1, 20, 20)
    flat.requires_grad_()
    image = smooth_image(1, 30, 30)
    found = parameter_covariance(flat, image, translation(3, 3), "affine")
    assert torch.isfinite(found[1]).all()
    alone = parameter_covariance(flat[:1] * 0, image * 0, translation(3, 3), "affine")
    assert (alone == torch.inf).all()
    (gradient,) = torch.autograd.grad(found[torch.isfinite(found)].sum(), flat)
    assert torch.isfinite(gradient).all()
