"""One process a result: whoever makes it holds a lock, so that a workflow that was killed and started again, or started
twice, waits for jobs of the other instead of making a result twice.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lethe.files.errors import UserError

LOCKS = Path("state/locks")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within, no other process on this file system works on the folder `out`, or on the same result of another
    experiment; waits for one that does.

    The system frees the lock when its holder ends, however it ends. Raises UserError if the lock cannot be made.
    """
    path = LOCKS / hashlib.sha256(os.path.abspath(_place(out)).encode()).hexdigest()[:16]
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115, closed below
        except OSError as error:
            raise UserError(f"{path.parent}: cannot be written ({error.strerror}); make it writable") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print(f"{out}: another process is making it; waiting for that", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(path, file.fileno()):
                continue  # its holder has removed it meanwhile: that lock keeps nobody out
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def held() -> Path | None:
    """A lock that some process holds, if there is any."""
    for path in LOCKS.glob("*"):
        with suppress(FileNotFoundError), open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return path
    return None


def _place(out: Path) -> Path:
    """A planned result's place without its experiment (`lethe.stage.reuse`), any other folder as it is."""
    parts = Path(out).parts
    return Path(parts[0], "*", *parts[2:]) if len(parts) == 5 and parts[0] == "results" else Path(out)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
