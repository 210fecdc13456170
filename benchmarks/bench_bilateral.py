"""The bilateral filter beside kornia, OpenCV and scikit-image: time, memory, error."""

from functools import partial

import cv2
import kornia
import torch
from harness import HERE, Case, main
from skimage.restoration import denoise_bilateral
from torch.nn.functional import interpolate
from torchvision.io import decode_image

from torchops import bilateral_filter, joint_bilateral_upsample

SAMPLES = HERE.parent / "torchops" / "samples"
RANGE = 0.1


def photograph(size, device, name="camera.png"):
    """A bundled photograph in [0, 1], (1, C, size, size)."""
    image = decode_image(str(SAMPLES / name)).float()[None] / 255
    return interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1).to(device)


SIGMAS = (3.0, RANGE)


def backward(function, image, sigmas=SIGMAS):
    """Run forward and backward, with gradients to the image and to both sigmas."""

    def run():
        leaf = image.detach().requires_grad_()
        space, range_ = (torch.tensor(s, device=image.device, requires_grad=True) for s in sigmas)
        function(leaf, space, range_).square().sum().backward()
        return leaf.grad

    return run


def psnr_to(exact):
    return lambda output: (
        -10 * torch.log10((output.double().cpu() - exact).square().mean().clamp(min=1e-30)).item()
    )


def kornia_case(size, window, channels, device):
    image = photograph(size, device, "camera.png" if channels == 1 else "coffee.png")
    radius = window // 2
    sigmas = tuple(torch.tensor([[s, s]], device=device) for s in SIGMAS)

    def peer(x, space, range_):
        return kornia.filters.bilateral_blur(
            x, window, range_.reshape(1), space.expand(1, 2), "reflect", "l2"
        )

    def ours(x, space, range_):
        return bilateral_filter(x, space, range_, radius=radius)

    def plain(function):
        def run():
            with torch.no_grad():
                return function(image, sigmas[0][0, :1], sigmas[1][0, :1])

        return run

    kind = "gray" if channels == 1 else "RGB"
    exact = plain(ours)().double().cpu()
    yield Case(
        name=f"{size}x{size} {kind}, {window}x{window}, no gradient",
        candidates={"torchops": plain(ours), "kornia": plain(peer)},
        baseline="kornia",
        metrics={"PSNR to torchops": psnr_to(exact)},
        image_bytes=image.numel() * 4,
        target="<= 0.5 of kornia's time for 1024x1024 gray, 9x9; peak <= 6 images",
    )
    yield Case(
        name=f"{size}x{size} {kind}, {window}x{window}, forward + backward",
        candidates={"torchops": backward(ours, image), "kornia": backward(peer, image)},
        baseline="kornia",
        image_bytes=image.numel() * 4,
        target="<= 0.35 of kornia's time for 1024x1024 gray, 9x9; peak <= 6 images",
    )


