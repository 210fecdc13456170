"""`torchops tonemap`: show a radiance picture on an ordinary display."""

import argparse
from pathlib import Path

from torchops.cli.options import Commands, add_depth, add_device, add_image_output, pick_device


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "tonemap",
        help="show a high dynamic range picture on an ordinary display",
        description="Durand & Dorsey tone mapping: compress the large luminance differences of a "
        "linear radiance picture and keep its details.",
    )
    parser.add_argument("radiance", metavar="RADIANCE", type=Path, help=".hdr or .exr")
    add_image_output(parser)
    parser.add_argument(
        "--contrast",
        metavar="RATIO",
        type=float,
        default=5.0,
        help="brightest to darkest luminance of the large scale, afterwards (default: %(default)s)",
    )
    parser.add_argument(
        "--sigma-space",
        metavar="PIXELS",
        type=float,
        help="what counts as large scale, in pixels (default: 2%% of the longer side)",
    )
    parser.add_argument(
        "--sigma-range",
        metavar="DECADES",
        type=float,
        default=0.4,
        help="what counts as an edge, in log10 of luminance (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        default="grid",
        help="of the bilateral filter: grid, piecewise, fourier, or exact, which is slow "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--gamma",
        metavar="NUMBER",
        type=float,
        default=2.2,
        help="of the display: the file holds linear values to the power of 1 / gamma "
        "(default: %(default)s)",
    )
    add_depth(parser, "8")
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Tone-map one picture."""
    from torchops import durand_tonemap
    from torchops.cli.io import IMAGE_SUFFIXES, check_depth, check_output, read_hdr, write_image

    out = check_output(arguments.out, IMAGE_SUFFIXES)
    depth = arguments.depth or 8
    check_depth(out, 3, depth)
    if not 0 < arguments.gamma < float("inf"):
        raise ValueError(f"--gamma must be a finite number > 0, got {arguments.gamma}")
    radiance = read_hdr(arguments.radiance).to(pick_device(arguments.device))
    if not radiance.isfinite().all():
        raise ValueError(f"{arguments.radiance} holds NaN or infinite values")
    linear = durand_tonemap(
        radiance,
        contrast=arguments.contrast,
        sigma_space=arguments.sigma_space,
        sigma_range=arguments.sigma_range,
        method=arguments.method,
    )
    write_image(out, linear.clamp(0, 1) ** (1 / arguments.gamma), depth=depth)
    return 0
