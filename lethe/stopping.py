"""SIGTERM, as a cluster sends it at a time limit or before another's job: what runs saves its state and ends.

A stage asks to be told by `SystemExit` wherever it is; code that has something to save first holds that back.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODE = 128 + signal.SIGTERM
_asked = threading.Event()
_held = threading.Event()


def install() -> None:
    """From now on SIGTERM ends this process in order: files half-written are removed, and the exit code is 143."""
    signal.signal(signal.SIGTERM, _on_signal)


def asked() -> bool:
    """Has this process been told to stop?"""
    return _asked.is_set()


@contextmanager
def held() -> Iterator[None]:
    """Within, SIGTERM only makes `asked` true: the body looks at it and calls `stop` once its state is saved."""
    _held.set()
    try:
        yield
    finally:
        _held.clear()


def stop(what: str) -> None:
    """Ends the process; `what` says where it stands."""
    sys.stdout.flush()
    print(f"stopped by SIGTERM {what}; run the same command to go on", file=sys.stderr, flush=True)
    raise SystemExit(CODE)


def forget() -> None:
    """As if nobody had asked, for a process that goes on all the same."""
    _asked.clear()


def _on_signal(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
    if not _held.is_set():
        stop("before the end")
