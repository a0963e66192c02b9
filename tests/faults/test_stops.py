"""SIGTERM: every stage ends within ten seconds with exit code 143, and the same command goes on from there."""

import re
import shutil
import signal
import time

import pytest

from lethe.files.tiles import NAME as TILE
from tests.faults.commands import files, traces

LIMIT = 10.0


@pytest.mark.parametrize(
    "name", ["encode", "prune", "distill", "bilevel", "erase", "sample", "attack", "score", "report"]
)
def test_told_to_stop_it_ends_in_time_and_goes_on(name, commands, nursery, tmp_path):
    case = commands[name]
    words = [
        *case.at(tmp_path),
        *(["--checkpoint-seconds", "300"] if name in ("distill", "bilevel", "erase", "attack") else []),
    ]
    started = time.monotonic()
    code, said = nursery.run(name, case.at(tmp_path / "whole"))
    span = time.monotonic() - started
    assert code == 0, said
    for share in (0.6, 0.4, 0.2, 0.1):
        child = nursery.start(name, words)
        if not child.within(share * span):
            child.signal(signal.SIGTERM)
        assert child.within(LIMIT), "it did not end"
        if child.wait() == 143:
            break
        shutil.rmtree(tmp_path / "results")  # it was faster this time
    said = child.said()
    assert "stopped by SIGTERM" in said and "Traceback" not in said, said
    assert not [name for name in traces(tmp_path) if ".part" in name and not name.startswith("whole")]
    assert not (tmp_path / "results/out").exists()

    saved = re.search(r"at step (\d+) of \d+, state saved in", said)
    tiles = [path for path in (tmp_path / "state").glob("*") if TILE.fullmatch(path.name)]
    code, said = nursery.run(name, words)
    assert code == 0, said
    assert not saved or f"going on from step {saved[1]} " in said
    assert not tiles or f"{len(tiles)} of 16 tiles" not in said
    assert files(tmp_path / "results/out") == files(tmp_path / "whole/results/out")
