"""A grid of a thousand jobs: planned, checked and listed fast and in little memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lethe import plan
from lethe.recipe import of_folder
from tests import experiments

BIN = Path(sys.executable).parent
JOBS = 1000

# In a process between: what a child of this one takes at the most would be what this one takes.
MEASURE = """
import resource, subprocess
subprocess.run(["snakemake", "-n", "--quiet", "rules"], check=True, capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)
"""

pytestmark = pytest.mark.slow


def test_a_dry_run_of_a_thousand_jobs_takes_seconds_and_little_memory(
    tmp_path, tiny_base, tiny_pictures, monkeypatch, capsys
):
    experiments.copy_repository(tmp_path)
    values = experiments.write(tmp_path, tiny_base, tiny_pictures)
    values["tables"], values["attacks"]["arms"] = {}, []
    values["grid"] |= {"budgets": [0.5, 0.6, 0.7, 0.8, 0.9], "seeds": list(range(24))}
    experiments.save(tmp_path, values)
    monkeypatch.chdir(tmp_path)
    assert len(plan.build(values).nodes) >= JOBS

    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", MEASURE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\n{len(plan.build(values).nodes)} jobs listed in {seconds:.1f} s of CPU time and {megabytes:.0f} MB")
    assert seconds <= 20 and megabytes <= 1000


def test_an_address_needs_no_more_than_the_ends_of_a_big_file(tmp_path):
    big = tmp_path / "model.safetensors"
    with open(big, "wb") as file:
        file.truncate(64 << 30)  # a hole: no disk is used, but whoever reads it reads 64 GB of zeros
    started = time.process_time()
    first = of_folder(tmp_path)
    assert time.process_time() - started < 1
    with open(big, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")
    assert of_folder(tmp_path) != first
