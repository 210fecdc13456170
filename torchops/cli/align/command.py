"""The command, its options, and which of its two ways to go."""

import argparse
from pathlib import Path

from torchops.cli.options import Commands, add_depth, add_device

MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")
ALGORITHMS = ("inverse_compositional", "forward_compositional", "forward_additive", "esm")
_PAIR_ONLY = ("matrix", "overlay", "convergence")
_FOLDER_ONLY = ("reference", "crop", "stack", "stack_mode", "csv")


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "align",
        help="find a template in an image, or stabilise and stack a folder of frames",
        usage="torchops align [options] TEMPLATE IMAGE | FOLDER | TEMPLATE FOLDER",
        description="Lucas-Kanade alignment on brightness: find the matrix W with IMAGE(W x) = "
        "TEMPLATE(x), in pixels, (0, 0) being the centre of the top-left one. With a FOLDER of "
        "frames, every frame is warped onto one of them, or onto TEMPLATE. Exit status 1: written, "
        "but an alignment did not converge.",
        epilog="A FOLDER's pictures (.png, .jpg, .tif, .bmp; not those of its subfolders) are "
        "taken in the order of their names, numbers by their value. Each starts from the matrix of "
        "the one before. A frame that does not converge is named, written with the best matrix "
        "found, and left out of --stack and of the region of --crop; one that ends at "
        "ITERATION_LIMIT often only needs a larger --tol, such as 0.01.",
    )
    parser.add_argument(
        "template", metavar="TEMPLATE", type=Path, help="a picture; or a FOLDER and nothing more"
    )
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, nargs="?", help="a picture, or a FOLDER of frames"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=Path,
        help="write IMAGE as seen from TEMPLATE (.png, .jpg, .tif or .bmp), black out of view; of "
        "a FOLDER: every frame under its name into this other folder, made if missing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_depth(parser, "as many as the picture read has, where the format holds them")
    add_device(parser)
    _add_method(parser.add_argument_group("method"))
    _add_start(parser.add_argument_group("start and masks"))
    _add_pair(parser.add_argument_group("of TEMPLATE and IMAGE"))
    _add_folder(parser.add_argument_group("of a FOLDER"))
    parser.set_defaults(run=run)


def _add_method(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--motion", choices=MOTIONS, default="homography", help="(default: %(default)s)"
    )
    group.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default="inverse_compositional",
        help="esm needs the fewest iterations and finds what is farthest off "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--solver",
        choices=("gauss_newton", "levenberg_marquardt"),
        default="gauss_newton",
        help="(default: %(default)s)",
    )
    group.add_argument(
        "--objective",
        choices=("ssd", "ecc"),
        default="ssd",
        help="ssd: squared differences of brightness; ecc: correlation, which a change of "
        "brightness or contrast leaves alone (default: %(default)s)",
    )
    group.add_argument(
        "--robust",
        choices=("huber", "tukey"),
        help="give pixels that do not fit less weight, or none: things in front of TEMPLATE "
        "(default: all count the same)",
    )
    group.add_argument(
        "--levels",
        metavar="N",
        type=int,
        help="sizes to go through, each half of the one before (default: by the size)",
    )
    group.add_argument(
        "--iterations",
        metavar="N",
        type=int,
        default=50,
        help="stop there at the latest, at each level (default: %(default)s)",
    )
    group.add_argument(
        "--tol",
        metavar="PIXELS",
        type=float,
        default=1e-3,
        help="converged once an update moves no corner of TEMPLATE by more, in pixels "
        "(default: %(default)s)",
    )


def _add_start(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--initial",
        metavar="W",
        nargs="+",
        help="matrix to start from: 9 numbers, row by row, or a file of --matrix; write it after "
        "the pictures (default: the identity)",
    )
    group.add_argument(
        "--template-mask",
        metavar="FILE",
        type=Path,
        help="picture of the size of TEMPLATE (or of the frames): its white pixels count",
    )
    group.add_argument(
        "--image-mask",
        metavar="FILE",
        type=Path,
        help="picture of the size of IMAGE (or of the frames): its white pixels count",
    )


def _add_pair(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--matrix", metavar="FILE", type=Path, help="write W as text, for --initial or numpy"
    )
    group.add_argument(
        "--overlay",
        metavar="FILE",
        type=Path,
        help="write TEMPLATE in red over the warped IMAGE in cyan, before and after, as a picture: "
        "gray is a match",
    )
    group.add_argument(
        "--convergence",
        metavar="FILE",
        type=Path,
        help="draw how the corners of TEMPLATE and the error settle over the iterations (.png, "
        ".svg or .pdf; needs matplotlib)",
    )


def _add_folder(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--reference",
        metavar="N",
        type=int,
        help="the frame that the others are warped onto, counted from 1 (default: 1)",
    )
    group.add_argument(
        "--crop",
        action="store_true",
        default=None,
        help="cut what is written to a rectangle that all frames show",
    )
    group.add_argument(
        "--stack",
        metavar="FILE",
        type=Path,
        help="write the mean of the warped frames, at each pixel of those that show it",
    )
    group.add_argument(
        "--stack-mode",
        choices=("mean", "median"),
        help="median leaves out what only few frames show; holds all frames in memory "
        "(default: mean)",
    )
    group.add_argument(
        "--csv", metavar="FILE", type=Path, help="write matrices and statuses as a table"
    )


def run(arguments: argparse.Namespace) -> int:
    """Align one pair, or a folder."""
    from torchops.cli.align import folder, pair

    template, image = arguments.template, arguments.image
    if template.is_dir() and image is not None and image.is_dir():
        raise ValueError(f"TEMPLATE must be a picture, and {template} is a folder")
    if template.is_dir() or (image is not None and image.is_dir()):
        _refuse(arguments, _PAIR_ONLY, "is for one IMAGE, not for a FOLDER of frames")
        if image is not None and not image.is_dir():
            raise ValueError(f"the folder comes last, as in: torchops align {image} {template}")
        return folder.run(arguments)
    _refuse(arguments, _FOLDER_ONLY, "is for a FOLDER of frames")
    if image is None:
        template.stat()  # raises if there is no such file
        raise ValueError(f"IMAGE is missing: {template} is a picture, not a folder of frames")
    return pair.run(arguments)


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {reason}")
