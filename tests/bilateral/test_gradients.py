"""Gradients of the bilateral filter: gradcheck, second order, memory, what has none."""

import itertools

import pytest
import torch
from helpers import assert_close
from torch.autograd import gradcheck, gradgradcheck

from torchops import bilateral_filter
from torchops.bilateral import chunks, exact, pairs


def tensors(dims, guide_channels=2, size=None):
    """Image, guide, mask, sigma_space, sigma_range, all with gradients."""
    size = size or {1: (6,), 2: (3, 4), 3: (2, 2, 3)}[dims]
    generator = torch.Generator().manual_seed(3)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    parts = (rand(2, *size), rand(guide_channels, *size), 0.1 + 0.9 * rand(1, *size))
    sigmas = (torch.tensor(1.1, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    return tuple(t.requires_grad_() for t in (*parts, *sigmas))


def filtered(method, **options):
    def run(image, guide, mask, space, level):
        return bilateral_filter(
            image, space, level, guide=guide, mask=mask, radius=2, method=method, **options
        )

    return run


@pytest.mark.parametrize(
    ("distance", "border", "window", "dims"),
    [
        ("l2", "reflect", "square", 2),
        ("l1", "replicate", "disc", 2),
        ("l1", "constant", "square", 1),
        ("l2", "circular", "disc", 3),
        ("l1", "valid_only", "square", 2),
    ],
)
def test_first_and_second_order_to_everything(distance, border, window, dims):
    run = filtered("exact", distance=distance, border=border, window=window, spatial_dims=dims)
    inputs = tensors(dims)
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_one_tensor_is_image_and_guide():
    image, _, _, space, level = tensors(2)
    for distance in ("l2", "l1"):

        def run(image, space, level, distance=distance):
            return bilateral_filter(image, space, level, radius=2, distance=distance)

        assert gradcheck(run, (image, space, level), fast_mode=True)
        assert gradgradcheck(run, (image, space, level), fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_second_order_to_everything_entry_by_entry(distance):
    run = filtered("exact", distance=distance)
    assert gradgradcheck(run, tensors(2, size=(3, 4)))


def test_sigmas_per_sample_and_per_axis():
    image = torch.rand(3, 1, 3, 4, dtype=torch.float64)
    along_y = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64, requires_grad=True)
    along_x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    level = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64, requires_grad=True)

    def run(along_y, along_x, level):
        return bilateral_filter(image, (along_y, along_x), level)  # three different radii

    assert gradcheck(run, (along_y, along_x, level))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("guide_channels", [0, 1, 2])
@pytest.mark.parametrize("radii", [(3,), (2, 1), (1, 0, 2)])
def test_the_fast_and_the_traceable_form_agree(counted, shared, guide_channels, radii):
    if counted and not guide_channels:
        return  # what counts is no part of a guide
    size = {1: (90,), 2: (9, 7), 3: (4, 5, 6)}[len(radii)]
    padded = [n + 2 * r for n, r in zip(size, radii, strict=True)]
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    sources = rand(2, 3 + counted, *padded)
    guide = rand(2, guide_channels, *padded) if guide_channels else None
    finite = rand(2, 1, *size) > 0.1
    sharpness = torch.tensor([1.0, 0.3], dtype=torch.float64)
    if shared:  # one number for all samples takes a shorter way
        sharpness = sharpness[:1].expand(2)
    taps = exact.half_window(radii, "disc")
    exponents = -rand(2, max(k for k, _ in taps) + 1)
    for distance in ("l2", "l1"):
        arrays, options = (sources, guide), (sharpness, exponents, radii, taps, distance)
        fast = chunks.chunked_means(*arrays, finite, *options, not counted)
        plain = pairs._traceable_means(*arrays, finite, *options, not counted)
        for a, b in zip(fast, plain, strict=True):
            assert torch.equal(a.isinf(), b.isinf())
            assert_close(a.nan_to_num(posinf=0), b.nan_to_num(posinf=0), 1e-13)
        upstream = [rand(2, 3, *size), *plain, rand(2, 1, *size)]
        for needs in ((True, guide is not None, True, True), (False, False, True, False)):
            further = (*arrays, *options, not counted, needs)
            fast = chunks.chunked_gradients(upstream, *further)
            plain = pairs._traceable_gradients(upstream, *further)
            for a, b in zip(fast, plain, strict=True):
                assert_close(a, b, 1e-12 * max(1, b.abs().max().item()))


@pytest.mark.parametrize("size", [(4000,), (40, 150), (9, 20, 30), (2, 70, 60)])
def test_chunks_change_nothing(monkeypatch, size):
    dims = len(size)
    inputs = tensors(dims, size=size)
    upstream = torch.randn(2, *size, dtype=torch.float64)

    def run():
        out = filtered("exact", spatial_dims=dims)(*inputs)
        return out, *torch.autograd.grad(out, inputs, upstream)

    whole = run()
    # The smallest chunk, 2048 pixels: shorter than the reach of the large planes.
    monkeypatch.setattr(chunks, "CHUNK", 1)
    for a, b in zip(run(), whole, strict=True):
        assert_close(a, b, 1e-12 * max(1, b.abs().max().item()))


def test_no_gradient_is_nan_where_nothing_counts_or_nothing_is_finite():
    image = torch.rand(2, 6, 7, dtype=torch.float64)
    image[0, 1, 1] = torch.nan
    mask = torch.ones(1, 6, 7, dtype=torch.float64)
    mask[:, :, 3:] = 0
    image[:, :, 5] = torch.inf
    inputs = [t.requires_grad_() for t in (image, mask)]
    sigmas = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (1.0, 0.2)]
    for method, own in (
        ("exact", True),
        ("exact", False),
        ("piecewise", False),
        ("grid", False),
        ("fourier", False),
    ):
        guide = torch.rand(1, 6, 7, dtype=torch.float64)
        guide[0, 2, 2] = torch.nan
        guide.requires_grad_()
        found = bilateral_filter(
            image, *sigmas, mask=mask, radius=1, guide=None if own else guide, method=method
        )
        wanted = [*inputs, *sigmas] if own else [*inputs, *sigmas, guide]
        # The own NaN of a counting pixel is masked by its guide only if it is its own guide.
        upstream = torch.where(found.isfinite(), torch.ones_like(found), 0)
        if own:
            assert found.isfinite().all()
            grads = torch.autograd.grad(found, wanted, upstream)
            assert all(g.isfinite().all() for g in grads)
            assert (grads[0][:, :, 4:] == 0).all()  # neither a source nor a window with one
            assert (grads[0][:, 1, 1] == 0).all()
        else:
            clean = image.detach().nan_to_num(posinf=0).requires_grad_()
            found = bilateral_filter(
                clean, *sigmas, mask=mask, radius=1, guide=guide, method=method
            )
            grads = torch.autograd.grad(found.sum(), [clean, mask, *sigmas, guide])
            assert all(g.isfinite().all() for g in grads)
            assert grads[-1][0, 2, 2] == 0
            assert (grads[0][:, 2, 2] == 0).all()


