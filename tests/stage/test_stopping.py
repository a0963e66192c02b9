import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lethe.stage import stopping

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lethe.stage import stopping
stopping.install()
place = Path(sys.argv[2])
try:
    if sys.argv[1] == "held":
        with stopping.held():
            print("ready", flush=True)
            while not stopping.asked():
                time.sleep(0.01)
            place.write_text("saved")
            stopping.stop("at step 7")
    if sys.argv[1] == "busy":
        stopping.LIMIT = 0.3
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 60)
            print("ready", flush=True)
            time.sleep(60)
    print("ready", flush=True)
    time.sleep(60)
finally:
    (place.parent / "cleaned").write_text("yes")
"""


def stopped(tmp_path, how):
    words = [sys.executable, "-c", PROGRAM, how, str(tmp_path / "state")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert (tmp_path / "cleaned").exists() == (how != "busy")
    return process.returncode, error


def test_without_state_it_ends_at_once_and_tidies_up(tmp_path):
    code, error = stopped(tmp_path, "plain")
    assert code == stopping.CODE == 143
    assert error == "stopped by SIGTERM before the end; run the same command to go on\n"


def test_with_state_it_saves_first(tmp_path):
    code, error = stopped(tmp_path, "held")
    assert code == stopping.CODE
    assert error == "stopped by SIGTERM at step 7; run the same command to go on\n"
    assert (tmp_path / "state").read_text() == "saved"


def test_a_thread_that_does_not_listen_is_not_waited_for(tmp_path):
    code, error = stopped(tmp_path, "busy")
    assert code == stopping.CODE
    assert error == "stopped by SIGTERM before the end; run the same command to go on\n"
