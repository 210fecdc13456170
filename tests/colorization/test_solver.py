"""The solver against SciPy's sparse direct solve of the same system, and its promises."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from helpers import assert_close, photograph, smooth_image
from PIL import Image

from torchops import (
    colorization_loss,
    colorize,
    levin_weights,
    rgb_to_yiq,
    scribbles_from_marked,
    yiq_to_rgb,
)


def matrix(luma, pull, *, radius=1, weighting="levin"):
    """The square system as a SciPy matrix, for luma and pull (1, H, W)."""
    height, width = luma.shape[-2:]
    weights = levin_weights(luma.double(), radius=radius, weighting=weighting)
    coupling = ((1 - pull.double()) * weights).numpy()
    index = np.arange(height * width).reshape(height, width)
    reach = range(-radius, radius + 1)
    offsets = [(dy, dx) for dy in reach for dx in reach if (dy, dx) != (0, 0)]
    result = scipy.sparse.diags((pull.numpy() + coupling.sum(0)).ravel())
    for plane, (dy, dx) in zip(coupling, offsets, strict=True):
        y, x = np.nonzero(plane)
        result = result - scipy.sparse.csr_matrix(
            (plane[y, x], (index[y, x], index[y + dy, x + dx])), shape=result.shape
        )
    return result.tocsc()


def direct(luma, hints, mask, *, confidence=1.0, radius=1, weighting="levin"):
    """Solve one image by sparse LU in float64."""
    pull = mask * (confidence * torch.ones_like(luma, dtype=torch.float64))
    system = matrix(luma, pull, radius=radius, weighting=weighting)
    rhs = (pull * hints.double()).flatten(1).numpy().T
    solution = scipy.sparse.linalg.spsolve(system, rhs).reshape(rhs.shape)
    return torch.from_numpy(solution.T.copy()).reshape(hints.shape)


def scene(size=48, *, channels=2, share=0.02, seed=0, dtype=torch.float64, name="camera.png"):
    """A photograph's luma, random hints in [-0.3, 0.3], and where they are."""
    generator = torch.Generator().manual_seed(seed)
    luma = photograph(name)[:1, 100 : 100 + size, 150 : 150 + size]
    hints = torch.rand(channels, size, size, generator=generator, dtype=torch.float64) * 0.6 - 0.3
    mask = torch.rand(1, size, size, generator=generator) < share
    return luma.to(dtype), hints.to(dtype), mask


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("name", ["camera.png", "coffee.png"])
def test_equals_sparse_direct_solve(size, name, device):
    for dtype, tol, tolerance in [(torch.float32, 1e-5, 1e-5), (torch.float64, 1e-10, 1e-9)]:
        luma, hints, mask = scene(size, dtype=dtype, name=name)
        result = colorize(luma.to(device), hints.to(device), mask.to(device), tol=tol)
        assert result.converged
        assert result.chroma.dtype == result.error.dtype == dtype
        assert_close(result.chroma.cpu(), direct(luma, hints, mask), tolerance)


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("name", ["camera.png", "chelsea.png"])
def test_error_is_never_below_the_true_error(tol, name, device):
    for share in (0.002, 0.05):
        luma, hints, mask = scene(96, share=share, name=name)
        result = colorize(luma.to(device), hints.to(device), mask.to(device), tol=tol)
        true = (result.chroma.cpu() - direct(luma, hints, mask)).abs().max()
        assert true <= result.error.cpu() <= tol


def test_iteration_limit_is_reported_with_an_honest_error(device):
    luma, hints, mask = (t.to(device) for t in scene(96))
    exact = direct(luma.cpu(), hints.cpu(), mask.cpu())
    for limit in (1, 2, 6):
        result = colorize(luma, hints, mask, tol=1e-9, max_iterations=limit)
        assert not result.converged
        assert result.iterations == limit
        assert result.error >= (result.chroma.cpu() - exact).abs().max()


def test_hinted_pixels_keep_their_hint_and_no_colour_leaves_their_range(device):
    for dtype in (torch.float32, torch.float64):
        luma, hints, mask = (t.to(device) for t in scene(64, dtype=dtype))
        chroma = colorize(luma, hints, mask).chroma
        known = mask.expand_as(hints)
        assert torch.equal(chroma[known], hints[known])
        for c in range(2):
            assert chroma[c].max() <= hints[c][mask[0]].max() + 1e-6
            assert chroma[c].min() >= hints[c][mask[0]].min() - 1e-6


