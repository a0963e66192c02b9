"""kill -9 at random moments in every stage: the same command again ends in what it would have made undisturbed.

LETHE_KILLS: how many in all (default: 27); `make soak` asks for 200.
"""

import math
import os
import random
import signal
import time

import pytest

from lethe.files.checkpoints import NAME as CHECKPOINT
from lethe.files.io import sha256
from lethe.files.tiles import NAME as TILE
from tests.faults.commands import files, is_whole, traces

STAGES = ("encode", "prune", "distill", "bilevel", "erase", "sample", "attack", "score", "report")
KILLS = math.ceil(int(os.environ.get("LETHE_KILLS", "27")) / len(STAGES))
SEED = int(os.environ.get("LETHE_SEED", "0"))
IN_A_ROW = 3  # of one result, before it is let be

pytestmark = pytest.mark.slow


def check(folder, wanted, before) -> None:
    """After a kill: what counts as finished is whole, state that counts is what was saved, and nothing was touched."""
    out, state = folder / "results/out", folder / "state"
    if is_whole(out):
        assert files(out) == wanted
    for path in state.glob("*"):
        name = CHECKPOINT.fullmatch(path.name) or TILE.fullmatch(path.name)
        assert not name or sha256(path).startswith(name.groups()[-1]), f"{path} counts as whole and is not"
    after = traces(folder)
    kept = {name for name in before if name in after and not name.startswith("features") and ".part" not in name}
    assert {name for name in kept if before[name] != after[name] and not name.endswith("log.csv")} == set()


@pytest.mark.parametrize("name", STAGES)
def test_killed_at_any_moment_it_ends_in_the_same_bytes(name, commands, nursery, tmp_path, record_property):
    case, draws = commands[name], random.Random(f"{name} {SEED}")
    started = time.monotonic()
    code, said = nursery.run(name, case.at(tmp_path / "whole"))
    span = time.monotonic() - started
    assert code == 0, said
    wanted, kills, resumed, number = files(tmp_path / "whole/results/out"), 0, 0, 0
    while kills < KILLS:
        folder, number = tmp_path / f"{number}", number + 1
        assert number < 5 * KILLS, "it ends before it can be killed"
        for _ in range(min(IN_A_ROW, KILLS - kills)):
            before = traces(folder)
            child = nursery.start(name, case.at(folder))
            if not child.within(draws.uniform(0, span)):
                child.signal(signal.SIGKILL)
            ended = child.wait()
            assert ended in (0, -signal.SIGKILL), child.said()
            kills += ended < 0
            check(folder, wanted, before)
        saved = [path for path in (folder / "state").glob("*") if CHECKPOINT.fullmatch(path.name)]
        code, said = nursery.run(name, case.at(folder))
        assert code == 0, said
        if saved and "finished" not in said:
            assert "going on from step" in said
            resumed += 1
        assert files(folder / "results/out") == wanted, f"kills {kills}"
        left = [path.name for path in folder.rglob("*") if ".part" in path.name]
        late = "finished" in said  # killed when the result stood and its state was not yet gone: `make gc` takes that
        assert not left and (late or not any((folder / "state").glob("*"))), f"left behind: {left}"
        before = traces(folder)
        code, said = nursery.run(name, case.at(folder))
        assert code == 0 and traces(folder) == before, "what was finished was touched"
    record_property("kills", kills)
    print(f"{name}: {kills} kills of {number} results of {span:.1f} s, {resumed} of which went on from a checkpoint")
