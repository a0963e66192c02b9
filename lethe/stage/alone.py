"""One process a result: whoever makes it holds a lock, so that a workflow that was killed and started again, or started
twice, waits for jobs of the other instead of making a result twice.
"""

import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from lethe.files.errors import UserError

LOCKS = Path("state/locks")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within, no other process on this file system works on the folder `out`, or on the same result of another
    experiment; waits for one that does.

    The system frees the lock when its holder ends, however it ends. Where a file system knows no locks that is said,
    and nobody is waited for. Raises UserError if the lock's file cannot be made.
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
                _lock(file, out)
                if not _is(path, file.fileno()):
                    continue  # its holder has removed it meanwhile: that lock keeps nobody out
            except OSError as error:
                if error.errno == errno.ESTALE:
                    continue  # a network's file system: another machine has removed the file
                if error.errno not in NO_LOCKS:
                    raise
                print(
                    f"{path.parent}: its file system has no locks; start no command twice", file=sys.stderr, flush=True
                )
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return


def _lock(file: TextIO, out: Path) -> None:
    """Takes the lock, and says so if it has to wait for it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{out}: another process is making it; waiting for that", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def held() -> Path | None:
    """A lock that some process holds, if there is any; where there are no locks, none is."""
    for path in LOCKS.glob("*"):
        with suppress(FileNotFoundError), open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return path
            except OSError as error:
                if error.errno not in (*NO_LOCKS, errno.ESTALE):
                    raise
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
