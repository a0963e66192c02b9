"""DVC's remote gone, locked, or a pull that was killed: its own clear line, and nothing that stood is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lethe.files.errors import UserError
from lethe.files.io import META, checked, read_meta, sha256, write_json, write_text
from lethe.stage.reuse import settled
from tests.faults.commands import traces

BIN = Path(sys.executable).parent
NAMES = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
ENV = os.environ | dict.fromkeys(NAMES, "test@localhost") | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
COUNT, NAME = 40, "unet/weights.safetensors"

pytestmark = pytest.mark.slow


def run(root: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what was said on both streams."""
    done = subprocess.run(words, cwd=root, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A repository whose results are pushed to a folder: `COUNT` weights folders, each with one file of 300 kB."""
    root, store = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("remote")
    for number in range(COUNT):
        name = f"{number:010d}"
        folder = root / f"results/atelier/weights/distill/b080-s0-{name}"
        write_text(folder / NAME, name * 30_000)
        told = {"recipe": name, "parents": {}, "files": {NAME: sha256(folder / NAME)}}
        write_json(folder / META, told)
    for words in (
        ("git", "init", "-q"),
        ("dvc", "init", "-q"),
        ("dvc", "remote", "add", "-q", "-d", "store", str(store)),
        ("dvc", "add", "-q", "results/atelier/weights"),
        ("git", "add", "-A"),
        ("git", "commit", "-q", "-m", "Results"),
        ("dvc", "push", "-q"),
    ):
        code, said = run(root, *words)
        assert code == 0, f"{words}: {said}"
    return root


@pytest.fixture
def clone(shared, tmp_path) -> Path:
    assert run(tmp_path, "git", "clone", "-q", str(shared), "clone")[0] == 0
    return tmp_path / "clone"


def results(root: Path) -> list[Path]:
    return sorted(root.glob("results/atelier/weights/distill/*"))


def told(root: Path) -> list[Path]:
    """Those that count as finished."""
    return [folder for folder in results(root) if (folder / META).is_file()]


def test_a_remote_that_is_not_there_is_said_and_what_stands_stays(clone, shared):
    assert run(clone, "dvc", "remote", "modify", "store", "url", str(clone.parent / "nowhere"))[0] == 0
    mine = clone / "results/atelier/weights/distill/b080-s0-mine"
    write_text(mine / NAME, "my own")
    before = traces(clone / "results")
    code, said = run(clone, "dvc", "pull")
    assert code != 0 and "Traceback" not in said
    assert "Missing cache files" in said or "nowhere" in said
    assert traces(clone / "results") == before
    assert run(clone, "dvc", "remote", "modify", "store", "url", remote_of(shared))[0] == 0
    mine.joinpath(NAME).rename(clone.parent / "kept")
    mine.joinpath("unet").rmdir(), mine.rmdir()
    assert run(clone, "dvc", "pull", "-q")[0] == 0
    assert len(results(clone)) == COUNT


def remote_of(root: Path) -> str:
    return run(root, "dvc", "remote", "list")[1].split()[1]


def test_two_at_once_are_told_to_wait(clone):
    holder = (
        "import sys, zc.lockfile as z; held = z.LockFile('.dvc/tmp/lock'); print('held', flush=True); sys.stdin.read()"
    )
    (clone / ".dvc/tmp").mkdir(exist_ok=True)
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", holder], cwd=clone, **how) as other:
        assert other.stdout.readline() == "held\n"
        code, said = run(clone, "dvc", "pull")
        other.stdin.close()
    assert code != 0 and "Unable to acquire lock" in said and "Traceback" not in said
    assert run(clone, "dvc", "pull", "-q")[0] == 0
    assert len(results(clone)) == COUNT


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_pull_is_finished_by_the_next(clone, monkeypatch, share):
    """Results that are half there are refused by name when they are read, and no other experiment takes them."""
    monkeypatch.chdir(clone)
    pull = subprocess.Popen(["dvc", "pull", "-q"], cwd=clone, env=ENV)
    while pull.poll() is None and len(told(clone)) < share * COUNT:
        time.sleep(0.0005)
    pull.send_signal(signal.SIGKILL)
    assert pull.wait() == -signal.SIGKILL
    found = [folder.relative_to(clone) for folder in told(clone)]
    assert len(found) > 0
    for own in found:
        other = Path("results/other", *own.parts[2:])
        whole = (own / NAME).is_file() and sha256(own / NAME) == read_meta(own)["files"][NAME]
        assert settled(other, read_meta(own)["recipe"]) == whole
        if not whole:
            with pytest.raises(UserError, match=f"{NAME}: (missing, though|sha256 is not the one in) meta.json"):
                checked(own, "unet/")
    code, said = run(clone, "dvc", "pull")
    if code:  # DVC names what it had half copied, and does not remove it by itself
        assert "Can't remove the following unsaved files" in said and "Traceback" not in said
        half = [Path(line.strip()) for line in said.splitlines() if line.strip().startswith("/")]
        assert half and all(path.name.endswith(".tmp") for path in half), said
        for path in half:
            path.unlink()
        code, said = run(clone, "dvc", "pull")
    assert code == 0, said
    assert len(results(clone)) == COUNT and run(clone, "dvc", "status")[1].strip().endswith("up to date.")
    for folder in results(clone):
        assert checked(folder, "unet/") == [NAME]
