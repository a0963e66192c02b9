"""What `make status` says of results that are done, running, failed, stopped, waiting and stale."""

import os
import time
from pathlib import Path

import pytest

from lethe.experiment import plan, status
from lethe.files.io import write_json
from tests import experiments


@pytest.fixture
def nodes(tmp_path, tiny_base, tiny_pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = experiments.write(tmp_path, tiny_base, tiny_pictures) | {"tables": {}}
    experiments.save(tmp_path, values)
    return list(plan.build(values).nodes.values())


def log(node, text: str, age: float = 0) -> None:
    path = status.log_of(node)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))


def lock(age: float = 60) -> None:
    path = Path(".snakemake/locks/0.input.lock")
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (time.time() - age, time.time() - age))


def counts() -> dict[str, dict[str, int]]:
    """arm -> state -> number, read from the printed table."""
    lines = status.text(Path("params.yaml")).splitlines()
    wide = len(lines[1]) - len(lines[1].lstrip())
    names, found = lines[1].split(), {}
    starts = [lines[1].index(name) + len(name) for name in names]
    for line in lines[2:]:
        if line.startswith(("failed", "stopped", "stale", " ")):
            break
        cells = [line[end - 8 : end].strip() for end in starts]
        found[line[:wide].split()[0]] = {name: int(cell) for name, cell in zip(names, cells, strict=True) if cell}
    return found


def test_at_first_all_waits(nodes):
    assert status.text(Path("params.yaml")).startswith(
        f"smoke (params.yaml): 0 of {len(nodes)} results done; no report"
    )
    assert {name for own in counts().values() for name in own} == {"waiting"}
    assert sum(own["waiting"] for own in counts().values()) == len(nodes)


def test_each_state_is_told_from_the_others(nodes):
    lock()
    first, *weights = [node for node in nodes if node.kind == "weights"]
    write_json(first.folder / "meta.json", {"recipe": first.recipe})
    log(weights[0], "step 1/2 loss 1\n")
    log(weights[1], "step 1/2 loss 1\nerror: step 2: the loss is not finite; lower the learning rate\n")
    log(weights[2], "step 1/2 loss 1\n", age=3600)  # of a workflow before the one that runs
    states = [status.state(node, status.began())[0] for node in (first, *weights[:3])]
    assert states == ["done", "running", "failed", "stopped"]
    text = status.text(Path("params.yaml"))
    assert f"failed: {weights[1].folder}\n  {status.log_of(weights[1])}: error: step 2: the loss is not finite" in text
    assert f"stopped: {weights[2].folder}\n" in text
    assert counts()[first.arm]["done"] == 1


def test_without_a_workflow_nothing_runs(nodes):
    log(nodes[0], "50 of 100\n")
    assert status.state(nodes[0], status.began()) == ("stopped", "50 of 100")
    log(nodes[0], "Traceback (most recent call last):\nValueError: x\n")
    assert status.state(nodes[0], status.began()) == ("failed", "ValueError: x")


def test_results_of_other_values_are_stale(nodes):
    old = nodes[0].folder.with_name("old-0000000000")
    write_json(old / "meta.json", {"recipe": "0000000000"})
    assert "stale: 1 results of other values" in status.text(Path("params.yaml"))
