"""Checkpoints of a training: one file each, its checksum in its name, the last two kept.

A checkpoint is written beside its place and renamed, so a kill leaves the ones before it. One whose bytes are not those
that its name tells of (a disk that lost power, a hand that changed it) is passed over with a line, and the run goes on
from the one before, or from the start.
"""

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lethe.files import tensors
from lethe.files.io import sha256

KEPT = 2
SHARE = 50  # at least so many times the last one's cost lies between two: they take no more than 2 % of the time
PART = "checkpoint.part"  # a folder: safetensors writes to a hidden name of its own beside the file it is given
NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


@dataclass
class Checkpoints:
    """Those of one run, in a folder of its own.

    `seconds`: time between two; 0 makes one after every step. Where saving is slow they lie further apart (SHARE).
    """

    folder: Path
    seconds: float
    last: float = field(default_factory=lambda: time.monotonic())
    cost: float = 0.0

    def due(self) -> bool:
        """Is it time for another?"""
        return not self.seconds or time.monotonic() - self.last >= max(self.seconds, SHARE * self.cost)

    def save(self, step: int, found: Mapping[str, torch.Tensor], text: Mapping[str, str]) -> None:
        """Writes one, then removes all but the last two. A full disk raises OSError, and the old ones stay."""
        started = time.monotonic()
        part = self.folder / PART / "whole"
        self._tidy()
        part.parent.mkdir(parents=True)
        try:
            tensors.save(part, found, text)
            part.rename(self.folder / f"step-{step:07d}-{sha256(part)[:16]}.safetensors")
        finally:
            self._tidy()
        for _, old in self.found()[KEPT:]:
            old.unlink(missing_ok=True)
        self.last = time.monotonic()
        self.cost = self.last - started

    def found(self) -> list[tuple[int, Path]]:
        """(step, file) of every checkpoint, the newest first."""
        named = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*.safetensors")]
        order = sorted(named, key=lambda one: (one[0] is not None and int(one[0][1]), one[1].stat().st_mtime_ns))
        return [(int(name[1]), path) for name, path in reversed(order) if name]

    def newest(self) -> Path | None:
        """The newest that is whole; says which it passes over."""
        for step, path in self.found():
            if path.stem.endswith(f"-{sha256(path)[:16]}"):
                return path
            print(f"{path}: is not what was saved at step {step}; going on from the one before it", flush=True)
        return None

    def forget(self) -> None:
        """Removes the state of a run whose result stands; and the folder, if nothing else is in it."""
        self._tidy()
        for _, path in self.found():
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _tidy(self) -> None:
        """Removes what a save that was killed has left, also one of a version that wrote to a file of that name."""
        for path in self.folder.glob(f"{PART}*"):
            remove = shutil.rmtree if path.is_dir() else Path.unlink
            remove(path)