def test_symmetrised_system_changes_the_answer(device):
    luma, hints, mask = scene(64)
    system = matrix(luma, torch.zeros_like(luma))
    weights = scipy.sparse.identity(64 * 64) - system
    mean = (weights + weights.T) / 2
    laplacian = scipy.sparse.diags(np.asarray(mean.sum(1)).ravel()) - mean
    known = mask.flatten().numpy()
    symmetrised = scipy.sparse.diags((~known) * 1.0) @ laplacian + scipy.sparse.diags(known * 1.0)
    rhs = (mask * hints).flatten(1).numpy().T
    wrong = scipy.sparse.linalg.spsolve(symmetrised.tocsc(), rhs).T.reshape(hints.shape)
    chroma = colorize(luma.to(device), hints.to(device), mask.to(device)).chroma.cpu()
    assert (chroma - torch.from_numpy(wrong)).abs().max() > 0.03
    assert_close(chroma, direct(luma, hints, mask), 1e-5)


def test_least_squares_over_all_rows_overshoots_and_free_rows_do_not(device):
    # Minimising the loss over every row is another problem, whose solution leaves the hints' range.
    luma, hints, mask = scene(24, share=0.03)
    weights = scipy.sparse.identity(24 * 24) - matrix(luma, torch.zeros_like(luma))
    rows = (scipy.sparse.identity(24 * 24) - weights).tocsc()
    known = mask.flatten().numpy()
    values = hints.flatten(1).numpy().T
    free, fixed = rows[:, ~known], rows[:, known] @ values[known]
    plate = scipy.sparse.linalg.spsolve((free.T @ free).tocsc(), -(free.T @ fixed))
    assert abs(plate).max() > abs(values[known]).max()
    chroma = colorize(luma.to(device), hints.to(device), mask.to(device), tol=1e-9).chroma
    assert colorization_loss(chroma, luma.to(device), mask=(~mask).to(device)) < 1e-16


def test_constant_luma_gives_harmonic_interpolation(device):
    luma = torch.full((1, 9, 9), 0.5, dtype=torch.float64, device=device)
    hints = torch.zeros_like(luma)
    mask = torch.zeros_like(luma, dtype=torch.bool)
    mask[..., 0] = mask[..., -1] = True
    hints[..., -1] = 1
    chroma = colorize(luma, hints, mask, tol=1e-10).chroma
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64, device=device).expand(1, 9, 9)
    # On the rows away from the clipped border the ramp is exact by symmetry of the stencil.
    assert_close(chroma, ramp, 1e-9)


def test_hints_everywhere_are_the_answer(device):
    luma, hints, mask = (t.to(device) for t in scene(16))
    result = colorize(luma, hints, torch.ones_like(mask))
    assert torch.equal(result.chroma, hints)
    assert result.converged
    assert result.error == 0
    assert result.iterations == 0


def test_one_hint_colours_the_whole_image(device):
    luma, hints, mask = (t.to(device) for t in scene(24, share=0.0))
    mask[0, 5, 7] = True
    result = colorize(luma, hints, mask)
    assert result.converged
    assert_close(result.chroma, hints[:, 5, 7, None, None].expand_as(hints), 1e-5)


def test_linear_in_the_hints(device):
    luma, hints, mask = (t.to(device) for t in scene(32))
    other = torch.randn_like(hints)
    both = colorize(luma, 2 * hints - 3 * other, mask, tol=1e-10).chroma
    apart = [colorize(luma, h, mask, tol=1e-10).chroma for h in (hints, other)]
    assert_close(both, 2 * apart[0] - 3 * apart[1], 1e-8)


@pytest.mark.parametrize("turn", ["rotate", "transpose"])
def test_turning_the_image_turns_the_answer(turn, device):
    def turned(t):
        return t.rot90(2, (-2, -1)) if turn == "rotate" else t.mT

    luma, hints, mask = (t.to(device)[..., :31] for t in scene(32))
    expected = colorize(luma, hints, mask, tol=1e-10).chroma
    actual = colorize(turned(luma), turned(hints), turned(mask), tol=1e-10).chroma
    assert_close(turned(actual), expected, 1e-9)


def test_confidence_softens_a_hint(device):
    luma, hints, mask = scene(40, share=0.05)
    confidence = torch.rand(1, 40, 40, dtype=torch.float64) * 0.9 + 0.1
    confidence[..., :20] = 1
    arguments = (t.to(device) for t in (luma, hints, mask))
    result = colorize(*arguments, confidence=confidence.to(device), tol=1e-10)
    assert result.converged
    exact = direct(luma, hints, mask, confidence=confidence)
    assert_close(result.chroma.cpu(), exact, 1e-9)
    hard = (mask & (confidence == 1)).expand_as(hints)
    assert torch.equal(result.chroma.cpu()[hard], hints[hard])


