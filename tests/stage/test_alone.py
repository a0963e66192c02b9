import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lethe.files.errors import UserError
from lethe.stage import alone

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from lethe.stage.alone import alone
with alone(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def holder(here, out):
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], cwd=here, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize("end", ["released", "killed"])
def test_the_second_waits_until_the_first_has_ended(here, capsys, end):
    first = holder(here, "results/x")
    waited = []

    def second():
        with alone.alone(here / "results/x"):  # the same place, said otherwise
            waited.append(time.monotonic())

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.3)
    assert not waited
    ended = time.monotonic()
    first.communicate("\n") if end == "released" else first.send_signal(signal.SIGKILL)
    thread.join(10)
    assert waited and waited[0] >= ended
    assert "results/x: another process is making it; waiting for that" in capsys.readouterr().err
    assert list((here / "state/locks").iterdir()) == []
    first.wait()


def test_one_result_of_two_experiments_is_made_by_one(here, capsys):
    first, entered = holder(here, "results/one/weights/distill/x-0123456789"), threading.Event()

    def second():
        with alone.alone(Path("results/two/weights/distill/x-0123456789")):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(0.3)
    first.communicate("\n")
    assert entered.wait(10)
    thread.join()


def test_other_results_do_not_wait(here):
    first = holder(here, "results/x")
    with alone.alone(Path("results/y")):
        assert first.poll() is None
    first.communicate("\n")


def test_many_at_once_are_never_two_at_once(here):
    inside, most = [], []

    def work():
        with alone.alone(Path("results/x")):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 12


def test_a_place_that_cannot_be_written_is_told(here):
    (here / "state").write_text("a file")
    with pytest.raises(UserError, match=r"state/locks: cannot be written .*make it writable"), alone.alone(Path("x")):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_work_goes_on(here, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone.alone(Path("results/x")):
        assert alone.held() is None
    told = capsys.readouterr().err
    assert told == "state/locks: its file system has no locks; start no command twice\n"


def test_a_handle_that_is_stale_is_taken_anew(here, monkeypatch, capsys):
    flock, failed = fcntl.flock, []

    def once(*words):
        if not failed:
            failed.append(1)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return flock(*words)

    monkeypatch.setattr(fcntl, "flock", once)
    with alone.alone(Path("results/x")):
        assert failed == [1] and len(list((here / "state/locks").iterdir())) == 1
    assert capsys.readouterr().err == ""


def test_another_trouble_with_the_lock_is_not_hidden(here, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), alone.alone(Path("results/x")):
        pass
