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
