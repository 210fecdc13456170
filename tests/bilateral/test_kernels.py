"""The Triton kernels: equal to the plain path in values and gradients, and what composes with them.

Without a GPU they run in Triton's interpreter, one program after the other, hence the tiny images.
"""

import itertools

import pytest
import torch
from helpers import assert_close

from torchops import BilateralFilter, bilateral_filter
from torchops.bilateral.exact import fold_margins, pad_image

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BORDERS = ("reflect", "replicate", "constant", "circular", "valid_only")
SIZES = {1: (7,), 2: (4, 5), 3: (2, 2, 3)}


def draw(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype).to(DEVICE)


def both(image, sigma_space, sigma_range, guide=None, mask=None, **options):
    """Values and gradients of every floating argument, by the plain path and by the kernel."""
    results = []
    for backend in ("torch", "triton"):
        arguments = [
            a.clone().requires_grad_() if torch.is_tensor(a) and a.is_floating_point() else a
            for a in (image, sigma_space, sigma_range, guide, mask)
        ]
        out = bilateral_filter(
            *arguments[:3], guide=arguments[3], mask=arguments[4], backend=backend, **options
        )
        upstream = draw(*out.shape, dtype=out.dtype, seed=9) - 0.5
        leaves = [a for a in arguments if torch.is_tensor(a) and a.requires_grad]
        results.append([out, *torch.autograd.grad(out, leaves, upstream)])
    return zip(*results, strict=True)


# Every value of every option at least once with every value of each other.
PAIRWISE = [
    ("square", "l2", "reflect", 0, False, 2),
    ("disc", "l1", "reflect", 2, True, 3),
    ("disc", "l2", "replicate", 1, False, 1),
    ("square", "l1", "replicate", 0, True, 2),
    ("square", "l2", "replicate", 2, True, 3),
    ("disc", "l1", "constant", 0, False, 3),
    ("square", "l2", "constant", 2, True, 1),
    ("disc", "l2", "constant", 0, True, 2),
    ("square", "l1", "circular", 2, False, 1),
    ("disc", "l2", "circular", 0, True, 2),
    ("square", "l1", "circular", 0, False, 3),
    ("disc", "l1", "valid_only", 2, True, 2),
    ("square", "l2", "valid_only", 0, False, 1),
    ("square", "l2", "valid_only", 2, False, 3),
    ("disc", "l1", "reflect", 0, False, 1),
    ("square", "l1", "reflect", 1, True, 2),
    ("disc", "l2", "constant", 1, False, 3),
    ("square", "l2", "circular", 1, True, 1),
    ("disc", "l1", "valid_only", 1, False, 2),
]


def check_equal(window, distance, border, guide_channels, masked, dims):
    size = SIZES[dims]
    guide = draw(2, guide_channels, *size, seed=1) if guide_channels else None
    found = both(
        draw(2, 2, *size),
        draw(2, seed=3) + 0.5,
        draw(2, seed=4) + 0.2,
        guide,
        draw(2, 1, *size, seed=2).round(decimals=1) if masked else None,
        radius=2 if dims == 1 else 1,
        window=window,
        distance=distance,
        border=border,
        spatial_dims=dims,
    )
    for plain, kernel in found:
        assert_close(kernel, plain, 1e-12 * max(1, plain.abs().max().item()))


@pytest.mark.parametrize("options", PAIRWISE, ids=str)
def test_equals_the_plain_path_in_values_and_gradients(options):
    check_equal(*options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    list(
        itertools.product(
            ("square", "disc"), ("l2", "l1"), BORDERS, (0, 1, 2), (False, True), (1, 2, 3)
        )
    ),
    ids=str,
)
def test_equals_the_plain_path_for_all_options(options):
    check_equal(*options)


@pytest.mark.parametrize(("channels", "guided"), [(1, 0), (3, 0), (4, 1), (6, 0), (5, 6)])
@pytest.mark.parametrize("masked", [False, True])
def test_any_number_of_channels(channels, guided, masked):
    # More than four are summed in groups; more than four of a guide are not held in registers.
    guide = draw(1, guided, 4, 5, seed=1) if guided else None
    mask = draw(1, 1, 4, 5, seed=2) if masked else None
    for distance in ("l2", "l1"):
        image = draw(1, channels, 4, 5)
        sigmas = draw(1, seed=3) + 0.5, draw(1, seed=4) + 0.5
        for plain, kernel in both(image, *sigmas, guide, mask, radius=1, distance=distance):
            assert_close(kernel, plain, 1e-12 * max(1, plain.abs().max().item()))


def test_a_row_too_long_to_be_unrolled_and_a_radius_per_axis():
    for radius in ((0, 9), (0, 2), (2, 0)):
        for plain, kernel in both(draw(1, 1, 2, 5), draw(1) + 2, draw(1) + 0.3, radius=radius):
            assert_close(kernel, plain, 1e-12 * max(1, plain.abs().max().item()))


