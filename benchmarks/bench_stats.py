"""Channel statistics beside the usual recipes, and a folder of JPEG files beside decoding alone.

Column "std error" is the largest relative error of the std against exact integer arithmetic (or
float64 two-pass for floating data); the recipes of one line lose digits or use other definitions.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from harness import Case, main
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from torchops import ChannelStats, dataset_stats
from torchops.stats.exact import rounded_sqrt

SAMPLES = Path(__file__).resolve().parents[1] / "torchops" / "samples"
FILES = 192


def relative_error(reference):
    return lambda std: ((std.double().cpu() - reference) / reference).abs().max()


def exact_std(images):
    """The std of integer images from Python integers, by a route of its own."""
    stds = []
    for c in range(images.shape[1]):
        values, counts = np.unique(images[:, c].cpu().numpy(), return_counts=True)
        pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
        n, s, q = (sum(k * v**power for v, k in pairs) for power in (0, 1, 2))
        stds.append(rounded_sqrt(Fraction(n * q - s * s, n * n)))
    return torch.tensor(stds, dtype=torch.float64)


def counted(images, mask=None):
    return lambda: ChannelStats(scale=False).update(images, mask).std


def float_std(images, dtype):
    def recipe():
        values = images.to(dtype)
        values.mean((0, 2, 3))
        return values.std((0, 2, 3), correction=0)

    return recipe


def sums_std(images, dtype):
    def recipe():
        values = images.to(dtype)
        mean = values.mean((0, 2, 3))
        return (values.square().mean((0, 2, 3)) - mean**2).sqrt()

    return recipe


def with_covariance(images):
    return lambda: ChannelStats(scale=False, covariance=True).update(images).std


def integer_batch(name, images, *, target=None):
    candidates = {
        "float32 mean and std": float_std(images, torch.float32),
        "float32 sums": sums_std(images, torch.float32),
        "float64 sums": sums_std(images, torch.float64),
        "torchops ChannelStats": counted(images),
    }
    if images.dtype == torch.uint8:
        mask = torch.ones_like(images[:, :1], dtype=torch.bool)
        candidates["torchops, with a mask"] = counted(images, mask)
        candidates["torchops, with covariance"] = with_covariance(images)
    return Case(
        name=name,
        candidates=candidates,
        baseline="float32 mean and std",
        metrics={"std error": relative_error(exact_std(images))},
        items=len(images),
        image_bytes=images[0].nbytes,
        target=target,
    )


def floating_batch(device):
    images = torch.randn(64, 3, 224, 224, device=device) + 1000
    reference = images.double().std((0, 2, 3), correction=0).cpu()
    return Case(
        name="64 x 3 x 224 x 224 float32, mean 1000, std 1",
        candidates={
            "float32 mean and std": float_std(images, torch.float32),
            "float32 sums": sums_std(images, torch.float32),
            "float64 sums": sums_std(images, torch.float64),
            "torchops ChannelStats": counted(images),
            "torchops, with covariance": with_covariance(images),
        },
        baseline="float32 mean and std",
        metrics={"std error": relative_error(reference)},
        items=64,
        image_bytes=images[0].nbytes,
    )


def nist(name, values, std):
    """One data set of NIST's StRD, univariate statistics: n - 1 in the denominator there."""
    values = values.double().reshape(1, 1, 1, -1)

    def sums():
        n = values.numel()
        return (((values**2).sum() - values.sum() ** 2 / n) / (n - 1)).sqrt()[None]

    return Case(
        name=f"NIST {name}, certified std {std}",
        candidates={
            "float64 sums": sums,
            "torch.std in float64": lambda: values.std()[None],
            "torchops ChannelStats": lambda: ChannelStats().update(values).var(1).sqrt(),
        },
        baseline="float64 sums",
        metrics={"std error": relative_error(torch.tensor([std], dtype=torch.float64))},
        target="a relative error of 2e-8: what float64 leaves of NumAcc4, whose mean is 1e7",
    )


def nist_cases():
    yield nist("NumAcc1", torch.tensor([10000001, 10000003, 10000002]), 1.0)
    for name, offset in (("NumAcc2", 1.0), ("NumAcc3", 1000000.0), ("NumAcc4", 10000000.0)):
        pairs = torch.tensor([offset + 0.1, offset + 0.3], dtype=torch.float64).repeat(500)
        yield nist(name, torch.cat([pairs.new_tensor([offset + 0.2]), pairs]), 0.1)


def read_bandwidth(images):
    """On a GPU the bytes set the pace: the baseline reads them once, eight at a time."""
    words = images.view(torch.int64)
    return Case(
        name="1024 x 3 x 224 x 224 uint8, against reading it",
        candidates={"one read": words.amax, "torchops ChannelStats": counted(images)},
        baseline="one read",
        items=len(images),
        image_bytes=images[0].nbytes,
        target="ratio at most 2 (half of the measured read bandwidth)",
    )


class Decoded(Dataset):
    """Decode a file and throw the pixels away, at most having made a tensor of them."""

    def __init__(self, paths, to_tensor):
        self.paths = paths
        self.to_tensor = to_tensor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as picture:
            picture.load()
            if self.to_tensor:
                torch.from_numpy(np.array(picture))
        return 1


def jpeg_folder(num_workers, device):
    holder = tempfile.TemporaryDirectory()
    folder = Path(holder.name)
    with Image.open(SAMPLES / "coffee.png") as picture:
        photograph = picture.convert("RGB")
    for k in range(FILES):
        photograph.resize((500 - k % 7, 375)).save(folder / f"{k:03}.jpg", quality=90)
    paths = sorted(folder.glob("*.jpg"))

    def decode(to_tensor):
        data = Decoded(paths, to_tensor)
        return sum(map(sum, DataLoader(data, batch_size=64, num_workers=num_workers)))

    def measure():
        assert holder  # the files live as long as this function
        place = None if device.type == "cpu" else device
        return dataset_stats(folder, num_workers=num_workers, device=place, progress=False).images

    return Case(
        name=f"{FILES} JPEG files of about 500 x 375, {num_workers} workers",
        candidates={
            "decoding alone": lambda: decode(False),
            "decoding to tensors": lambda: decode(True),
            "torchops dataset_stats": measure,
        },
        baseline="decoding alone",
        metrics={"images": float},
        items=FILES,
        target="ratio at most 1.25 (80 % of the decode rate)",
    )


def cases(device):
    generator = torch.Generator().manual_seed(0)

    def integers(*shape, high=256):
        return torch.randint(0, high, shape, generator=generator).to(device)

    imagenet = integers(64, 3, 224, 224).to(torch.uint8)
    yield integer_batch(
        "64 x 3 x 224 x 224 uint8", imagenet, target="ChannelStats at most 1/10 of the baseline"
    )
    yield integer_batch(
        "64 x 3 x 224 x 224 uint8, channels last",
        imagenet.contiguous(memory_format=torch.channels_last),
    )
    yield integer_batch("1000 x 3 x 32 x 32 uint8", integers(1000, 3, 32, 32).to(torch.uint8))
    yield integer_batch(
        "16 x 3 x 224 x 224 uint16", integers(16, 3, 224, 224, high=65536).to(torch.uint16)
    )
    yield floating_batch(device)
    yield from nist_cases()
    if device.type == "cuda":
        yield read_bandwidth(integers(1024, 3, 224, 224).to(torch.uint8))
    for num_workers in (0, 2):
        yield jpeg_folder(num_workers, device)


if __name__ == "__main__":
    main("stats", cases)
