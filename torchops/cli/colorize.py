"""`torchops colorize`: colour a gray picture from a few scribbles."""

import argparse
import sys
from pathlib import Path

from torchops.cli.options import Commands, add_device, add_image_output, pick_device


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "colorize",
        help="colour a gray picture from a few scribbles",
        description="Colorization by optimization (Levin, Lischinski & Weiss): spread the colours "
        "of a few scribbles along the brightness of a gray picture. Exit status 1: written, but "
        "the tolerance was not reached.",
    )
    parser.add_argument("gray", metavar="GRAY", type=Path, help="the picture to colour")
    parser.add_argument(
        "marked",
        metavar="MARKED",
        type=Path,
        help="the same picture with coloured scribbles on it, stored without loss (PNG)",
    )
    add_image_output(parser)
    parser.add_argument(
        "--threshold",
        metavar="VALUE",
        type=float,
        default=0.01,
        help="a pixel is a scribble where MARKED differs from GRAY by more, summed over R, G and "
        "B in [0, 1] (default: %(default)s)",
    )
    parser.add_argument(
        "--radius",
        metavar="PIXELS",
        type=int,
        default=1,
        help="of the neighbourhood, in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--weighting",
        choices=("levin", "gaussian"),
        default="levin",
        help="how alike neighbours are: as in the authors' program, or as in the paper's "
        "equation 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--tol",
        metavar="VALUE",
        type=float,
        default=1e-3,
        help="greatest error of the colours, where one of 255 levels is about 0.004 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max-iterations",
        metavar="N",
        type=int,
        default=500,
        help="stop there at the latest (default: %(default)s)",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Colour one picture."""
    import torch

    from torchops import colorize, rgb_to_yiq, scribbles_from_marked, yiq_to_rgb
    from torchops.cli.io import IMAGE_SUFFIXES, check_output, read_image, write_image

    out = check_output(arguments.out, IMAGE_SUFFIXES)
    device = pick_device(arguments.device)
    gray, marked = (
        read_image(path).to(device).expand(3, -1, -1) for path in (arguments.gray, arguments.marked)
    )
    if gray.shape != marked.shape:
        sizes = " and ".join(
            f"{width} x {height}" for _, height, width in (gray.shape, marked.shape)
        )
        raise ValueError(
            f"{arguments.gray} and {arguments.marked} must be of one size, got {sizes}"
        )
    hints, mask = scribbles_from_marked(gray, marked, threshold=arguments.threshold)
    if not mask.any():
        raise ValueError(
            f"{arguments.marked} has no scribbles: nowhere does it differ from {arguments.gray} by "
            f"more than {arguments.threshold}"
        )
    luma = rgb_to_yiq(gray)[:1]
    result = colorize(
        luma,
        hints,
        mask,
        radius=arguments.radius,
        weighting=arguments.weighting,
        tol=arguments.tol,
        max_iterations=arguments.max_iterations,
    )
    write_image(out, yiq_to_rgb(torch.cat([luma, result.chroma])))
    outcome = f"error {result.error.item():.2g} after {result.iterations.item()} iterations"
    if not result.converged:
        print(f"torchops colorize: not converged: {outcome}", file=sys.stderr)
        return 1
    print(f"{out}: {outcome}")
    return 0