@pytest.mark.parametrize("border", BORDERS)
def test_a_window_larger_than_the_image(border):
    image = draw(1, 1, 1, 3)
    for plain, kernel in both(image, draw(1) + 2, draw(1) + 0.3, radius=(1, 5), border=border):
        assert_close(kernel, plain, 1e-12 * max(1, plain.abs().max().item()))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("size", "radius"), [((1, 4), (3, 0)), ((5, 4), (2, 3)), ((2, 3), (7, 9))])
def test_folding_is_the_transpose_of_padding(border, size, radius):
    image = draw(1, 1, *size)
    margined = pad_image(image, radius, border, 0.0)
    weights = draw(*margined.shape, seed=5)
    folded = fold_margins(weights, radius, border)
    assert_close((folded * image).sum(), (weights * margined).sum(), 1e-12)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's
def test_not_finite_guides_and_masks():
    image = draw(2, 6, 7)
    image[0, 2, 3] = torch.nan
    image[1, 4, 4] = torch.inf
    mask = torch.ones(1, 6, 7, dtype=torch.bool, device=DEVICE)
    mask[0, 0] = False
    guide = draw(1, 6, 7, seed=1)
    for options in (
        {},
        {"border": "valid_only"},
        {"mask": mask},
        {"mask": torch.zeros_like(mask)},
        {"mask": torch.isfinite(image).all(0, keepdim=True), "guide": guide},
        {"guide": torch.where(guide > 0.8, torch.nan, guide)},
    ):
        results = []
        for backend in ("torch", "triton"):
            x = image.clone().requires_grad_()
            out = bilateral_filter(x, 1.0, 0.3, radius=1, backend=backend, **options)
            out[out.isfinite()].sum().backward()
            results.append((out, x.grad))
        for plain, kernel in zip(*results, strict=True):
            assert torch.equal(plain.isnan(), kernel.isnan())
            assert_close(kernel.nan_to_num(), plain.nan_to_num(), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_dtypes(dtype):
    image = draw(1, 5, 7)
    image = (255 * image).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)
    sigma_range = 50.0 if dtype == torch.uint8 else 0.3
    plain = bilateral_filter(image, 1.0, sigma_range, backend="torch")
    kernel = bilateral_filter(image, 1.0, sigma_range, backend="triton")
    assert kernel.dtype == dtype
    # Both compute in float32 and round once: they may differ by one step of the dtype.
    step = 1 if dtype == torch.uint8 else max(torch.finfo(dtype).eps, 1e-6)
    assert_close(kernel, plain, step)
    if dtype != torch.uint8:
        image.requires_grad_()
        bilateral_filter(image, 1.0, sigma_range, backend="triton").sum().backward()
        assert image.grad.dtype == dtype


def test_batches_layouts_and_shared_sigmas():
    image = draw(2, 3, 2, 5, 4).transpose(-1, -2)
    space, level = draw(3, seed=1) + 0.5, torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    guide = draw(1, 4, 5).expand(2, 1, 1, 4, 5)
    for plain, kernel in both(image, space, level, guide, radius=1):
        assert_close(kernel, plain, 1e-12 * max(1, plain.abs().max().item()))
    empty = bilateral_filter(draw(0, 3, 5, 5), 1.0, 0.1, backend="triton")
    assert empty.shape == (0, 3, 5, 5)


def test_gradients_are_the_same_bits_in_every_run():
    image = draw(1, 3, 6, 7, dtype=torch.float32).requires_grad_()
    runs = []
    for _ in range(2):
        out = bilateral_filter(image, 1.0, 0.3, backend="triton")
        runs.append(torch.autograd.grad(out.square().sum(), image)[0])
    assert torch.equal(*runs)


def test_gradients_against_finite_differences():
    image, guide = draw(1, 1, 2, 2), draw(1, 1, 2, 2, seed=1)
    mask = draw(1, 1, 2, 2, seed=2) + 0.1
    sigmas = draw(1, seed=3) + 0.7, draw(1, seed=4) + 0.4

    def run(image, guide, mask, space, level):
        return bilateral_filter(
            image, space, level, guide=guide, mask=mask, radius=1, backend="triton"
        )

    leaves = [x.requires_grad_() for x in (image, guide, mask, *sigmas)]
    assert torch.autograd.gradcheck(run, leaves)


def test_second_order_raises_with_the_cure():
    image = draw(1, 3, 4).requires_grad_()
    out = bilateral_filter(image, 1.0, 0.3, backend="triton")
    (gradient,) = torch.autograd.grad(out.sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="backend must be 'torch' for derivatives of second"):
        gradient.sum().backward()


def test_which_path_ran(monkeypatch):
    calls = []
    from torchops.bilateral import kernels_launch

    launch = kernels_launch.launch_forward
    monkeypatch.setattr(
        kernels_launch, "launch_forward", lambda *args: calls.append("triton") or launch(*args)
    )
    image = draw(1, 4, 4)
    bilateral_filter(image, 1.0, 0.3, backend="torch")
    assert calls == []
    bilateral_filter(image, 1.0, 0.3, backend="triton")
    BilateralFilter(1.0, 0.3, backend="triton")(image)
    assert calls == ["triton"] * 2
    bilateral_filter(image, 1.0, 0.3)
    assert calls == ["triton"] * (3 if image.is_cuda else 2)
