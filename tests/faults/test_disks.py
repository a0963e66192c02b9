"""A full disk, one that cannot be written, two processes at one result: one line, and nothing is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lethe.files.checkpoints import NAME as CHECKPOINT
from lethe.files.tiles import NAME as TILE
from tests.faults.commands import files, traces


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small disk of its own at `folder`; skips the test where there is no way to have one."""
    folder.mkdir(parents=True)
    if os.getuid() or not shutil.which("mount"):
        pytest.skip("a small disk can be mounted by root only")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def change(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def one_line(said: str) -> str:
    """The error, which must be the only thing said on the matter."""
    assert "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def whole(commands, nursery, tmp_path_factory):
    """Files of a stage's undisturbed result, made once."""
    known = {}

    def of(name: str) -> dict[str, str]:
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            code, said = nursery.run(name, commands[name].at(folder))
            assert code == 0, said
            known[name] = files(folder / "results/out")
        return known[name]

    return of


@pytest.mark.parametrize(
    ("name", "part", "size", "kept"),
    [("distill", "state", "5m", CHECKPOINT), ("sample", "state", "24k", TILE), ("encode", "results", "40k", None)],
)
def test_a_full_disk_is_one_line_and_what_was_saved_stays(
    name, part, size, kept, commands, nursery, whole, tmp_path, capsys
):
    """The disk grows, and the same command goes on."""
    with mounted(tmp_path / part, size):
        code, said = nursery.run(name, commands[name].at(tmp_path))
        assert code == 3, said
        line = one_line(said)
        assert f"error: {tmp_path / part}/" in line and "no space left on the disk; free some, then run again" in line
        left = traces(tmp_path / part)
        assert not [path for path in left if ".part" in path]
        whole_ones = [path for path in left if kept and kept.fullmatch(Path(path).name)]
        assert whole_ones or not kept
        change(tmp_path / part, "size=64m")
        code, said = nursery.run(name, commands[name].at(tmp_path))
        assert code == 0, said
        assert "going on from step" in said or name != "distill"
        assert files(tmp_path / "results/out") == whole(name)
    with capsys.disabled():
        print(f"\n{line}")


@pytest.mark.parametrize("name", ["encode", "distill", "sample", "score", "report"])
def test_results_that_cannot_be_written_are_one_line(name, commands, nursery, tmp_path, capsys):
    with mounted(tmp_path / "results", "8m"):
        change(tmp_path / "results", "ro")
        code, said = nursery.run(name, commands[name].at(tmp_path))
        assert code == 3, said
        line = one_line(said)
        assert line.startswith(f"error: {tmp_path}/results")  # the folder, or what was to be made in it
        assert ": cannot be written: the file system is mounted read-only" in line
    with capsys.disabled():
        print(f"\n{line}")


def test_two_at_one_result_take_turns_and_it_is_made_once(commands, nursery, whole, tmp_path):
    words = commands["distill"].at(tmp_path)
    first, second = nursery.start("distill", words), nursery.start("distill", words)
    codes = [first.wait(), second.wait()]
    said = [first.said(), second.said()]
    assert codes == [0, 0], said
    (waited,) = [text for text in said if "another process is making it; waiting for that" in text]
    assert "finished, recipe" in waited and "step 1/" not in waited
    assert files(tmp_path / "results/out") == whole("distill")
    assert not [path for path in traces(tmp_path) if ".part" in path or path.startswith("state")]


def test_locks_that_cannot_be_made_are_one_line(ready, tmp_path):
    (tmp_path / "state").write_text("in the way")
    words = [sys.executable, "-m", "stages.prune", "--base", ready.base, "--budget", "0.8", "--out", "x"]
    own = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([*map(str, words)], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: state/locks: cannot be written (Not a directory); make it writable\n"