def test_the_mask_has_a_gradient_where_it_is_zero():
    image = torch.rand(1, 4, 5, dtype=torch.float64)
    mask = torch.rand(1, 4, 5, dtype=torch.float64)
    mask[0, 1, 2] = 0
    step = torch.zeros_like(mask)
    step[0, 1, 2] = 1e-6

    def total(mask):
        return bilateral_filter(image, 1.0, 0.3, mask=mask).sum()

    grad = torch.func.grad(total)(mask)[0, 1, 2]
    assert abs(grad - (total(mask + step) - total(mask)) / 1e-6) < 1e-5


def test_gradients_of_half_precision_and_of_uint8_guides():
    image = torch.rand(1, 6, 7, dtype=torch.float16, requires_grad=True)
    levels = torch.randint(0, 256, (1, 6, 7), dtype=torch.uint8)
    bilateral_filter(image, 1.0, 20.0, guide=levels).sum().backward()
    assert image.grad.dtype == torch.float16
    assert image.grad.isfinite().all()


def test_saved_memory_does_not_grow_with_the_window():
    image = torch.rand(1, 64, 64, requires_grad=True)
    saved = {}
    for radius in (1, 7):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append((tensor.data_ptr(), tensor.numel()))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            bilateral_filter(image, 3.0, 0.1, radius=radius)
        saved[radius] = sum(dict(sizes).values()) / (64 + 2 * radius) ** 2
    assert saved[7] < saved[1] + 1
    assert saved[7] < 12


def test_powers_of_two():
    exponent = -torch.cat([torch.linspace(0, 126, 10001), torch.tensor([127.0, 1e4, 1e38])])
    found, expected = pairs._power_of_two(exponent), exponent.double().exp2()
    error = (found.double() - expected).abs()
    assert (error <= 4e-7 * expected)[:-3].all()
    assert (found[-3:] == 0).all()
    assert pairs._power_of_two(torch.tensor([torch.nan, -torch.inf])).isnan().tolist() == [
        True,
        False,
    ]


def peak_of(run):
    """The most bytes that are allocated at one time within a call."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    events = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in events))


@pytest.mark.parametrize(
    ("size", "radius"), [(1024, 1), pytest.param(2048, 15, marks=pytest.mark.slow)]
)
def test_forward_and_backward_take_six_images(size, radius):
    image = torch.rand(1, 1, size, size)

    def run():  # the output and its gradient belong to the loss
        leaf = image.detach().requires_grad_()
        sigmas = [torch.tensor(sigma, requires_grad=True) for sigma in (3.0, 0.1)]
        bilateral_filter(leaf, *sigmas, radius=radius, backend="torch").square().sum().backward()

    assert peak_of(run) <= 6 * 4 * size**2


FAST = ["piecewise", "grid", "fourier"]


@pytest.mark.parametrize("method", FAST)
def test_gradients_of_fast_methods(method):
    inputs = tensors(2, guide_channels=1, size=(5, 4))
    assert gradcheck(filtered(method), inputs)
    inputs = tensors(2, guide_channels=1, size=(9, 8))
    assert gradcheck(filtered(method, border="valid_only"), inputs, fast_mode=True)
    volume = tensors(3, guide_channels=1, size=(3, 4, 3))
    assert gradcheck(filtered(method, spatial_dims=3), volume, fast_mode=True)


@pytest.mark.parametrize("method", FAST)
def test_gradgradcheck_of_fast_methods(method):
    image, guide, mask, space, level = tensors(2, guide_channels=1, size=(4, 5))
    run = filtered(method)

    def fixed_guide(image, mask, space, level):
        return run(image, guide.detach(), mask, space, level)

    assert gradgradcheck(fixed_guide, (image, mask, space, level), fast_mode=True)
