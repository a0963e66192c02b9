"""One GPU a job: jobs that share a machine each take one that no other holds, and see no other.

A cluster hands out GPUs itself and says so in CUDA_VISIBLE_DEVICES; then nothing is done here.
"""

import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

DRIVER = Path("/proc/driver/nvidia/gpus")
LOCKS = Path(tempfile.gettempdir())
_held: list[IO] = []  # open until the process ends, however it ends: the system frees the lock


def count() -> int:
    """GPUs that the NVIDIA driver shows on this machine."""
    return len(list(DRIVER.glob("*"))) if DRIVER.is_dir() else 0


def claim(environment: Mapping[str, str] = os.environ) -> int | None:
    """Takes the first GPU that no other process of ours holds and sets CUDA_VISIBLE_DEVICES to it; the last one if all
    are held. None where there is no choice: no or one GPU, or a choice that was made already.

    To be called before CUDA is first used.
    """
    number = count()
    if number < 2 or "CUDA_VISIBLE_DEVICES" in environment:
        return None
    for index in range(number):
        file = open(LOCKS / f"lethe-gpu-{os.getuid()}-{index}.lock", "a")  # noqa: SIM115, held on purpose
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        break
    os.environ["CUDA_VISIBLE_DEVICES"] = str(index)
    return index
