"""Compile the kernels ahead of time, without a GPU, and print what each takes as JSON.

A process of its own: Triton decides when it is first imported whether it compiles or interprets.

    python tests/alignment/kernel_builds.py all 80 90 100
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

from torchops.alignment import kernels

SUMS, VALUES, SOLVE = (
    kernels._alignment_sums_kernel,
    kernels._alignment_values_kernel,
    kernels._alignment_solve_kernel,
)
FLOAT32 = {"EPS": 2.0**-23, "ACC": tl.float32, "BLOCK": kernels.BLOCK}
FLOAT64 = {"EPS": 2.0**-52, "ACC": tl.float64, "BLOCK": kernels.BLOCK}
DOUBLES = ("matrix_ptr", "known_ptr", "extra_ptr", "sums_ptr", "vector_ptr", "damping_ptr")
DOUBLES += ("scale_ptr", "floor_ptr", "step_ptr")


def sums(motion, algorithm, objective="ssd", numbers=FLOAT32):
    return kernels.options_of(motion, algorithm, objective, True) | numbers


VARIANTS = {
    "inverse compositional": (SUMS, sums("homography", "inverse_compositional")),
    "forward compositional": (SUMS, sums("homography", "forward_compositional")),
    "forward additive": (SUMS, sums("homography", "forward_additive")),
    "esm": (SUMS, sums("homography", "esm")),
    "esm, euclidean": (SUMS, sums("euclidean", "esm")),
    "esm, tukey": (SUMS, sums("homography", "esm", "tukey")),
    "inverse compositional, huber": (SUMS, sums("homography", "inverse_compositional", "huber")),
    "esm, ecc": (SUMS, sums("homography", "esm", "ecc")),
    "affine, ecc": (SUMS, sums("affine", "inverse_compositional", "ecc")),
    "esm, float64": (SUMS, sums("homography", "esm", numbers=FLOAT64)),
    "residual": (VALUES, {"MOMENTS": False, **FLOAT32}),
    "moments": (VALUES, {"MOMENTS": True, **FLOAT32}),
    "solve, homography": (SOLVE, {"P": 8, "DAMPED": True, "SAMPLES": kernels.SAMPLES}),
    "solve, translation": (SOLVE, {"P": 2, "DAMPED": False, "SAMPLES": kernels.SAMPLES}),
}

USUAL = ("inverse compositional", "esm, euclidean")


def kind(name, constants):
    """The type of an argument in Triton's notation."""
    if name in constants:
        return "constexpr"
    if name == "eps":
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    if name in ("counts_ptr", "singular_ptr"):
        return "*i8"
    if name == "number_ptr":
        return "*i64"
    double = name in DOUBLES or constants.get("ACC") == tl.float64
    return "*fp64" if double else "*fp32"


def compiled(kernel, constants, architecture):
    """Return the machine code of one kernel."""
    types = {name: kind(name, constants) for name in kernel.arg_names}
    options = {"num_warps": 1} if kernel is SOLVE else {}
    if kernel is SUMS:
        options = kernels.register_limit(constants)
    source = ASTSource(kernel, signature=types, constexprs=constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Triton's defaults for floating-point fusion
        target = GPUTarget("cuda", architecture, 32)
        return triton.compile(source, target=target, options=options).asm["cubin"]


def inspect(binary, option, tool="cuobjdump"):
    """Print something of machine code by NVIDIA's tools, which come with Triton."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [path, *option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build(kernel, constants, architecture):
    """Return registers per thread, their limit, and bytes of local memory of a kernel."""
    text = inspect(compiled(kernel, constants, architecture), ["--dump-resource-usage"])
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    limit = kernels.register_limit(constants).get("maxnreg", 255) if kernel is SUMS else 255
    return {"registers": int(registers), "limit": limit, "stack": int(stack)}


def main(which, architectures):
    found = [
        {"variant": name, "architecture": architecture, **build(*variant, architecture)}
        for architecture in architectures
        for name, variant in VARIANTS.items()
        if which == "all" or name in USUAL
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], [int(argument) for argument in sys.argv[2:]])
