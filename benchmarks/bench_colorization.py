"""Colorization beside its peers: the solver against SciPy's, the loss against gathered weights."""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from harness import Case, main
from skimage import data
from torch.nn.functional import interpolate, unfold

from torchops import colorization_loss, colorize, levin_weights, rgb_to_yuv

LEVEL = 1 / 255


def scene(size, device, *, seed=0):
    """Luma, true chroma and 60 scribbles of 25 x 2 pixels on a photograph of size x size pixels."""
    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    image = interpolate(photograph, (size, size), mode="bilinear", antialias=True)[0]
    image = (image * 255).round() / 255
    luma, chroma = rgb_to_yuv(image).split([1, 2])
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    for y, x in torch.randint(0, size - 25, (60, 2), generator=generator).tolist():
        mask[0, y : y + 2, x : x + 25] = True
    return luma.to(device), chroma.to(device), mask.to(device)


def square_system(luma, mask):
    """The same system as a SciPy matrix."""
    height, width = luma.shape[-2:]
    coupling = ((~mask) * levin_weights(luma.cpu().double())).numpy()
    index = np.arange(height * width).reshape(height, width)
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    rows, columns, values = [], [], []
    for plane, (dy, dx) in zip(coupling, offsets, strict=True):
        y, x = np.nonzero(plane)
        rows.append(index[y, x])
        columns.append(index[y + dy, x + dx])
        values.append(-plane[y, x])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    shape = (height * width, height * width)
    return (scipy.sparse.identity(height * width) + scipy.sparse.csr_matrix(entries, shape)).tocsc()


def solver_case(size, device):
    luma, chroma, mask = scene(size, device)
    host_mask = mask.cpu()
    system = square_system(luma, host_mask)
    rhs = (host_mask * chroma.cpu().double()).flatten(1).numpy().T
    exact = torch.from_numpy(scipy.sparse.linalg.spsolve(system, rhs).T.copy())

    def direct():
        return scipy.sparse.linalg.spsolve(square_system(luma, host_mask), rhs).T

    def bicgstab():
        matrix = square_system(luma, host_mask).tocsr()
        solve = scipy.sparse.linalg.bicgstab
        return np.stack([solve(matrix, b, x0=b, rtol=1e-6, maxiter=5000)[0] for b in rhs.T])

    def error(answer):
        planes = torch.as_tensor(answer).cpu().double().reshape(2, -1)
        return (planes - exact).abs().max() / LEVEL

    return Case(
        name=f"colorize {size}x{size}, 60 scribbles, two planes",
        candidates={
            "torchops tol=1e-3": lambda: colorize(luma, chroma, mask, tol=1e-3).chroma,
            "torchops tol=1e-5": lambda: colorize(luma, chroma, mask, tol=1e-5).chroma,
            "scipy spsolve, with assembly": direct,
            "scipy bicgstab rtol=1e-6": bicgstab,
        },
        baseline="scipy spsolve, with assembly",
        metrics={"error / level": error},
    )


def gradient_case(size, device):
    luma, chroma, mask = scene(size, device)

    def both():
        leaf = chroma.clone().requires_grad_()
        colorize(luma, leaf, mask, tol=1e-5).chroma.square().mean().backward()
        return leaf.grad

    return Case(
        name=f"colorize {size}x{size}, gradient to the hints",
        candidates={
            "solve and adjoint": both,
            "solve alone": lambda: colorize(luma, chroma, mask, tol=1e-5),
        },
        baseline="solve alone",
    )


def loss_case(size, radius, device):
    luma, chroma, _ = scene(size, device)
    luma, chroma = luma[None], chroma[None].clone().requires_grad_()
    side = 2 * radius + 1

    def gathered():
        patches = unfold(chroma, side, padding=radius).reshape(1, 2, side**2, size, size)
        near = torch.cat([patches[:, :, : side**2 // 2], patches[:, :, side**2 // 2 + 1 :]], 2)
        weights = levin_weights(luma, radius=radius)
        return (chroma - (weights[:, None] * near).sum(2)).square().mean()

    def step(loss):
        chroma.grad = None
        value = loss()
        value.backward()
        return value

    return Case(
        name=f"colorization_loss {size}x{size}, radius {radius}, forward and backward",
        candidates={
            "torchops": lambda: step(lambda: colorization_loss(chroma, luma, radius=radius)),
            "unfold and levin_weights": lambda: step(gathered),
        },
        baseline="unfold and levin_weights",
        metrics={"loss": lambda value: value.item()},
        image_bytes=4 * size * size,
    )


def cases(device):
    # kornia's inverse_depth_smoothness_loss is no peer: first differences weighted by the image's
    # own gradient, another energy, which the colours of a linear ramp do not minimise.
    for radius in (1, 3):
        yield loss_case(512, radius, device)
    for size in (128, 256, 512):
        yield solver_case(size, device)
    yield gradient_case(256, device)


if __name__ == "__main__":
    main("colorization", cases)
