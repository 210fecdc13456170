"""`torchops flow`: the motion between two frames."""

import argparse
from pathlib import Path

from torchops.cli.options import Commands, add_device, pick_device


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "flow",
        help="estimate the motion of every pixel between two frames",
        description="Dense Lucas-Kanade optical flow: how many pixels right (u) and down (v) each "
        "pixel of FIRST has moved in SECOND.",
    )
    parser.add_argument("first", metavar="FIRST", type=Path)
    parser.add_argument("second", metavar="SECOND", type=Path, help="of the same size")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        action="append",
        required=True,
        help=".flo: the numbers, in pixels (Middlebury format); .png, .jpg, .tif or .bmp: colours, "
        "hue for the direction and saturation for the length relative to the longest. May be "
        "given more than once",
    )
    parser.add_argument(
        "--confidence",
        metavar="FILE",
        type=Path,
        help="also write the confidence, black 0 and white 1, as a picture",
    )
    parser.add_argument(
        "--sigma",
        metavar="PIXELS",
        type=float,
        default=6.0,
        help="standard deviation of the window in pixels of each level (default: %(default)s)",
    )
    parser.add_argument(
        "--levels",
        metavar="N",
        type=int,
        help="of the pyramid; more find larger motion (default: by the size of the frames)",
    )
    parser.add_argument(
        "--warps",
        metavar="N",
        type=int,
        default=3,
        help="iterations at each level (default: %(default)s)",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Estimate the flow of one pair."""
    from torchvision.utils import flow_to_image

    from torchops import lucas_kanade, write_flo
    from torchops.cli.io import IMAGE_SUFFIXES, check_output, read_image, write_image

    device = pick_device(arguments.device)
    for out in arguments.out:
        check_output(out, (".flo", *IMAGE_SUFFIXES))
    if arguments.confidence is not None:
        check_output(arguments.confidence, IMAGE_SUFFIXES)
    first, second = (read_image(path).to(device) for path in (arguments.first, arguments.second))
    if first.shape != second.shape:
        raise ValueError(
            f"{arguments.first} and {arguments.second} must have the same channels, height and "
            f"width, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    result = lucas_kanade(
        first,
        second,
        sigma=arguments.sigma,
        levels=arguments.levels,
        warps=arguments.warps,
        gradient="none",
    )
    flow = result.flow.cpu()
    for out in arguments.out:
        if out.suffix.lower() == ".flo":
            write_flo(out, flow)
        else:
            write_image(out, flow_to_image(flow) / 255)
    if arguments.confidence is not None:
        write_image(arguments.confidence, result.confidence)
    length = flow.square().sum(0).sqrt()
    print(f"displacement: mean {length.mean():.3f} px, largest {length.max():.3f} px")
    print(f"confidence: mean {result.confidence.mean():.3f}")
    return 0
