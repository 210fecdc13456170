"""Compile the kernels ahead of time, without a GPU, and print what each takes as JSON.

A process of its own: Triton decides when it is first imported whether it compiles or interprets.

    python tests/bilateral/kernel_builds.py 80 90 100
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchops.bilateral import kernels

COMMON = {"HELD": True, "COUNTED": False, "DISC": False, "L1": False, "SELF": False}
SIZES = {"ACC": tl.float32, "TILE_Y": kernels.TILE_Y, "TILE_X": kernels.TILE_X, "UNROLLED": -1}
VARIANTS = {
    "gray": {"COUNT": 1, "GUIDE": 1, "SELF": True, "UNROLLED": 4},
    "RGB": {"COUNT": 3, "GUIDE": 3, "SELF": True, "UNROLLED": 4},
    "RGB, wide window": {"COUNT": 3, "GUIDE": 3, "SELF": True},
    "4 channels, 3 of guide, masked disc": {"COUNT": 4, "GUIDE": 3, "COUNTED": True, "DISC": True},
    "2 channels, 6 of guide, l1": {"COUNT": 2, "GUIDE": 6, "HELD": False, "L1": True},
}
# Spilled registers lie in local memory: on the stack, as newer compilers count them.
FIGURES = {"registers": "REG", "stack": "STACK", "local": "LOCAL"}


def build(kernel, constants, architecture):
    """Return registers per thread and bytes of local memory of one compiled kernel."""
    types = {
        name: "constexpr" if name in constants else "*fp32" if name.endswith("_ptr") else "i32"
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature=types, constexprs=constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Triton's defaults for floating-point fusion
        binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: re.search(rf"\b{key}:(\d+)", text) for name, key in FIGURES.items()}
    return {name: int(match[1]) for name, match in found.items()}


def main(architectures):
    found = []
    for architecture in architectures:
        for name, options in VARIANTS.items():
            constants = {**SIZES, **COMMON, **options}
            row = {"architecture": architecture, "variant": name}
            found.append(
                {
                    "kernel": "forward",
                    **row,
                    **build(kernels._bilateral_forward_kernel, constants, architecture),
                }
            )
            constants |= {"GUIDE_FIRST": 0, "GUIDE_COUNT": min(options["GUIDE"], kernels.GROUP)}
            constants |= {"TOTAL": True, "RATES": True}
            found.append(
                {
                    "kernel": "backward",
                    **row,
                    **build(kernels._bilateral_backward_kernel, constants, architecture),
                }
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
