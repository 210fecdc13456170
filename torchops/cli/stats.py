"""`torchops stats`: mean and standard deviation of a folder of pictures."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchops.cli.options import Commands, add_device, pick_device

if TYPE_CHECKING:
    from torchops import ChannelStats


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "stats",
        help="mean and standard deviation of each channel of a folder of pictures",
        description="Exact statistics of each channel over all pixels of all pictures in a folder "
        "and its subfolders, in [0, 1], with the line to paste into a training script. Gray "
        "pictures count as RGB with equal channels.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=0,
        help="processes that decode pictures; 0 decodes in this one (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help="take a random sample of N pictures and add the standard error of the mean "
        "(default: all)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of that sample (default: %(default)s)"
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of one folder."""
    from torchops import dataset_stats

    try:
        stats = dataset_stats(
            arguments.folder,
            num_workers=arguments.workers,
            device=pick_device(arguments.device),
            limit=arguments.limit,
            seed=arguments.seed,
            progress=sys.stderr.isatty(),
        )
    except TypeError as error:  # pictures of 8 and of 16 bits in one folder
        raise ValueError(str(error)) from None
    table = _table(stats)
    if arguments.limit is not None and stats.images > 1:
        table["mean_standard_error"] = stats.mean_standard_error.tolist()
    if arguments.json:
        print(json.dumps(table))
        return 0
    print(f"{table['images']} images, {table['pixels']} pixels, values in [0, 1]")
    print(" " * 20 + "".join(f"{channel:>12}" for channel in "RGB"))
    for label in [key for key in table if key not in ("images", "pixels")]:
        print(f"{label:20}" + "".join(f"{number:12.6f}" for number in table[label]))
    mean, std = (", ".join(f"{number:.6f}" for number in table[key]) for key in ("mean", "std"))
    print(f"\nNormalize(mean=[{mean}], std=[{std}])")
    return 0


def _table(stats: "ChannelStats") -> dict[str, Any]:
    return {
        "images": int(stats.images),
        "pixels": int(stats.pixels),
        "mean": stats.mean.tolist(),
        "std": stats.std.tolist(),
        "mean_image_std": stats.mean_image_std.tolist(),
        "min": stats.min.tolist(),
        "median": stats.quantile(0.5).tolist(),
        "max": stats.max.tolist(),
    }
