"""SIGTERM, as a cluster sends it at a time limit or before another's job: what runs saves its state and ends.

A stage asks to be told by `SystemExit` wherever it is; code that has something to save first holds that back. Whoever
is still busy LIMIT seconds later, in a thread or in a library that does not listen, is ended as it stands: half-written
files have names of their own, and the next run removes them.
"""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CODE = 128 + signal.SIGTERM
LIMIT = 8.0
_asked = threading.Event()
_held = threading.Event()
_ending = threading.Event()


def install() -> None:
    """From now on SIGTERM ends this process in order: files half-written are removed, and the exit code is 143."""
    signal.signal(signal.SIGTERM, _on_signal)
    _watch(os.getpid())


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
    _ending.set()
    with suppress(RuntimeError, OSError):  # the signal may have come amid a print, or the disk be full
        sys.stdout.flush()
        print(f"stopped by SIGTERM {what}; run the same command to go on", file=sys.stderr, flush=True)
    raise SystemExit(CODE)


def forget() -> None:
    """As if nobody had asked, for a process that goes on all the same."""
    _asked.clear()
    _ending.clear()


def _on_signal(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
    if not _held.is_set():
        stop("before the end")


@functools.cache  # one a process
def _watch(_process: int) -> None:
    def end() -> None:
        while True:
            _ending.wait()
            time.sleep(LIMIT)
            if _ending.is_set():
                os._exit(CODE)

    threading.Thread(target=end, daemon=True, name="stopping").start()
