"""The kernels of the alignment: equal to the plain path, sum by sum and in whole alignments.

Without a GPU they run in Triton's interpreter, one program after the other, hence the tiny images.
"""

import itertools

import pytest
import torch
from helpers import assert_close, smooth_image

from benchmarks.alignment_protocol import translation
from torchops import LucasKanadeAligner, align, warp_image
from torchops.alignment.arguments import Pair
from torchops.alignment.motion import MOTIONS
from torchops.alignment.objective import evaluate
from torchops.alignment.steps import ALGORITHMS, Method
from torchops.alignment.system import solve_system

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WEIGHINGS = (("ssd", None), ("ssd", "huber"), ("ssd", "tukey"), ("ecc", None))
START = translation(6.4, 5.4)
EASY, HARD = 0, 1  # samples: all of the template is seen; holes, out of view, behind the horizon


def data(size=2, channels=1, height=11, width=10, dtype=torch.float64):
    """Templates and images that differ a little after `START`."""
    image = smooth_image(size, channels, 24, 26)
    cut = warp_image(image, translation(6, 5.75), (height, width))
    cut = 0.7 * cut + 0.05 * smooth_image(size, channels, height, width, seed=3)
    return cut.to(DEVICE, dtype), image.to(DEVICE, dtype)


def hard_warps(size=2):
    warps = START.repeat(size, 1, 1)
    if size > 1:
        # The last row and column are near the image's edge, the first column is behind.
        warps[HARD] = torch.tensor([[8.0, 0.3, -1.0], [1.0, 6.0, 2.0], [0.4, -0.01, -0.1]])
    return warps.to(DEVICE)


def holes(cut, image):
    """Masks and images with pixels that do not count."""
    mask = torch.ones(len(cut), 1, *cut.shape[-2:], dtype=torch.bool, device=DEVICE)
    image = image.clone()
    if len(cut) > 1:
        mask[HARD, :, 4, 5:8] = False
        image[HARD, 0, 9, 12] = torch.nan
        image[HARD, -1, 14, 11] = torch.inf
    return mask, image


def both(cut, image, warps, method, mask=None, before=None, kernels=True):
    """The sums of one look, by the plain path and by the kernels."""
    batch = torch.broadcast_shapes(cut.shape[:-3], image.shape[:-3], warps.shape[:-2])
    pair = Pair(cut, image, warps.expand(*batch, 3, 3).reshape(-1, 3, 3), mask, None, batch)
    identity = torch.eye(3, dtype=torch.float64, device=DEVICE).expand(batch.numel(), 3, 3)
    with torch.no_grad():
        problem = pair.problem(method, None)
        plain = evaluate(problem, identity, before=before)
        kernel = evaluate(problem._replace(fused=kernels), identity, before=before)
    return plain, kernel


def assert_sums(plain, kernel, tolerance=1e-11, again=None):
    """``again``: the plain path's sums of images that differ by rounding only."""
    for n, (expected, found) in enumerate(zip(plain, kernel, strict=True)):
        name, finite = plain._fields[n], torch.isfinite(expected)
        assert torch.equal(finite, torch.isfinite(found)), name
        if expected.dtype == torch.bool:
            assert torch.equal(found, expected), name
            continue
        expected, found = (t.where(finite, t.new_zeros(())) for t in (expected, found))
        limit = tolerance * max(1, expected.abs().max().item())
        if again is not None:
            limit += 30 * (again[n] - expected).where(finite, expected.new_zeros(())).abs().max()
        assert_close(found, expected, limit, name)


def check(algorithm, motion, objective, robust):
    cut, image = data()
    mask, image = holes(cut, image)
    method = Method(motion, algorithm, "gauss_newton", objective, robust)
    begun, _ = both(cut, image, hard_warps(), method, mask, kernels=False)
    # The first sample's scale falls, so that Tukey's function waits for it; the other's rises.
    last = torch.tensor([1.1, 0.9], dtype=torch.float64, device=DEVICE)
    before = begun._replace(scale=begun.scale * last, far=begun.scale >= 0)
    plain, kernel = both(cut, image, hard_warps(), method, mask, before)
    if robust == "tukey":
        assert plain.far.tolist() == [True, False]
    number = plain.freedom
    assert number[EASY] == 110
    assert 15 < number[HARD] < 100
    # The few pixels of the hard sample determine an ecc step badly, however it is computed.
    rounded = image * (1 + 1e-15 * torch.randn(image.shape, dtype=image.dtype).to(DEVICE))
    again, _ = both(cut, rounded, hard_warps(), method, mask, before, kernels=False)
    assert_sums(plain, kernel, again=again)


# Every algorithm with every motion, and both with every way to weigh.
PAIRWISE = [
    (algorithm, motion, *WEIGHINGS[(i + j) % 4])
    for i, algorithm in enumerate(ALGORITHMS)
    for j, motion in enumerate(MOTIONS)
]


@pytest.mark.parametrize("options", PAIRWISE, ids=str)
def test_sums_equal_the_plain_path(options):
    check(*options)


