"""A folder of frames: each warped onto one of them or onto a template, and stacked."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from torchops import Alignment, AlignmentStatus, LucasKanadeAligner, warp_image, warp_points
from torchops.cli import io
from torchops.cli.align.arguments import (
    in_words,
    method,
    outcome,
    read_initial,
    read_mask,
    size_in_words,
)
from torchops.cli.align.stack import Stack, common_rectangle
from torchops.cli.options import pick_device

_ENTRIES = [f"w{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3)]


class _Job(NamedTuple):
    """What to align: frames, and what they are warped onto."""

    paths: list[Path]
    depths: list[int]  # bits a channel that each is written with
    stack_depth: int
    size: tuple[int, int]  # height and width of every frame
    template: Tensor  # gray, (1, H, W)
    reference: int | None  # which of the frames the template is, if it is one
    initial: Tensor | None
    template_mask: Tensor | None
    image_mask: Tensor | None


def run(arguments: argparse.Namespace) -> int:
    """Align a folder, write what was asked for and print the results."""
    folder = arguments.image or arguments.template
    paths = _frames(folder)
    _check_outputs(arguments, folder, paths)
    job = _job(arguments, paths)
    results = _align(job, method(arguments))
    rectangle = None
    if arguments.crop:
        rectangle = common_rectangle(_seen_by_all(job, results))
    mode = None if arguments.stack is None else arguments.stack_mode or "mean"
    stack = _write(job, results, arguments.out, rectangle, mode)
    if stack.count:
        io.write_image(arguments.stack, stack.picture(), depth=job.stack_depth)
    if arguments.csv is not None:
        _write_table(arguments.csv, paths, results)
    _print(arguments, job, results, rectangle)
    return _report(job, results)


def _frames(folder: Path) -> list[Path]:
    """Return the pictures of a folder: frame 2 before frame 10."""
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in io.IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise ValueError(f"{folder} holds no pictures ({', '.join(io.IMAGE_SUFFIXES)})")
    return sorted(paths, key=_numbers_by_value)


def _numbers_by_value(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.name)
    words, numbers = parts[::2], [*map(int, parts[1::2]), 0]
    # The number decides after the word before it; frame1 and frame01 still have one order.
    return [(number, word) for word, number in zip(words, numbers, strict=True)], path.name


def _check_outputs(arguments: argparse.Namespace, folder: Path, paths: list[Path]) -> None:
    """Raise if something could not be written, or would replace a frame."""
    out, stack = arguments.out, arguments.stack
    if out is not None and io.check_folder(out).resolve() == folder.resolve():
        raise ValueError(f"--out must be another folder than {folder}: it would replace the frames")
    if stack is None and arguments.stack_mode is not None:
        raise ValueError("--stack-mode needs --stack")
    if stack is not None:
        io.check_output(stack, io.IMAGE_SUFFIXES)
        if stack.resolve() in [path.resolve() for path in paths]:
            raise ValueError(f"--stack must not be one of the frames, got {stack}")
    if arguments.csv is not None:
        io.check_output(arguments.csv, (".csv",))


def _job(arguments: argparse.Namespace, paths: list[Path]) -> _Job:
    """Read what the frames are warped onto, and check every frame before the work begins."""
    device = pick_device(arguments.device)
    if arguments.image is None:
        reference = _reference(arguments, paths)
        source = paths[reference]
    else:
        if arguments.reference is not None:
            raise ValueError("--reference picks a frame, and TEMPLATE is given")
        reference, source = None, arguments.template
    template = io.read_image(source, gray=True).to(device)
    depths, stack_depth, channels = [], 8, 1
    first = io.read_image(paths[0], gray=True)
    for path in _progress(paths, "reading"):
        picture, depth = io.read_picture(path)
        if picture.shape[-2:] != first.shape[-2:]:
            raise ValueError(
                f"the frame {path} must be as large as {paths[0].name}, {size_in_words(first)}, "
                f"got {size_in_words(picture)}"
            )
        wanted = None if arguments.out is None else arguments.depth
        depths.append(io.output_depth(path, len(picture), depth, wanted))
        stack_depth, channels = max(stack_depth, depth), max(channels, len(picture))
    if arguments.stack is not None:
        stack_depth = io.output_depth(arguments.stack, channels, stack_depth, arguments.depth)
    return _Job(
        paths=paths,
        depths=depths,
        stack_depth=stack_depth,
        size=(first.shape[-2], first.shape[-1]),
        template=template,
        reference=reference,
        initial=read_initial(arguments.initial, device),
        template_mask=read_mask(arguments.template_mask, source, template),
        image_mask=read_mask(arguments.image_mask, paths[0], first.to(device)),
    )


def _reference(arguments: argparse.Namespace, paths: list[Path]) -> int:
    if arguments.initial is not None:
        raise ValueError("--initial needs a TEMPLATE: frames start from the reference among them")
    if len(paths) == 1:
        raise ValueError(f"{paths[0]} is the only picture of its folder: nothing to align it with")
    number = 1 if arguments.reference is None else arguments.reference
    if not 1 <= number <= len(paths):
        raise ValueError(f"--reference must be from 1 to {len(paths)}, got {number}")
    return number - 1


def _align(job: _Job, options: dict[str, Any]) -> list[Alignment]:
    """Align frame after frame, away from the reference, each from where the last one was."""
    device = job.template.device
    aligner = LucasKanadeAligner(job.template, template_mask=job.template_mask, **options)
    identity = torch.eye(3, device=device)
    start = identity if job.initial is None else job.initial
    zero = torch.zeros((), device=device)
    itself = Alignment(identity, zero.int(), zero.int(), zero)  # the reference: CONVERGED
    results = {} if job.reference is None else {job.reference: itself}
    numbers = range(len(job.paths))
    first = 0 if job.reference is None else job.reference
    last_found = start
    for number in _progress([*numbers[first:], *reversed(numbers[:first])], "aligning"):
        if number == first - 1:
            last_found = start  # the way back begins at the reference, too
        if number in results:
            continue
        frame = io.read_image(job.paths[number], gray=True).to(device)
        result = aligner(frame, last_found, job.image_mask)
        if not result.converged:  # after a jump the common start may be the better one
            again = aligner(frame, start, job.image_mask)
            result = again if again.converged else result
        if result.converged:
            last_found = result.matrix
        results[number] = result
    return [results[number] for number in numbers]


def _seen(job: _Job, matrix: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the template's pixels that a frame shows, (1, H, W)."""
    whole = torch.ones(1, *job.size, device=matrix.device) if mask is None else mask.float()
    height, width = job.template.shape[-2:]
    return warp_image(whole, matrix, (height, width)) > 0.999


