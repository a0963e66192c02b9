"""A thousand of a thing: jobs are planned, checked and listed, pictures scored, fast and in little memory."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lethe.experiment import plan
from lethe.files import images
from lethe.files.io import read_json
from lethe.params import registry
from lethe.texts.rows import Prompt
from tests import experiments, tiny_judges

ROOT = Path(__file__).resolve().parents[2]
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


def test_a_thousand_pictures_are_scored_within_a_minute(tmp_path, capsys):
    """Every metric of the default experiment, with a reference and the dense base to compare with, on one core."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    sets, concepts = thousand(values["concepts"])
    csvs = [f"{name}={path}" for name, path in tiny_judges.write_prompts(tmp_path / "prompts", sets).items()]
    real = write_real(tmp_path / "real", sets["eval"])
    for own in concepts.values():
        own["pictures"] = str(real)
    base, distill, arm = (
        tiny_judges.write_samples(tmp_path / name, seed, sets, name, side=64)
        for seed, name in enumerate(("base", "distill", "arm"))
    )
    common = ["--prompts", *csvs, "--concepts", json.dumps(concepts), "--erased", *concepts, "--params", "params.yaml"]
    common += ["--eval-pictures", real, "--threads", "1"]

    def scored(samples, out, *more):
        words = ["--samples", samples, "--out", tmp_path / out, *more, *common]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "stages.score", *map(str, words)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    scored(distill, "reference", "--cache", tmp_path / "one")
    others = ["--reference", tmp_path / "reference", "--originals", base]
    spent = scored(arm, "out", *others, "--cache", tmp_path / "other")  # which knows no picture
    found = read_json(tmp_path / "out" / "metrics.json")
    absent = read_json(tmp_path / "out" / "meta.json")["absent"]
    left = {"lpips", "pair", "top5", "unsafe"}  # families without a network, or without such a concept
    families = registry.literals("metrics", "METRICS").items()
    declared = {name for family, own in families if family not in left for name in own}
    assert found.keys() == declared and not absent.keys() & declared
    with capsys.disabled():
        print(f"\n1000 pictures scored in {spent:.1f} s of CPU time")
    assert spent <= 60


def thousand(concepts):
    """Prompts of a thousand pictures in atelier's labels, and the concepts for them."""
    styles, contents = ("munch", "cassatt", "braque", "hokusai", "photo"), ("boat", "house", "tree")
    made = {
        name: [Prompt(i, f"a boat {i} by {name}", i, own["style"], contents[i % 3]) for i in range(100)]
        for name, own in concepts.items()
    }
    for name, count in (("retain", 200), ("eval", 500)):
        made[name] = [Prompt(i, f"a boat {i}", i, styles[i % 5], contents[i % 3], f"{i}.png") for i in range(count)]
    assert sum(map(len, made.values())) == 1000
    return made, {name: {key: own[key] for key in ("kind", "style", "neighbours")} for name, own in concepts.items()}


def write_real(folder, rows):
    """A picture to compare with for each prompt."""
    folder.mkdir()
    noise = np.random.default_rng(9)
    for row in rows:
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        (folder / row.file_name).write_bytes(images.png(pixels))
    lines = (json.dumps({"file_name": row.file_name, "text": row.prompt}) for row in rows)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
