"""`torchops stats`: mean and standard deviation of a folder of pictures, on many machines too."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchops.cli.options import Commands, add_device, pick_device

if TYPE_CHECKING:
    from torchops import ChannelStats

# A process that is done waits for the slowest. If one dies, torchrun ends them all.
_PATIENCE = timedelta(days=7)


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "stats",
        help="mean and standard deviation of each channel of a folder of pictures",
        description="Exact statistics of each channel over all pixels of all pictures in a folder "
        "and its subfolders, in [0, 1], with the line to paste into a training script. Gray "
        "pictures count as RGB with equal channels.",
        epilog="Started by torchrun, the processes share the pictures and the first one prints: "
        "torchrun --nproc-per-node 8 -m torchops stats FOLDER. The numbers are the same to the "
        "last bit.",
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
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a picture that cannot be read, or go on and list it (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="save the state in FILE now and then, and go on from it if it exists; "
        "processes of torchrun append .RANK-of-SIZE",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of one folder."""
    with _processes() as (rank, size):
        stats = _measure(arguments, rank, size)
        if size > 1:
            stats.all_reduce()
    if rank > 0:
        return 0
    table = _table(stats)
    if arguments.limit is not None and stats.images > 1:
        table["mean_standard_error"] = stats.mean_standard_error.tolist()
    skipped = sorted(stats.skipped)  # by name, whichever process came upon them
    if arguments.json:
        print(json.dumps({**table, **({"skipped": skipped} if skipped else {})}))
        return 0
    print(f"{table['images']} images, {table['pixels']} pixels, values in [0, 1]")
    print(" " * 20 + "".join(f"{channel:>12}" for channel in "RGB"))
    for label in [key for key in table if key not in ("images", "pixels")]:
        print(f"{label:20}" + "".join(f"{number:12.6f}" for number in table[label]))
    if skipped:
        print("\n".join([f"\n{len(skipped)} skipped:", *(f"  {name}" for name in skipped)]))
    mean, std = (", ".join(f"{number:.6f}" for number in table[key]) for key in ("mean", "std"))
    print(f"\nNormalize(mean=[{mean}], std=[{std}])")
    return 0


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, and give (rank, how many): (0, 1) without it."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield 0, 1
        return
    # What travels are a few numbers in the memory of the CPU, so gloo serves wherever they came
    # from.
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def _measure(arguments: argparse.Namespace, rank: int, size: int) -> "ChannelStats":
    """Return the statistics of this process's share of the pictures."""
    import torch

    from torchops import dataset_stats

    device, checkpoint = pick_device(arguments.device), arguments.checkpoint
    if size > 1:
        if device.type == "cuda":
            local = int(os.environ["LOCAL_RANK"])
            device = torch.device("cuda", local % torch.cuda.device_count())
        if checkpoint is not None:
            checkpoint = f"{checkpoint}.{rank}-of-{size}"
    with warnings.catch_warnings():  # the skipped ones are part of the answer
        warnings.filterwarnings("ignore", message=".*could not be read and were skipped")
        try:
            return dataset_stats(
                arguments.folder,
                num_workers=arguments.workers,
                device=device,
                limit=arguments.limit,
                seed=arguments.seed,
                on_error=arguments.on_error,
                checkpoint=checkpoint,
                shard=(rank, size) if size > 1 else None,
                progress=rank == 0 and sys.stderr.isatty(),
            )
        except TypeError as error:  # pictures of 8 and of 16 bits in one folder
            raise ValueError(str(error)) from None


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
