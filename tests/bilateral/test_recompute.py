"""What the fast methods compute again in the backward, against the autograd of the plain form."""

import math

import pytest
import torch
from helpers import assert_close
from torch.autograd import gradcheck, gradgradcheck

from torchops import bilateral_filter
from torchops.bilateral import fourier, lattice, recompute, subsampled

METHODS = ["piecewise", "grid", "fourier"]


def problem(size=(37, 9), sigma_space=(1.4, 2.4)):
    generator = torch.Generator().manual_seed(2)

    def rand(channels):
        return torch.rand(2, channels, *size, generator=generator, dtype=torch.float64)

    numbers = (torch.tensor(sigma_space), torch.tensor([0.2, 0.3]))
    inputs = (rand(2), rand(1), 0.1 + 0.9 * rand(1), *(n.double() for n in numbers))
    return [t.requires_grad_() for t in inputs]


def filtered(method, border="reflect", own_guide=False, **options):
    def run(image, guide, mask, space, level):
        if own_guide:
            image, guide, mask = guide, None, None
        return bilateral_filter(
            image, space, level, guide=guide, mask=mask, border=border, method=method, **options
        )

    return run


def with_gradients(run, inputs):
    out = run(*inputs)
    generator = torch.Generator().manual_seed(4)
    upstream = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    grads = torch.autograd.grad(out, inputs, upstream, allow_unused=True)
    return [out, *(g for g in grads if g is not None)]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(lattice, "BLOCK", 100)
    monkeypatch.setattr(fourier, "PART", 1)


@pytest.mark.parametrize("own_guide", [False, True])
@pytest.mark.parametrize("border", ["reflect", "valid_only"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("small_parts")
def test_gradients_equal_those_of_the_plain_form(method, border, own_guide, monkeypatch):
    inputs = problem()
    run = filtered(method, border, own_guide)
    found = with_gradients(run, inputs)
    for module in (recompute, subsampled, fourier):  # as if no backward followed: nothing is cut
        monkeypatch.setattr(module, "differentiated", lambda *tensors: False)
    expected = with_gradients(run, inputs)
    assert len(found) == (4 if own_guide else 6)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-10)


@pytest.mark.parametrize("border", ["reflect", "valid_only"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("small_parts")
def test_parts_of_an_image_smaller_than_its_window(method, border):
    inputs = problem((7, 5), (5.9, 2.9))
    found = with_gradients(filtered(method, border, tolerance=1e-9), inputs)
    expected = with_gradients(filtered("exact", border), inputs)
    assert_close(found[0], expected[0], 0.1 if method != "fourier" else 1e-8)
    assert gradcheck(filtered(method, border), inputs, fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("small_parts")
def test_parts_twice_differentiated(method):
    image, guide, mask, space, level = problem((6, 3), (0.4, 0.6))

    def run(image, mask, space, level):
        options = {"radius": 2, "terms": 6 if method == "fourier" else None}
        return filtered(method, **options)(image, guide.detach(), mask, space, level)

    assert gradgradcheck(run, (image, mask, space, level), fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_arguments_are_kept_for_the_backward(method):
    image = torch.rand(1, 64, 64, requires_grad=True)
    sigmas = [torch.tensor(s, requires_grad=True) for s in (3.0, 0.1)]
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        bilateral_filter(image, *sigmas, method=method)
    images = sum(kept.values()) / (4 * image.numel())
    assert images < 12, images


def test_several_stages():
    x = torch.rand(1, 1, 4, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 1, 4, dtype=torch.float64)
    first = [lambda x, y: (x * y)[..., :1], lambda x, y: (x * y)[..., 1:]]
    second = [lambda z, x, y: (z * z + x)[..., :3], lambda z, x, y: (z * z + x)[..., 3:]]
    found = recompute.recomputed([first, second], x, y)
    assert_close(found, (x * y).square() + x, 1e-15)
    grad = torch.autograd.grad(found.sum(), x)[0]
    assert_close(grad, 2 * x * y.square() + 1, 1e-15)


@pytest.mark.parametrize("method", METHODS[:2])
def test_the_work_of_cells_does_not_grow_with_sigma_space(method):
    def work(sigma):
        image = torch.empty(1, 1, 1024, 1024, device="meta")
        radius = math.ceil(3 * sigma)
        axis = lattice.Lattice(image, (radius, radius), "reflect", False).axes[0]
        return axis.nodes**2 * (2 * axis.reach + 1)

    assert work(32) < 1.3 * work(4)


def test_the_terms_of_the_series_hardly_grow_with_sigma_space():
    def terms(sigma):
        image = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
        numbers = torch.tensor([[sigma, sigma]]), torch.tensor([0.1])
        batch = fourier.Batch(image, image, None, *numbers)
        radius = math.ceil(3 * sigma)
        return fourier._needed_terms(batch, (radius, radius), 1e-3)[0]

    assert terms(32.0) <= 1.3 * terms(4.0)