@pytest.mark.slow
@pytest.mark.parametrize("weighing", WEIGHINGS, ids=str)
@pytest.mark.parametrize(("algorithm", "motion"), list(itertools.product(ALGORITHMS, MOTIONS)))
def test_sums_equal_the_plain_path_for_all_options(algorithm, motion, weighing):
    check(algorithm, motion, *weighing)


@pytest.mark.parametrize(
    ("channels", "algorithm", "objective", "robust"),
    [
        (2, "esm", "ecc", None),
        (3, "inverse_compositional", "ssd", None),
        (3, "forward_additive", "ecc", None),
        (5, "forward_compositional", "ssd", "tukey"),
    ],
)
def test_any_number_of_channels(channels, algorithm, objective, robust):
    cut, image = data(channels=channels)
    cut[EASY, 0, 2, 3] = torch.nan  # no channel of this pixel counts
    method = Method("similarity", algorithm, "gauss_newton", objective, robust)
    assert_sums(*both(cut[:1], image[:1], hard_warps()[:1], method))


@pytest.mark.parametrize(("height", "width"), [(1, 9), (8, 1), (1, 1)])
def test_templates_of_one_row_or_column(height, width):
    cut, image = data(size=1, height=height, width=width)
    for algorithm in ("esm", "forward_additive"):
        assert_sums(*both(cut, image, hard_warps(1), Method("affine", algorithm)))


@pytest.mark.parametrize(
    ("algorithm", "objective", "robust"),
    [
        ("inverse_compositional", "ssd", None),
        ("inverse_compositional", "ecc", None),
        ("forward_compositional", "ssd", "huber"),
    ],
)
def test_templates_of_several_parts(algorithm, objective, robust):
    image = smooth_image(1, 1, 40, 44).to(DEVICE)
    cut = warp_image(image, translation(6, 5.75).to(DEVICE), (27, 25)) * 0.9
    method = Method("affine", algorithm, "gauss_newton", objective, robust)
    assert_sums(*both(cut, image, START.to(DEVICE), method))


def test_shared_templates_and_images():
    cut, image = data()
    method = Method("translation", "esm")
    warps = torch.stack([START, translation(5.8, 5.5)]).to(DEVICE)
    for template, picture in ((cut[:1], image), (cut, image[:1]), (cut[:1], image[:1])):
        assert_sums(*both(template, picture, warps, method))


@pytest.mark.parametrize("algorithm", ["inverse_compositional", "forward_additive"])
def test_float32_is_as_exact_as_the_plain_path(algorithm):
    cut, image = data(dtype=torch.float32)
    for objective, robust in WEIGHINGS[1:3] if algorithm == "forward_additive" else WEIGHINGS[::3]:
        method = Method("homography", algorithm, "gauss_newton", objective, robust)
        exact, _ = both(cut.double(), image.double(), hard_warps(), method)
        plain, kernel = both(cut, image, hard_warps(), method)
        for name, truth, one, other in zip(exact._fields, exact, plain, kernel, strict=True):
            if name == "far":
                continue
            scale = truth.nan_to_num(posinf=0).abs().max()
            limit = 4 * (one - truth).nan_to_num().abs().max() + 1e-6 * scale
            assert ((other - truth).nan_to_num().abs() <= limit).all(), name


def test_positions_far_from_the_origin_lose_nothing():
    cut, image = data(size=1, dtype=torch.float32)
    wide = torch.zeros(1, 1, 1030, 1030, device=DEVICE)
    wide[..., 1000:1024, 1000:1026] = image
    far = translation(1000, 1000).to(DEVICE) @ hard_warps(1)
    method = Method("translation", "esm")
    _, near = both(cut, image, hard_warps(1), method)
    assert_sums(near, both(cut, wide, far, method)[1], 2e-7)
    # Half a millionth of a pixel is seen there, too: float32 holds 1006 to 6e-5.
    moved = translation(0.5**20, 0).to(DEVICE) @ far
    assert (both(cut, wide, moved, method)[1].vector != near.vector).any()


