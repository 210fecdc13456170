"""`torchops align`: the motion of a template in an image."""

import argparse
import json
import math
import sys
from pathlib import Path

from torchops.cli.options import Commands, add_device, pick_device

MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")
ALGORITHMS = ("inverse_compositional", "forward_compositional", "forward_additive")


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "align",
        help="find a template in an image and warp the image onto it",
        description="Lucas-Kanade alignment on brightness: find the matrix W with IMAGE(W x) = "
        "TEMPLATE(x), in pixels, (0, 0) being the centre of the top-left one. Exit status 1: "
        "written, but the alignment did not converge.",
    )
    parser.add_argument("template", metavar="TEMPLATE", type=Path)
    parser.add_argument("image", metavar="IMAGE", type=Path)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write IMAGE as seen from TEMPLATE (.png, .jpg, .tif or .bmp), black out of view",
    )
    parser.add_argument(
        "--motion", choices=MOTIONS, default="homography", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default="inverse_compositional",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--initial",
        metavar="W",
        type=float,
        nargs=9,
        help="matrix to start from, row by row (default: the identity)",
    )
    parser.add_argument(
        "--iterations",
        metavar="N",
        type=int,
        default=50,
        help="stop there at the latest (default: %(default)s)",
    )
    parser.add_argument(
        "--tol",
        metavar="PIXELS",
        type=float,
        default=1e-3,
        help="converged once an update moves no corner of TEMPLATE by more, in pixels "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Align one pair."""
    import torch

    from torchops import AlignmentStatus, align, warp_image
    from torchops.cli.io import IMAGE_SUFFIXES, check_output, read_image, write_image

    if arguments.out is not None:
        check_output(arguments.out, IMAGE_SUFFIXES)
    device = pick_device(arguments.device)
    template = read_image(arguments.template, gray=True).to(device)
    image = read_image(arguments.image, gray=True).to(device)
    initial = None
    if arguments.initial is not None:
        initial = torch.tensor(arguments.initial, device=device).view(3, 3)
    result = align(
        template,
        image,
        motion=arguments.motion,
        algorithm=arguments.algorithm,
        initial=initial,
        iterations=arguments.iterations,
        tol=arguments.tol,
        gradient="none",
    )
    if arguments.out is not None:
        picture = read_image(arguments.image).to(device)
        _, height, width = template.shape
        write_image(arguments.out, warp_image(picture, result.matrix, (height, width)))
    status = AlignmentStatus(int(result.status)).name
    iterations, error = int(result.iterations), result.error.item()
    if arguments.json:
        outcome = {
            "matrix": result.matrix.tolist(),
            "status": status,
            "iterations": iterations,
            "error": error if math.isfinite(error) else None,  # JSON has no infinity
        }
        print(json.dumps(outcome))
    else:
        for row in result.matrix.tolist():
            print(" ".join(f"{number:16.9g}" for number in row))
        print(f"status {status} after {iterations} iterations, RMS error {error:.6f} of [0, 1]")
    if not result.converged.all():
        print(f"torchops align: not converged: {status}", file=sys.stderr)
        return 1
    return 0
