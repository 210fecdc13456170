"""One template and one image."""

import argparse
import json
import sys
from typing import Any

import torch

from torchops import align, warp_image
from torchops.cli import io
from torchops.cli.align import convergence, overlay
from torchops.cli.align.arguments import in_words, method, outcome, read_initial, read_mask
from torchops.cli.options import pick_device


def run(arguments: argparse.Namespace) -> int:
    """Align the pair, write what was asked for and print the result."""
    _check_outputs(arguments)
    device = pick_device(arguments.device)
    template = io.read_image(arguments.template, gray=True).to(device)
    image = io.read_image(arguments.image, gray=True).to(device)
    options: dict[str, Any] = {
        **method(arguments),
        "initial": read_initial(arguments.initial, device),
        "template_mask": read_mask(arguments.template_mask, arguments.template, template),
        "image_mask": read_mask(arguments.image_mask, arguments.image, image),
    }
    if arguments.out is not None:  # read before the work, so that it can only fail before it
        picture, depth = io.read_picture(arguments.image)
        depth = io.output_depth(arguments.out, len(picture), depth, arguments.depth)
    result = align(template, image, **options)
    if arguments.out is not None:
        height, width = template.shape[-2:]
        warped = warp_image(picture.to(device), result.matrix, (height, width))
        io.write_image(arguments.out, warped, depth=depth)
    if arguments.matrix is not None:
        io.write_matrix(arguments.matrix, result.matrix)
    if arguments.overlay is not None:
        initial = options["initial"]
        start = torch.eye(3, device=device) if initial is None else initial
        compared = overlay.before_after(template, image, start, result.matrix)
        io.write_image(arguments.overlay, compared)
    if arguments.convergence is not None:
        trace = convergence.trace(template, image, options)
        convergence.draw(arguments.convergence, trace)
    if arguments.json:
        print(json.dumps(outcome(result)))
    else:
        for row in result.matrix.tolist():
            print(" ".join(f"{number:16.9g}" for number in row))
        print(f"status {in_words(result)}")
    if not result.converged:
        status = outcome(result)["status"]
        print(f"torchops align: not converged: {status}", file=sys.stderr)
        return 1
    return 0


def _check_outputs(arguments: argparse.Namespace) -> None:
    for path in (arguments.out, arguments.overlay):
        if path is not None:
            io.check_output(path, io.IMAGE_SUFFIXES)
    if arguments.matrix is not None:
        io.check_output(arguments.matrix, io.MATRIX_SUFFIXES)
    if arguments.convergence is not None:
        convergence.check(arguments.convergence)
