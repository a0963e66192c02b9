import os
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.stage import gpus

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from lethe.stage import gpus
gpus.DRIVER, gpus.LOCKS = Path(sys.argv[1]), Path(sys.argv[2])
print(gpus.claim(), __import__("os").environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "locks").mkdir()
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "driver" / name).mkdir(parents=True)
    return tmp_path


def job(machine, **environment):
    words = [sys.executable, "-c", PROGRAM, str(machine / "driver"), str(machine / "locks")]
    own = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | environment
    process = subprocess.Popen(words, cwd=ROOT, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_jobs_side_by_side_see_a_gpu_each_and_a_killed_one_gives_its_own_back(machine):
    first, one = job(machine)
    second, two = job(machine)
    third, three = job(machine)  # more jobs than GPUs: it shares the last
    assert (one, two, three) == ("0 0", "1 1", "1 1")
    first.kill()
    first.wait()
    fourth, four = job(machine)
    assert four == "0 0"
    for process in (second, third, fourth):
        process.communicate("\n")


def test_a_clusters_choice_stands(machine):
    process, said = job(machine, CUDA_VISIBLE_DEVICES="7")
    process.communicate("\n")
    assert said == "None 7"


def test_one_gpu_or_none_is_no_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "driver")
    assert gpus.count() == 0 and gpus.claim() is None
    (tmp_path / "driver/0000:01:00.0").mkdir(parents=True)
    assert gpus.count() == 1 and gpus.claim() is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
