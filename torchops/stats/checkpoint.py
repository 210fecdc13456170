"""A file that always holds one whole state of a long count."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .accumulator import ChannelStats

# A checkpoint is written at most once a second, and so rarely that it takes 2 % of the time.
_LEAST_SECONDS = 1.0
_SHARE = 0.02


class Checkpoint:
    """Keep (number of samples done, statistics of exactly these) in one file.

    Both are written at once and replace the previous file in one step, so that whenever the
    process dies the file tells truly which samples are counted.

    Args:
        path: The file; its folder must exist.
        job: What is being counted; a file that was written for another job raises.
    """

    def __init__(self, path: str | os.PathLike[str], job: str):
        self.path = Path(path)
        self.job = job
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint must be a file in an existing folder, got {self.path}")
        if self.path.is_dir():
            raise ValueError(f"checkpoint must be a file, got a folder: {self.path}")
        self._next = time.monotonic() + _LEAST_SECONDS

    def load(self, stats: ChannelStats) -> int:
        """Fill ``stats`` from the file, if there is one, and return the number of samples done."""
        if not self.path.exists():
            return 0
        try:
            saved = torch.load(self.path, weights_only=True)
            job, done, state = saved["job"], saved["done"], saved["stats"]
        except Exception as error:  # any bytes may be in the file
            raise ValueError(
                f"checkpoint must be a file written by dataset_stats, got {self.path}"
            ) from error
        if job != self.job:
            raise ValueError(
                "checkpoint must belong to the same data, limit, seed, shard and covariance, "
                f"got that of another job: {self.path}; delete it to start anew"
            )
        stats.load_state_dict(state)
        return done

    def save(self, done: int, stats: ChannelStats) -> None:
        """Replace the file."""
        start = time.monotonic()
        saved: dict[str, Any] = {"job": self.job, "done": done, "stats": stats.state_dict()}
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(saved, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
        end = time.monotonic()
        self._next = end + max(_LEAST_SECONDS, (end - start) / _SHARE)

    def save_if_due(self, done: int, stats: ChannelStats) -> None:
        """Replace the file if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self.save(done, stats)


def fingerprint(parts: Iterable[object]) -> str:
    """Return a short text that differs for jobs described by different parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\n")
    return digest.hexdigest()
