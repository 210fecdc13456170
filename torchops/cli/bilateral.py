"""`torchops bilateral`: smooth a picture and keep its edges."""

import argparse
from pathlib import Path

from torchops.cli.options import Commands, add_device, add_image_output, pick_device


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "bilateral",
        help="smooth a picture and keep its edges",
        description="Bilateral filter: average each pixel with those that are near and alike.",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path)
    add_image_output(parser)
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
        help="how alike: standard deviation of the guide's values, which lie in [0, 1]; "
        "10 of 255 grey levels are 0.04 (default: %(default)s)",
    )
    parser.add_argument(
        "--radius",
        metavar="PIXELS",
        type=int,
        help="half width of the window in pixels (default: 3 * sigma-space, rounded up)",
    )
    parser.add_argument(
        "--method",
        choices=("exact", "grid"),
        default="exact",
        help="grid: an approximation whose cost does not grow with sigma-space "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--guide",
        metavar="FILE",
        type=Path,
        help="picture of the same size whose values say what is alike (default: IMAGE itself); "
        "--method grid reads it as gray",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Filter one picture."""
    from torchops import bilateral_filter
    from torchops.cli.io import IMAGE_SUFFIXES, check_output, read_image, write_image

    out = check_output(arguments.out, IMAGE_SUFFIXES)
    device = pick_device(arguments.device)
    image = read_image(arguments.image).to(device)
    guide = None
    if arguments.guide is not None or arguments.method == "grid":
        gray = arguments.method == "grid"
        guide = read_image(arguments.guide or arguments.image, gray=gray).to(device)
    result = bilateral_filter(
        image,
        arguments.sigma_space,
        arguments.sigma_range,
        guide=guide,
        radius=arguments.radius,
        method=arguments.method,
    )
    write_image(out, result)
    return 0