@pytest.mark.parametrize(("radius", "weighting"), [(1, "gaussian"), (2, "levin"), (3, "gaussian")])
def test_other_windows_and_weights(radius, weighting, device):
    luma, hints, mask = scene(40)
    options = {"radius": radius, "weighting": weighting}
    result = colorize(luma.to(device), hints.to(device), mask.to(device), tol=1e-10, **options)
    assert result.converged
    assert_close(result.chroma.cpu(), direct(luma, hints, mask, **options), 1e-9)


def test_image_without_hints(device):
    luma, hints, mask = (torch.stack([t, t]).to(device) for t in scene(24))
    mask[0] = False
    hints.requires_grad_()
    initial = torch.rand(2, 2, 24, 24, device=device)
    for start, expected in [(None, torch.zeros_like(initial[0])), (initial, initial[0])]:
        result = colorize(luma, hints, mask, initial=start)
        assert result.converged.tolist() == [False, True]
        assert result.error[0] == torch.inf
        assert_close(result.chroma[0], expected, 0)
        (gradient,) = torch.autograd.grad(result.chroma.sum(), hints)
        assert gradient[0].abs().max() == 0
        assert gradient[1].abs().max() > 0


def test_warm_start(device):
    luma, hints, mask = (t.to(device) for t in scene(64))
    cold = colorize(luma, hints, mask, tol=1e-6)
    again = colorize(luma, hints, mask, tol=1e-5, initial=cold.chroma)
    assert again.converged
    assert_close(again.chroma, cold.chroma, 1e-5)
    everywhere = torch.full_like(hints, 7.0)
    assert_close(colorize(luma, hints, mask, initial=everywhere).chroma, cold.chroma, 2e-5)


def test_batch_equals_single_images_in_any_order(device):
    scenes = [
        scene(40, share=0.02),
        scene(40, share=0.3, seed=1, name="coffee.png"),
        scene(40, share=0.004, seed=2, name="chelsea.png"),
    ]
    luma, hints, mask = (torch.stack(t).to(device) for t in zip(*scenes, strict=True))
    together = colorize(luma, hints, mask)
    order = torch.tensor([2, 0, 1], device=device)
    permuted = colorize(luma[order], hints[order], mask[order])
    assert_close(permuted.chroma, together.chroma[order], 1e-6)
    assert permuted.iterations.tolist() == together.iterations[order].tolist()
    for i in range(3):
        alone = colorize(luma[i], hints[i], mask[i])
        assert_close(alone.chroma, together.chroma[i], 1e-6)
        assert alone.iterations == together.iterations[i]
    assert together.iterations.unique().numel() > 1  # every image stopped by itself


def test_leading_dimensions_broadcast(device):
    luma, hints, mask = (t.to(device) for t in scene(16, share=0.1))
    several = torch.stack([hints, 2 * hints, -hints])[:, None]
    result = colorize(torch.stack([luma, luma.flip(-1)]), several, mask)
    assert result.chroma.shape == (3, 2, 2, 16, 16)
    assert result.error.shape == result.iterations.shape == result.converged.shape == (3, 2)
    assert_close(result.chroma[1, 0], 2 * result.chroma[0, 0], 2e-5)
    empty = colorize(luma, several[:0], mask)
    assert empty.chroma.shape == (0, 1, 2, 16, 16)
    assert empty.converged.shape == (0, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9), (3, 5)])
def test_tiny_images(shape, device):
    luma = torch.rand(1, *shape, device=device)
    hints = torch.rand(2, *shape, device=device)
    mask = torch.zeros(1, *shape, dtype=torch.bool, device=device)
    assert not colorize(luma, hints, mask).converged
    mask[0, 0, 0] = True
    result = colorize(luma, hints, mask)
    assert result.converged
    assert_close(result.chroma, hints[:, :1, :1].expand_as(hints), 1e-5)


def test_half_precision_and_autocast(device):
    luma, hints, mask = (t.to(device) for t in scene(24, dtype=torch.float32))
    expected = colorize(luma, hints, mask)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(colorize(luma, hints, mask).chroma, expected.chroma)
    for dtype in (torch.float16, torch.bfloat16):
        half = colorize(luma.to(dtype), hints.to(dtype), mask)
        assert half.chroma.dtype == torch.float32
        full = colorize(luma.to(dtype).float(), hints.to(dtype).float(), mask)
        assert torch.equal(half.chroma, full.chroma)


