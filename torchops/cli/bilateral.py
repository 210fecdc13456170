"""`torchops bilateral`: smooth a picture and keep its edges."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from torchops.cli.options import Commands, add_depth, add_device, pick_device

if TYPE_CHECKING:
    from torch import Tensor


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "bilateral",
        help="smooth a picture and keep its edges",
        description="Bilateral filter: average each pixel with those that are near and alike. "
        "Values of pictures lie in [0, 1], whatever their depth; .hdr and .exr keep theirs.",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="a picture, .hdr or .exr")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="the picture to write: .png, .jpg, .tif or .bmp; of .hdr and .exr: .hdr or .exr",
    )
    _add_kernel(parser)
    _add_pictures(parser)
    parser.add_argument(
        "--method",
        metavar="NAME",
        default="exact",
        help="exact, or an approximation whose cost does not grow with sigma-space: grid, "
        "piecewise, fourier (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        default="auto",
        help="of the exact method: torch, triton (GPU), or auto, which goes by the device "
        "(default: %(default)s)",
    )
    add_depth(parser, "that of IMAGE where the name of FILE allows it")
    add_device(parser)
    parser.set_defaults(run=run)


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sigma-space",
        metavar="PIXELS",
        type=float,
        default=3.0,
        help="how near: standard deviation in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--sigma-range",
        metavar="VALUE",
        type=float,
        default=0.1,
        help="how alike: standard deviation of the guide's values; 10 of 255 grey levels are "
        "0.04, 10 of 65535 are 0.00015 (default: %(default)s)",
    )
    parser.add_argument(
        "--radius",
        metavar="PIXELS",
        type=int,
        help="half width of the window in pixels (default: 3 * sigma-space, rounded up)",
    )
    parser.add_argument(
        "--window",
        choices=("square", "disc"),
        default="square",
        help="shape of the window; disc is OpenCV's (default: %(default)s)",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guide",
        metavar="FILE",
        type=Path,
        help="picture of the same size whose values say what is alike (default: IMAGE itself); "
        "read as gray unless --method is exact",
    )
    parser.add_argument(
        "--mask",
        metavar="FILE",
        type=Path,
        help="picture of the same size, read as gray: white pixels are averaged over, black ones "
        "are not, and are filled in from their neighbours",
    )


def run(arguments: argparse.Namespace) -> int:
    """Filter one picture."""
    from torchops import bilateral_filter
    from torchops.cli import io

    radiance = arguments.image.suffix.lower() in io.RADIANCE_SUFFIXES
    suffixes = io.RADIANCE_SUFFIXES if radiance else io.IMAGE_SUFFIXES
    out = io.check_output(arguments.out, suffixes)
    device = pick_device(arguments.device)
    image, depth = _read(arguments.image, gray=False)
    if radiance and arguments.depth is not None:
        raise ValueError(f"--depth is for pictures, and {arguments.image} holds radiance")
    if not radiance:
        depth = io.output_depth(out, len(image), depth, arguments.depth)
    guide = mask = None
    if arguments.guide is not None or arguments.method != "exact":
        guide, _ = _read(arguments.guide or arguments.image, gray=arguments.method != "exact")
    if arguments.mask is not None:
        mask = io.read_image(arguments.mask, gray=True).to(device)
    try:
        result = bilateral_filter(
            image.to(device),
            arguments.sigma_space,
            arguments.sigma_range,
            guide=None if guide is None else guide.to(device),
            mask=mask,
            radius=arguments.radius,
            window=arguments.window,
            method=arguments.method,
            backend=arguments.backend,
        )
    except RuntimeError as error:
        if arguments.backend != "triton":
            raise
        raise ValueError(str(error)) from None  # there is no GPU, or no Triton
    if radiance:
        io.write_hdr(out, result)
    else:
        io.write_image(out, result, depth=depth)
    return 0


def _read(path: Path, *, gray: bool) -> "tuple[Tensor, int]":
    """Read a picture or a radiance file, and how many bits it has (of radiance: 32)."""
    from torchops.cli import io

    if path.suffix.lower() not in io.RADIANCE_SUFFIXES:
        return io.read_picture(path, gray=gray)
    image = io.read_hdr(path)
    return (io.luminance(image) if gray else image), 32
