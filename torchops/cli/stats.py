"""`torchops stats`: mean and standard deviation of a folder of pictures."""

import argparse
import json
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
        "and its subfolders, in [0, 1], with the line to paste into a training script.",
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
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of one folder."""
    from torchops import dataset_stats

    stats = dataset_stats(
        arguments.folder,
        num_workers=arguments.workers,
        device=pick_device(arguments.device),
    )
    table = _table(stats)
    if arguments.json:
        print(json.dumps(table))
        return 0
    names = {1: ("gray",), 3: ("R", "G", "B")}.get(len(table["mean"]))
    columns = names or tuple(f"channel {i}" for i in range(len(table["mean"])))
    print(f"{table['images']} images, {table['pixels']} pixels, values in [0, 1]")
    print(" " * 20 + "".join(f"{column:>12}" for column in columns))
    for label in ("mean", "std", "mean_image_std", "min", "median", "max"):
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
