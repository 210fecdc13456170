"""The Module: its options, and sigmas that are learned."""

import copy

import pytest
import torch
from helpers import assert_close, photograph
from torch.autograd import gradcheck

from torchops import BilateralFilter, bilateral_filter


def test_module_equals_function():
    image, guide = torch.rand(2, 3, 9, 8), torch.rand(2, 1, 9, 8)
    mask = torch.rand(2, 1, 9, 8) > 0.2
    options = {"radius": 2, "window": "disc", "distance": "l1", "border": "replicate"}
    module = BilateralFilter(1.2, 0.3, **options)
    expected = bilateral_filter(image, 1.2, 0.3, guide=guide, mask=mask, **options)
    assert torch.equal(module(image, guide, mask), expected)
    assert (module.sigma_space, module.sigma_range) == (1.2, 0.3)
    assert "radius=(2, 2)" in repr(module)


def test_module_keeps_tensor_sigmas_as_buffers_and_fixes_the_radius():
    module = BilateralFilter((torch.tensor([0.6, 1.1]), 2.0), torch.tensor(0.3))
    assert module.radius == (4, 6)
    assert set(module.state_dict()) == {"fixed_sigma_space_0", "fixed_sigma_range"}
    assert list(module.parameters()) == []
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    found = module.double()(image)
    assert module.sigma_space[0].dtype == torch.float64
    expected = bilateral_filter(image, module.sigma_space, module.sigma_range, radius=(4, 6))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [1e-3, 0.1, 0.7, 1.0, 2.5, 25.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_learned_sigmas_start_at_the_given_value(value, dtype):
    module = BilateralFilter(
        torch.tensor(value, dtype=dtype), torch.tensor(value, dtype=dtype), learnable=True, radius=2
    )
    for sigma in (module.sigma_space, module.sigma_range):
        assert sigma.dtype == dtype
        assert abs(float(sigma.detach()) - value) <= 8 * torch.finfo(dtype).eps * value
    numbers = BilateralFilter(value, value, learnable=True, radius=2)
    assert numbers.sigma_space.dtype == torch.float32
    assert numbers.radius == (2, 2)


def test_learned_sigmas_per_axis_and_per_sample():
    module = BilateralFilter(
        (torch.tensor([0.6, 1.1]), 2.0), torch.tensor([0.3, 0.2]), learnable=True
    )
    assert module.radius == (4, 6)
    names = {"log_sigma_space_0", "log_sigma_space_1", "log_sigma_range"}
    assert {name for name, _ in module.named_parameters()} == names
    image = torch.rand(2, 1, 8, 8)
    along_y, along_x = module.sigma_space
    assert_close(along_y.detach(), torch.tensor([0.6, 1.1]), 1e-6)
    assert_close(along_x.detach(), torch.tensor(2.0), 1e-6)
    found = module(image)
    expected = bilateral_filter(
        image, (torch.tensor([0.6, 1.1]), 2.0), torch.tensor([0.3, 0.2]), radius=(4, 6)
    )
    assert_close(found.detach(), expected, 1e-6)
    found.square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).all()


def test_the_learned_tensors_are_not_the_callers():
    start = torch.tensor(0.3, requires_grad=True)
    module = BilateralFilter(1.0, start, learnable=True)
    with torch.no_grad():
        module.log_sigma_range += 1
    assert start == 0.3
    assert module.log_sigma_range.is_leaf


def test_gradients_to_the_parameters():
    image = torch.rand(1, 5, 6, dtype=torch.float64)
    module = BilateralFilter((1.0, 1.5), 0.3, learnable=True, radius=2).double()
    names, values = zip(*module.named_parameters(), strict=True)

    def run(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (image,))

    assert gradcheck(run, values, fast_mode=True)


def test_state_dict_round_trip_and_copies():
    module = BilateralFilter((1.0, 2.0), 0.3, learnable=True, radius=3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1
    image = torch.rand(1, 8, 9)
    other = BilateralFilter((3.0, 4.0), 0.7, learnable=True, radius=3)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(image), module(image))
    assert torch.equal(copy.deepcopy(module)(image), module(image))
    half = copy.deepcopy(module).to(torch.bfloat16)
    assert_close(half(image).detach(), module(image).detach(), 0.01)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("sign", [-1, 1])
def test_no_step_can_make_a_sigma_useless(optimiser, sign):
    module = BilateralFilter(1.0, 0.2, learnable=True, radius=2)
    steps = optimiser(module.parameters(), lr=500.0)
    image = torch.rand(1, 8, 9)
    for _ in range(6):
        steps.zero_grad()
        (sign * (module.sigma_space + module.sigma_range)).backward()
        steps.step()
        assert 0 < module.sigma_space < torch.inf
        assert 0 < module.sigma_range < torch.inf
        assert module(image).isfinite().all()
    steps.zero_grad()
    module(image).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def learn(module, noisy, clean, steps, rate):
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (module(noisy) - clean).square().mean()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_known_sigmas_are_recovered_from_input_and_output():
    image = photograph(dtype=torch.float32)[:, 120:168, 200:248]
    wanted = bilateral_filter(image, (1.5, 0.8), 0.15, radius=4)
    module = BilateralFilter((1.0, 1.0), 0.05, learnable=True, radius=4)
    learn(module, image, wanted, 150, 0.05)
    along_y, along_x = (float(sigma.detach()) for sigma in module.sigma_space)
    assert abs(along_y - 1.5) < 0.015
    assert abs(along_x - 0.8) < 0.008
    assert abs(float(module.sigma_range.detach()) - 0.15) < 0.0015


def test_learning_improves_a_denoiser():
    clean = photograph(dtype=torch.float32)[:, 100:196, 180:276]
    noisy = clean + 0.08 * torch.randn(4, *clean.shape)
    module = BilateralFilter(1.0, 0.1, learnable=True, radius=5)

    def psnr(images):
        return -10 * float((images - clean).square().mean().log10())

    held_out = clean + 0.08 * torch.randn(clean.shape)
    before = psnr(module(held_out).detach())
    learn(module, noisy, clean, 40, 0.1)
    after = psnr(module(held_out).detach())
    assert after > before + 2
    assert after > psnr(held_out) + 5


@pytest.mark.unhooked
def test_learnable_must_be_a_bool():
    with pytest.raises(TypeError, match="learnable must be True or False, got 1"):
        BilateralFilter(1.0, 0.1, learnable=1)
    with pytest.raises(ValueError, match="sigma_range must be a finite number > 0"):
        BilateralFilter(1.0, -0.1, learnable=True)
    with pytest.raises(TypeError, match="sigma_space must be of dtype float16"):
        BilateralFilter(torch.tensor(2), 0.1, learnable=True)


@pytest.mark.unhooked
def test_compile_and_export_with_learned_sigmas():
    import warnings

    module = BilateralFilter(0.7, 0.3, learnable=True, radius=1).double()
    image = torch.rand(1, 1, 7, 8, dtype=torch.float64)
    expected = module(image)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        assert_close(compiled(image).detach(), expected.detach(), 1e-13)
        program = torch.export.export(module, (image,))
        assert_close(program.module()(image).detach(), expected.detach(), 1e-13)