def opencv_case(window, device):
    image = photograph(1024, device)
    array = image[0, 0].cpu().numpy()
    sigma = window / 4
    exact = bilateral_filter(image, sigma, RANGE, radius=window // 2, window="disc")
    torch._dynamo.reset()  # every window is a program of its own
    compiled = torch.compile(bilateral_filter, fullgraph=True, dynamic=False)
    options = {"radius": window // 2, "window": "disc"}
    candidates = {
        "torchops": lambda: bilateral_filter(image, sigma, RANGE, **options),
        "OpenCV": lambda: torch.from_numpy(cv2.bilateralFilter(array, window, RANGE, sigma)),
    }
    if window <= 9:  # a window of 17 takes the compiler two minutes
        candidates["torchops, compiled"] = lambda: compiled(image, sigma, RANGE, **options)
        candidates["scikit-image (square)"] = lambda: torch.from_numpy(
            denoise_bilateral(array, window, RANGE, sigma, mode="reflect")
        )
    return Case(
        name=f"1024x1024 gray, disc window {window}",
        candidates=candidates,
        baseline="OpenCV",
        metrics={"PSNR to torchops": psnr_to(exact.double().cpu())},
        image_bytes=image.numel() * 4,
        target="compiled <= 1.2",
    )


FAST = {
    "grid": {"method": "grid"},
    "piecewise": {"method": "piecewise"},
    "fourier": {"method": "fourier"},
    "fourier, 12 terms": {"method": "fourier", "terms": 12},
}


def fast_case(sigma, device):
    image = photograph(1024, device)
    array = image[0, 0].cpu().numpy()
    exact = bilateral_filter(image, sigma, RANGE)
    candidates = {
        f"torchops {name}": lambda options=options: bilateral_filter(image, sigma, RANGE, **options)
        for name, options in FAST.items()
    }
    if sigma <= 16:
        candidates["OpenCV exact (disc)"] = lambda: torch.from_numpy(
            cv2.bilateralFilter(array, 6 * sigma + 1, RANGE, sigma)
        )
    return Case(
        name=f"1024x1024 gray, sigma_space {sigma}, fast methods",
        candidates=candidates,
        baseline="OpenCV exact (disc)" if sigma <= 16 else "torchops grid",
        metrics={"PSNR to exact": psnr_to(exact.double().cpu())},
        image_bytes=image.numel() * 4,
        target="grid and piecewise <= 1/50 of OpenCV's exact time at sigma_space 16, PSNR >= 45 dB",
    )


def scaling_case(name, device):
    image = photograph(1024, device)
    candidates = {
        f"torchops {name}, sigma_space {sigma}": lambda sigma=sigma: bilateral_filter(
            image, sigma, RANGE, **FAST[name]
        )
        for sigma in (32, 16, 8, 4)
    }
    return Case(
        name=f"1024x1024 gray, {name} over sigma_space",
        candidates=candidates,
        baseline=f"torchops {name}, sigma_space 32",
        image_bytes=image.numel() * 4,
        target="time at sigma_space 4 and 32 within a factor of 1.3",
    )


def fourier_case(device):
    image = photograph(256, device)
    exact = bilateral_filter(image, 5.0, RANGE)
    candidates = {
        f"torchops fourier, {terms} terms": lambda terms=terms: bilateral_filter(
            image, 5.0, RANGE, method="fourier", terms=terms
        )
        for terms in (8, 10, 12)
    }
    candidates["torchops exact"] = lambda: bilateral_filter(image, 5.0, RANGE)
    return Case(
        name="256x256 gray, sigma_space 5, fourier",
        candidates=candidates,
        baseline="torchops exact",
        metrics={"PSNR to exact": psnr_to(exact.double().cpu())},
        image_bytes=image.numel() * 4,
        target="8 terms: PSNR >= 90 dB",
    )


def fast_backward_case(sigma, device):
    """Forward and backward of the fast methods, with memory."""
    image = photograph(1024, device)
    candidates = {
        f"torchops {name}": backward(
            lambda x, space, level, options=options: bilateral_filter(
                x, space, level, radius=3 * sigma, **options
            ),
            image,
            (float(sigma), RANGE),
        )
        for name, options in FAST.items()
        if name != "fourier"  # which would read the guide's range each time
    }
    return Case(
        name=f"1024x1024 gray, sigma_space {sigma}, fast methods, forward + backward",
        candidates=candidates,
        baseline="torchops grid",
        image_bytes=image.numel() * 4,
    )


def upsample_case(factor, device):
    """A small photograph enlarged by the luma of the large one, beside what knows no guide."""
    truth = photograph(1024, device, "coffee.png")
    small = interpolate(truth, scale_factor=1 / factor, mode="area")
    luma = (truth * torch.tensor([0.299, 0.587, 0.114], device=device)[:, None, None]).sum(1, True)

    def kornias():
        # On the large grid the same Gaussian is that many times wider: cut off at 2 sigma here.
        large = interpolate(small, scale_factor=factor, mode="bilinear")
        sigma = 0.5 * factor
        return kornia.filters.joint_bilateral_blur(
            large, luma, 4 * int(sigma) + 1, RANGE / 2, (sigma, sigma)
        )

    return Case(
        name=f"joint upsampling of RGB to 1024x1024 by {factor}",
        candidates={
            "torchops": lambda: joint_bilateral_upsample(small, luma, 0.5, RANGE / 2),
            "bilinear": lambda: interpolate(small, scale_factor=factor, mode="bilinear"),
            "bicubic": lambda: interpolate(small, scale_factor=factor, mode="bicubic"),
            "bilinear, then kornia's joint blur": kornias,
        },
        baseline="bicubic",
        metrics={"PSNR to truth": psnr_to(truth.double().cpu())},
        image_bytes=truth.numel() * 4,
    )


def memory_case(device):
    image = photograph(2048, device)
    return Case(
        name="2048x2048 gray, radius 15, forward + backward: memory",
        candidates={
            "torchops": backward(lambda x, s, r: bilateral_filter(x, s, r, radius=15), image)
        },
        baseline="torchops",
        image_bytes=image.numel() * 4,
        target="<= 12 images (unfold needs 961)",
    )


def gpu_cases(device):
    """The kernels: a 4K picture, and a size at which kornia's windows fit into memory."""
    radius = 7
    for size, peer in (((2160, 3840), False), ((1024, 1024), True)):
        image = interpolate(photograph(1024, device, "coffee.png"), size, mode="bicubic")
        sigmas = tuple(torch.tensor([[s, s]], device=device) for s in SIGMAS)

        def ours(x, space, level, backend="auto"):
            return bilateral_filter(x, space, level, radius=radius, backend=backend)

        def kornias(x, space, level):
            return kornia.filters.bilateral_blur(
                x, 2 * radius + 1, level.reshape(1), space.expand(1, 2), "reflect", "l2"
            )

        functions = {"torchops": ours, "torchops, backend torch": partial(ours, backend="torch")}
        if peer:
            functions["kornia"] = kornias

        def forward(function, image=image, sigmas=sigmas):
            def run():
                with torch.no_grad():
                    return function(image, sigmas[0][0, :1], sigmas[1][0, :1])

            return run

        name = f"{size[1]}x{size[0]} RGB, radius {radius}"
        yield Case(
            name=f"{name}, forward",
            candidates={label: forward(f) for label, f in functions.items()},
            baseline="torchops",
            image_bytes=image.numel() * 4,
            target="60 % of the issue limit: about 1.4 ms for 3840x2160 on an H200",
        )
        yield Case(
            name=f"{name}, forward + backward",
            candidates={label: backward(f, image) for label, f in functions.items()},
            baseline="torchops",
            image_bytes=image.numel() * 4,
        )


def cases(device):
    if device.type == "cuda":
        yield from gpu_cases(device)
    yield from kornia_case(1024, 9, 1, device)
    yield from kornia_case(1024, 5, 1, device)
    yield from kornia_case(512, 9, 3, device)
    for window in (5, 9, 17):
        yield opencv_case(window, device)
    for sigma in (4, 16, 32):
        yield fast_case(sigma, device)
    yield fast_backward_case(16, device)
    for name in FAST:
        yield scaling_case(name, device)
    yield fourier_case(device)
    for factor in (4, 8):
        yield upsample_case(factor, device)
    yield memory_case(device)


if __name__ == "__main__":
    main("bilateral", cases)
