"""Channel statistics: what `Normalize` needs, counted exactly."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Section, Table, Text, code
from torchops.cli.demo.plots import curves
from torchops.cli.demo.sheet import Sheet, to_bytes

NAMES = ("coffee", "chelsea", "astronaut")
_CHANNELS = ("red", "green", "blue")


class Photographs(Dataset[Tensor]):
    """The colour photographs as a dataset of (3, H, W) uint8 images, each of its own size."""

    def __init__(self, sheet: Sheet):
        self.images = [to_bytes(sheet.photograph(name)).cpu() for name in NAMES]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def _measure(photographs: Photographs) -> tuple[torchops.ChannelStats, tuple, tuple]:
    stats = torchops.dataset_stats(photographs, batch_size=1, progress=False)
    mean, std = stats.mean_std()  # two tuples, ready for torchvision's Normalize(mean, std)
    return stats, mean, std


def section(sheet: Sheet) -> Section:
    """Measure the sample photographs, normalise them, and measure again."""
    from torchvision.transforms import v2

    photographs = Photographs(sheet)
    stats, mean, std = _measure(photographs)
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    after = torchops.ChannelStats()
    for image in photographs.images:
        after.update(normalise(image))
    thumbnails = [
        sheet.picture(
            sheet.photograph(name, (160, 240)),
            name,
            f"{name}.png",
            alt=f"the photograph {name}",
            detail=f"{image.shape[-1]} x {image.shape[-2]} px",
        )
        for name, image in zip(NAMES, photographs.images, strict=True)
    ]
    blocks: list[Block] = [
        Text(
            "Networks train best on inputs of mean 0 and standard deviation 1, so a data set is "
            "measured once, per colour channel, over every pixel of every image. "
            "`dataset_stats` counts 8-bit pixels in whole numbers: the result is exact, and the "
            "same to the last bit for any order, batch size or number of workers."
        ),
        code(_measure),
        Gallery(thumbnails, width=200),
        _summary(stats, after),
        Text(
            "Two different numbers are called the std of a data set. The pooled one counts the "
            "differences between images too, and is what makes `Normalize` come out at 1 (last "
            "column). The mean of the stds of the single images is smaller; the well-known "
            "ImageNet numbers are of that kind. Here `.std` is the pooled one and "
            "`.mean_image_std` the other."
        ),
        *_distribution(sheet, stats),
    ]
    return Section(
        "statistics",
        "Statistics of a data set",
        ["dataset_stats", "ChannelStats"],
        f"{stats.images} photographs, {stats.pixels:,} pixels: mean "
        + ", ".join(f"{m:.4f}" for m in mean)
        + "; std "
        + ", ".join(f"{s:.4f}" for s in std)
        + " (red, green, blue; 1 = white)",
        blocks,
    )


def _summary(stats: torchops.ChannelStats, after: torchops.ChannelStats) -> Table:
    rows = [
        [
            channel,
            f"{stats.mean[c]:.6f}",
            f"{stats.std[c]:.6f}",
            f"{stats.mean_image_std[c]:.6f}",
            f"{stats.min[c]:.4f}",
            f"{stats.max[c]:.4f}",
            f"{abs(float(after.mean[c])):.1e}",
            f"{after.std[c]:.6f}",
        ]
        for c, channel in enumerate(_CHANNELS)
    ]
    head = ["channel", "mean", "std, pooled", "mean of image stds", "min", "max"]
    return Table(
        f"{stats.images} images, {stats.pixels:,} pixels. Values are fractions of white "
        "(grey level / 255); the last two columns were measured after `Normalize(mean, std)`.",
        [*head, "|mean| after", "std after"],
        rows,
    )


def _distribution(sheet: Sheet, stats: torchops.ChannelStats) -> list[Block]:
    levels = [k / 100 for k in range(101)]
    values = [stats.quantile(q) for q in levels]
    series = {
        channel: ([100 * q for q in levels], [float(value[c]) for value in values])
        for c, channel in enumerate(_CHANNELS)
    }
    return curves(
        sheet,
        "quantiles",
        series,
        x="share of the pixels (%)",
        y="value (1 = white)",
        caption="Quantiles, `stats.quantile(q)`: this share of the pixels is at most this bright.",
        alt="three rising curves, one per colour channel: the quantiles of the pixel values",
        colours=["#ef4444", "#22a35a", "#3b82f6"],
    )