# --- systems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 6, 8])
def test_systems(count):
    generator = torch.Generator().manual_seed(count)
    factor = torch.randn(40, count, count + 2, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.mT
    matrix[3] = 0
    matrix[5, :, 0] = matrix[5, 0] = 0
    matrix[7, 0, 1] = torch.nan
    matrix[9] = 1
    matrix[11] *= 1e-12
    vector = torch.randn(40, count, generator=generator, dtype=torch.float64)
    scale = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
    damping = torch.rand(40, generator=generator, dtype=torch.float64) + 0.1
    floor = torch.full((1,), 1e-9, dtype=torch.float64)
    system = [t.to(DEVICE) for t in (matrix, vector, scale, floor)]
    for added in (None, damping.to(DEVICE)):
        step, singular = solve_system(*system, 1e-7, damping=added)
        found, same = solve_system(*system, 1e-7, damping=added, fused=True)
        assert torch.equal(same, singular)
        assert singular.sum() == (5 if added is None else 4)
        assert_close(found, step, 1e-10 * step.abs().max().item())


# --- whole alignments ----------------------------------------------------------------------------


def aligned(cut, image, backend, **options):
    """The result, and the gradients of its matrix."""
    leaves = [t.clone().requires_grad_() for t in (cut, image)]
    options = {"iterations": 4, "initial": START.to(DEVICE), **options}
    found = align(*leaves, backend=backend, **options)
    weights = torch.linspace(-1, 1, 9, dtype=found.matrix.dtype, device=DEVICE).reshape(3, 3)
    return found, torch.autograd.grad((found.matrix * weights).sum(), leaves)


@pytest.mark.parametrize(
    ("motion", "options"),
    [
        ("homography", {}),
        ("affine", {"algorithm": "esm", "solver": "levenberg_marquardt"}),
        ("translation", {"algorithm": "forward_additive", "robust": "huber"}),
        ("euclidean", {"algorithm": "forward_compositional", "objective": "ecc"}),
        ("translation", {"levels": 2, "tol": 0, "iterations": 2}),
    ],
    ids=str,
)
def test_alignments_and_gradients_equal_the_plain_path(motion, options):
    cut, image = data(size=1)
    plain, slopes = aligned(cut, image, "torch", motion=motion, **options)
    found, others = aligned(cut, image, "triton", motion=motion, **options)
    assert_close(found.matrix, plain.matrix, 1e-9)
    assert_close(found.error, plain.error, 1e-11)
    assert torch.equal(found.status, plain.status)
    assert torch.equal(found.iterations, plain.iterations)
    for slope, other in zip(slopes, others, strict=True):
        assert_close(other, slope, 1e-8 * slope.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_layouts(dtype):
    cut, image = data(size=1, channels=2, dtype=dtype)
    options = {"initial": START.to(DEVICE), "motion": "translation", "tol": 0, "iterations": 2}
    plain = align(cut, image, backend="torch", **options)
    for view in (image, image.contiguous(memory_format=torch.channels_last)):
        found = align(cut.mT.contiguous().mT, view, backend="triton", **options)
        assert found.matrix.dtype == torch.float32
        assert_close(found.matrix, plain.matrix, 2e-5)


def test_statuses():
    _, image = data()
    cut = warp_image(image, translation(6, 5.75).to(DEVICE), (11, 10))
    cut[1] = 0.5  # nothing to align
    for start, expected in ((START, [0, 3]), (translation(60, 0), [4, 4])):
        found = align(
            cut,
            image,
            motion="translation",
            initial=start.to(DEVICE),
            backend="triton",
            iterations=9,
            tol=1e-2,
        )
        assert found.status.tolist() == expected


def test_empty_batch():
    cut, image = data(size=1)
    for options in ({"tol": 0}, {"objective": "ecc"}, {"robust": "huber"}):
        found = align(cut[:0], image, backend="triton", iterations=2, **options)
        assert found.matrix.shape == (0, 3, 3)


def test_the_same_bits_in_every_run():
    cut, image = data(dtype=torch.float32)
    for robust in (None, "tukey"):
        method = Method("affine", "inverse_compositional", robust=robust)
        _, one = both(cut, image, hard_warps(), method)
        _, other = both(cut, image, hard_warps(), method)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_which_path_ran(monkeypatch):
    calls = []
    from torchops.alignment import kernels

    for name in ("launch_sums", "launch_solve"):
        launch = getattr(kernels, name)
        monkeypatch.setattr(
            kernels,
            name,
            lambda *args, name=name, launch=launch: calls.append(name) or launch(*args),
        )
    cut, image = data(size=1)
    options = {"motion": "translation", "initial": START.to(DEVICE), "iterations": 1, "tol": 0}
    align(cut, image, backend="torch", **options)
    assert calls == []
    align(cut, image, backend="triton", **options)
    # The template's own system first; one look at the start, one after the step.
    assert calls == ["launch_sums", "launch_solve", "launch_solve", "launch_sums"]
    calls.clear()
    LucasKanadeAligner(
        cut[0], motion="translation", iterations=1, tol=0, levels=1, backend="triton"
    )(image, START.to(DEVICE))
    assert len(calls) == 4
    calls.clear()
    align(cut, image, **options)
    assert bool(calls) == image.is_cuda
    calls.clear()
    align(cut.requires_grad_(), image, gradient="unroll", **options)
    assert calls == []


def test_unrolled_gradients_need_the_plain_path():
    cut, image = data(size=1)
    options = {"motion": "translation", "iterations": 1, "tol": 0, "backend": "triton"}
    align(cut, image, gradient="unroll", **options)  # there is no gradient to unroll
    with pytest.raises(ValueError, match="backend must be 'auto' or 'torch' for gradients by"):
        align(cut.requires_grad_(), image, gradient="unroll", **options)


@pytest.mark.unhooked
def test_an_unknown_backend_raises():
    with pytest.raises(ValueError, match="backend must be"):
        LucasKanadeAligner(data()[0], backend="cuda")


def test_without_gpu_or_triton_an_explicit_request_raises(monkeypatch):
    cut, image = (t.cpu() for t in data(size=1))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="backend must be 'auto' or 'torch' for a tensor on cpu"):
        align(cut, image, backend="triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        align(cut, image, backend="triton")
