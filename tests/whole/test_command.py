"""The command `lethe`: every stage and what else people run, quick to start, and a mistake is one line."""

import os
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lethe
import stages
from lethe.__main__ import about, commands

ROOT = Path(__file__).resolve().parents[2]


def called(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, "-m", "lethe", *words], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def cpu_seconds(*words: str) -> float:
    """The least of three, user and system, in processes of their own."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def test_every_stage_is_a_command_and_each_says_what_it_does():
    known = commands()
    assert {name for _, name, _ in pkgutil.iter_modules(stages.__path__)} <= known.keys()
    assert {"tables", "status", "plan", "gc", "demo", "prompts"} <= known.keys()
    told = called("--help")
    assert told.returncode == 0
    for name, module in known.items():
        assert f"  {name} " in told.stdout and about(module) in told.stdout


def test_version():
    assert called("--version").stdout == f"lethe {lethe.__version__}\n"


@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_it_starts_within_half_a_second_of_python_itself(words):
    assert cpu_seconds("-m", "lethe", *words) - cpu_seconds("-c", "pass") < 0.5


@pytest.mark.parametrize("words", [(), ("prunee",), ("--verison",)])
def test_no_command_and_an_unknown_one_are_one_line(words):
    told = called(*words)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("error: ") and told.stderr.count("\n") == 1
    assert all(word in told.stderr for word in (*words, *commands()))


@pytest.mark.parametrize("name", sorted(commands()))
def test_usage_lines_say_what_was_typed(name):
    told = called(name, "--help")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"usage: python -m lethe {name} ")


def test_a_stage_is_run_as_by_its_module(tmp_path):
    words = ("--base", "nowhere", "--prompt", "a boat", "--count", "0", "--out", "out")
    by_module = subprocess.run(
        [sys.executable, "-m", "stages.sample", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    told = called("sample", *words, folder=tmp_path)
    assert (told.returncode, told.stdout, told.stderr) == (2, by_module.stdout, by_module.stderr)
    assert "--count" in told.stderr and told.stderr.count("\n") == 1


def test_score_finds_its_own_place(tmp_path):
    told = called("score", "--model", "nowhere", "--prompts", "nowhere.csv", folder=tmp_path)
    assert told.returncode == 2 and "nowhere.csv: no such" in told.stderr  # no --out was asked for