def _seen_by_all(job: _Job, results: list[Alignment]) -> Tensor:
    seen = torch.ones_like(job.template, dtype=torch.bool)
    for result in results:
        if result.converged:
            seen &= _seen(job, result.matrix)
    return seen[0]


def _write(
    job: _Job,
    results: list[Alignment],
    out: Path | None,
    rectangle: tuple[int, int, int, int] | None,
    mode: str | None,
) -> Stack:
    """Write every frame as the reference sees it, and stack those that converged."""
    height, width = job.template.shape[-2:]
    x0, y0, x1, y1 = rectangle or (0, 0, width, height)
    stack = Stack(mode or "mean")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    zipped = list(zip(job.paths, job.depths, results, strict=True))
    for path, depth, result in _progress(zipped, "writing"):
        picture = io.read_image(path).to(job.template.device)
        warped = warp_image(picture, result.matrix, (height, width))[:, y0:y1, x0:x1]
        if out is not None:
            io.write_image(out / path.name, warped, depth=depth)
        if mode is not None and result.converged:
            stack.add(warped, _seen(job, result.matrix, job.image_mask)[:, y0:y1, x0:x1])
    return stack


def _write_table(path: Path, paths: list[Path], results: list[Alignment]) -> None:
    with io.whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "status", "iterations", "error", *_ENTRIES])
        for frame, result in zip(paths, results, strict=True):
            row = outcome(result)
            entries = [number for line in row["matrix"] for number in line]
            writer.writerow([frame.name, row["status"], row["iterations"], row["error"], *entries])


def _print(
    arguments: argparse.Namespace,
    job: _Job,
    results: list[Alignment],
    rectangle: tuple[int, int, int, int] | None,
) -> None:
    names = [path.name for path in job.paths]
    if arguments.json:
        frames = [
            {"name": name, **outcome(result)} for name, result in zip(names, results, strict=True)
        ]
        reference = str(arguments.template) if job.reference is None else names[job.reference]
        print(json.dumps({"reference": reference, "crop": rectangle, "frames": frames}))
        return
    height, width = job.template.shape[-2:]
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], device=job.template.device)
    for number, (name, result) in enumerate(zip(names, results, strict=True)):
        x, y = (warp_points(centre, result.matrix) - centre)[0].tolist()
        words = "the reference" if number == job.reference else in_words(result)
        print(f"{name}: {words}, centre at ({x:+.2f}, {y:+.2f}) px")
    if rectangle is not None:
        x0, y0, x1, y1 = rectangle
        print(f"crop: {x1 - x0} x {y1 - y0} of {width} x {height} px, from x {x0}, y {y0}")


def _report(job: _Job, results: list[Alignment]) -> int:
    """Name the frames that did not converge, and return the exit status."""
    failed = [
        f"{path.name} {AlignmentStatus(int(result.status)).name}"
        for path, result in zip(job.paths, results, strict=True)
        if not result.converged
    ]
    if not failed:
        return 0
    print(
        f"torchops align: {len(failed)} of {len(results)} frames did not converge (written with "
        f"the best matrix found, not in stack and crop): {', '.join(failed)}",
        file=sys.stderr,
    )
    return 1


def _progress(items: Sequence[Any], label: str) -> Any:
    # None: no bar where standard error is no terminal.
    return tqdm(items, desc=label, unit=" frames", disable=None)
