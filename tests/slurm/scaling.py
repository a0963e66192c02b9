"""How much faster two workers are than one, and what the engine takes of a job: equal trainings on the test cluster.

Not collected by `make test`, since it wants a quiet machine of two cores: `python -m pytest -s tests/slurm/scaling.py`.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lethe.files.io import read_meta
from tests import experiments
from tests.slurm import cluster

pytestmark = pytest.mark.skipif(cluster.missing() is not None, reason=str(cluster.missing()))
BIN = Path(sys.executable).parent
JOBS, STEPS, TIMES = 2, 1500, 1.8


def profiled(root: Path, jobs: int) -> list[str]:
    """The shipped profile for a cluster of this size, with so many jobs at once."""
    profile = yaml.safe_load((root / "envs/slurm/config.yaml").read_text())
    rules = ("pictures", "encode", "prune", "distill")
    sizes = {"mem_mb": 1500, "runtime": 10}
    profile["set-resources"] = {rule: sizes | profile["set-resources"].get(rule, {}) for rule in rules}
    profile |= {"jobs": jobs, "latency-wait": 5, "slurm-init-seconds-before-status-checks": 3}
    profile["set-threads"] = dict.fromkeys(rules, 1)
    folder = root / f"profile{jobs}"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return ["snakemake", "--workflow-profile", folder.name, "weights"]


def test_two_workers_against_one(tmp_path, tiny_base, tiny_pictures, capsys):
    experiments.copy_repository(tmp_path)
    values = experiments.write(tmp_path, tiny_base, tiny_pictures)
    values["tables"], values["grid"] = {}, values["grid"] | {"arms": ["distill"], "seeds": [0]}
    home, spent = Path(f"/tmp/lethe-scaling-{os.getpid()}"), {}
    try:
        with cluster.Cluster(home, cpus=2) as slurm:
            env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")} | slurm.environment
            env |= {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1"}
            for workers, seeds, steps in ((1, [0], 1), (1, [1, 2], STEPS), (2, [3, 4], STEPS)):
                values["grid"]["seeds"], values["distill"]["steps"] = seeds, steps
                experiments.save(tmp_path, values)
                started = time.monotonic()
                subprocess.run(profiled(tmp_path, workers), cwd=tmp_path, env=env, check=True, capture_output=True)
                spent[workers] = time.monotonic() - started  # the first makes what all share
    finally:
        shutil.rmtree(home, ignore_errors=True)
    told = [read_meta(folder) for folder in tmp_path.glob("results/*/weights/distill/*")]
    work = {meta["options"]["seed"]: meta["seconds"] for meta in told}
    with capsys.disabled():
        ratio = spent[1] / spent[2]
        print(f"\n{JOBS} trainings: {spent[1]:.0f} s by one worker, {spent[2]:.0f} s by two, {ratio:.2f} times as fast")
        print(f"seconds of work: {work[1]:.0f} and {work[2]:.0f} in turn, {work[3]:.0f} and {work[4]:.0f} together")
        print(f"the engine: {(spent[1] - work[1] - work[2]) / JOBS:.0f} s a job beside its work, by one worker")
    assert spent[1] / spent[2] >= TIMES
