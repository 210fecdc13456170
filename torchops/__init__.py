"""Six classic image algorithms as batched, differentiable PyTorch ops.

Each room of the package holds one subject; every public name is importable from here.
"""

# bilateral

# colorization

# flow

# alignment

# erase

# stats

__version__ = "0.1.0"

__all__: list[str] = [
    # bilateral
    # colorization
    # flow
    # alignment
    # erase
    # stats
]
