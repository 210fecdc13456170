"""`torchops erase`: erase random rectangles of pictures."""

import argparse
from pathlib import Path
from typing import TypeVar

from torchops.cli.options import Commands, add_device, pick_device

_Number = TypeVar("_Number", int, float)


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "erase",
        help="erase random disjoint rectangles of pictures",
        description="Erase random rectangles that do not overlap and whose areas add up to a "
        "given part of the picture.",
    )
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=Path,
        required=True,
        help="the file to write (.png, .jpg, .tif or .bmp), or an existing folder, where each "
        "IMAGE is written under its name as .png",
    )
    parser.add_argument(
        "--fraction",
        metavar="F",
        type=float,
        nargs="+",
        default=[0.02, 0.33],
        help="erased part of the area, 0 to 1, or its lowest and highest value "
        "(default: 0.02 0.33)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=int,
        nargs="+",
        default=[1, 4],
        help="number of rectangles, or its lowest and highest value (default: 1 4)",
    )
    parser.add_argument(
        "--ratio",
        metavar="R",
        type=float,
        nargs=2,
        default=[0.3, 3.3],
        help="least and greatest height / width of a rectangle (default: 0.3 3.3)",
    )
    parser.add_argument(
        "--value",
        metavar="VALUE",
        nargs="+",
        default=["0"],
        help="what is written there: a number in [0, 1], three of them (R G B), random (noise) or "
        "color (one random colour a rectangle) (default: 0)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the random numbers (default: 0)"
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Erase rectangles of each picture."""
    import torch
    from tqdm import tqdm

    from torchops import boxes_to_mask, erase_boxes, sample_disjoint_boxes
    from torchops.cli.io import read_image, write_image

    outputs = _outputs(arguments.images, arguments.out)
    fraction = _number_or_range("fraction", arguments.fraction)
    count = _number_or_range("count", arguments.count)
    value = _value(arguments.value)
    device = pick_device(arguments.device)
    generator = torch.Generator(device).manual_seed(arguments.seed)
    for path, out in tqdm(list(zip(arguments.images, outputs, strict=True)), disable=None):
        image = read_image(path).to(device)
        _, height, width = image.shape
        boxes = sample_disjoint_boxes(
            1,
            height,
            width,
            fraction=fraction,
            count=count,
            ratio=tuple(arguments.ratio),
            generator=generator,
            device=device,
        )
        result = erase_boxes(image[None], boxes, value=value, generator=generator)[0]
        write_image(out, result)
        erased = boxes_to_mask(boxes, height, width).sum().item()
        rectangles = (boxes[0, :, 2] > boxes[0, :, 0]).sum().item()
        tqdm.write(
            f"{out}: erased {erased} of {height * width} pixels "
            f"({erased / (height * width):.6f}) in {rectangles} rectangle(s)"
        )
    return 0


def _outputs(images: list[Path], out: Path) -> list[Path]:
    from torchops.cli.io import IMAGE_SUFFIXES, check_output

    if not out.is_dir():
        if len(images) > 1:
            raise ValueError(f"--out must be an existing folder for several pictures, got {out}")
        return [check_output(out, IMAGE_SUFFIXES)]
    outputs = [out / f"{path.stem}.png" for path in images]
    if len(set(outputs)) < len(outputs):
        raise ValueError("the pictures must have different names to be written to one folder")
    for path, output in zip(images, outputs, strict=True):
        if path.resolve() == output.resolve():
            raise ValueError(
                f"--out must be another folder than that of {path}: it would replace it"
            )
    return outputs


def _number_or_range(name: str, numbers: list[_Number]) -> _Number | tuple[_Number, ...]:
    if len(numbers) > 2:
        raise ValueError(f"--{name} must be one number or two, got {len(numbers)}")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _value(words: list[str]) -> str | float | tuple[float, ...]:
    if words in (["random"], ["color"]):
        return words[0]
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(
            "--value must be a number in [0, 1], three of them, random or color, "
            f"got {' '.join(words)}"
        )
    return numbers[0] if len(numbers) == 1 else numbers