def test_nan_stays_in_its_image(device):
    luma, hints, mask = (torch.stack([t, t]).to(device) for t in scene(24))
    expected = colorize(luma, hints, mask).chroma[1]
    for poisoned in (luma, hints):
        broken = poisoned.clone()
        broken[0, :, mask[0, 0]] = torch.nan
        arguments = (broken, hints) if poisoned is luma else (luma, broken)
        result = colorize(*arguments, mask)
        assert result.converged.tolist() == [False, True]
        assert_close(result.chroma[1], expected, 1e-6)
    outside = torch.where(mask, hints, torch.nan)
    assert_close(colorize(luma, outside, mask).chroma[1], expected, 1e-6)


def test_gradcheck_of_hints_confidence_and_luma():
    luma = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    hints = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    confidence = (torch.rand(1, 3, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    mask = torch.rand(1, 3, 4) < 0.4

    def soft(luma, hints, confidence):
        return colorize(luma, hints, mask, confidence=confidence, tol=1e-11).chroma

    def hard(luma, hints):
        return colorize(luma, hints, mask, tol=1e-11).chroma

    assert torch.autograd.gradcheck(soft, (luma, hints, confidence))
    assert torch.autograd.gradcheck(hard, (luma, hints), fast_mode=True)


def test_second_derivatives():
    luma = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    hints = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 2, 1] = mask[0, 1, 3] = True

    def solve(luma, hints):
        return colorize(luma, hints, mask, tol=1e-11).chroma

    assert torch.autograd.gradgradcheck(solve, (luma, hints), fast_mode=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_gradient_of_a_photograph_equals_the_transposed_direct_solve(dtype, tolerance, device):
    luma, hints, mask = scene(64, dtype=dtype)
    upstream = smooth_image(2, 64, 64, seed=3).to(dtype)
    system = matrix(luma, mask.double())
    adjoint = scipy.sparse.linalg.spsolve(system.T.tocsc(), upstream.double().flatten(1).numpy().T)
    expected = torch.from_numpy(adjoint.T.copy()).reshape(2, 64, 64) * mask
    leaf = hints.to(device).requires_grad_()
    chroma = colorize(luma.to(device), leaf, mask.to(device), tol=1e-8).chroma
    (gradient,) = torch.autograd.grad(chroma, leaf, upstream.to(device))
    assert_close(gradient.cpu(), expected, tolerance * expected.abs().max().item())


def test_gradient_to_luma_equals_finite_differences(device):
    luma, hints, mask = (t.to(device) for t in scene(32, share=0.05))
    luma = luma + 0.01 * torch.rand_like(luma)  # off the kinks of equal grey levels
    upstream, direction = torch.rand_like(hints), torch.randn_like(luma)

    def value(luma):
        return (colorize(luma, hints, mask, tol=1e-11).chroma * upstream).sum()

    leaf = luma.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    h = 1e-7
    difference = (value(luma + h * direction) - value(luma - h * direction)) / (2 * h)
    slope = (gradient * direction).sum()
    assert abs(slope - difference) <= 1e-4 * abs(slope)


def test_memory_kept_for_the_gradient_does_not_grow_with_iterations():
    luma, hints, mask = scene(48)
    luma.requires_grad_()
    kept = {}
    for limit in (1, 8):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            result = colorize(luma, hints, mask, tol=1e-12, max_iterations=limit)
        assert result.iterations == limit
        kept[limit] = sum(sizes)
    assert kept[1] == kept[8]


def test_no_gradient_to_the_first_guess(device):
    luma, hints, mask = (t.to(device) for t in scene(16, share=0.1))
    initial = torch.zeros_like(hints, requires_grad=True)
    assert not colorize(luma, hints, mask, initial=initial).chroma.requires_grad


def load(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


@pytest.mark.parametrize(
    ("folder", "gray", "marked"),
    [
        ("levin_child", "example.bmp", "example_marked.bmp"),
        ("plant", "1_bw.bmp", "1_marked.bmp"),
    ],
)
def test_levins_example_to_one_grey_level(folder, gray, marked, shared_data, device):
    folder = shared_data / "colorization" / folder
    gray, marked = (load(folder / name).to(device) / 255 for name in (gray, marked))
    luma = rgb_to_yiq(gray)[:1]
    result = colorize(luma, *scribbles_from_marked(gray, marked), tol=1e-3)
    assert result.converged
    colour = yiq_to_rgb(torch.cat([luma, result.chroma])).clamp(0, 1)
    levels = (colour * 255).round().cpu()
    assert (levels - load(folder / "levin_exact_full.png")).abs().max() <= 1
