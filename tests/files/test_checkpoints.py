import os
import time
from pathlib import Path

import pytest
import torch

from lethe.files import tensors
from lethe.files.checkpoints import KEPT, SHARE, Checkpoints


def save(kept, step):
    kept.save(step, {"x": torch.full((3,), float(step))}, {"progress": str(step)})


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    kept = Checkpoints(tmp_path, 0)
    for step in (1, 2, 12):
        save(kept, step)
    assert [step for step, _ in kept.found()] == [12, 2] and KEPT == 2
    assert tensors.load(kept.newest())["x"].tolist() == [12.0] * 3
    assert tensors.metadata(kept.newest()) == {"progress": "12"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for _, path in kept.found())


@pytest.mark.parametrize("damage", [lambda old: old[:-5], lambda old: old[:-1] + bytes([old[-1] ^ 1]), lambda old: b""])
def test_a_damaged_one_is_passed_over(tmp_path, capsys, damage):
    kept = Checkpoints(tmp_path, 0)
    save(kept, 1)
    save(kept, 2)
    newest = kept.newest()
    newest.write_bytes(damage(newest.read_bytes()))
    assert tensors.load(kept.newest())["x"].tolist() == [1.0] * 3
    assert f"{newest}: is not what was saved at step 2" in capsys.readouterr().out


def test_none_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing", 0).newest() is None
    (tmp_path / "step-0000001-mine.safetensors").write_text("x")
    assert Checkpoints(tmp_path, 0).newest() is None


def test_a_failed_save_leaves_those_before_it(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, 0)
    save(kept, 1)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: object) -> None:
        (tmp_path / "checkpoint.part/whole").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save", full)
    with pytest.raises(OSError, match="No space"):
        save(kept, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_save_that_was_killed_leaves_nothing_for_good(tmp_path, monkeypatch):
    """safetensors writes to a hidden name of its own; a kill leaves that file, of which nobody knows the name."""
    kept = Checkpoints(tmp_path / "state", 0)

    def killed(path: Path, *_: object) -> None:
        path.with_name(".tmpQpM1sK").write_text("half")
        os._exit(9)

    monkeypatch.setattr(tensors, "save", killed)
    child = os.fork()
    if not child:
        save(kept, 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name for path in (tmp_path / "state").rglob(".tmp*")] == [".tmpQpM1sK"]
    kept.forget()
    assert not (tmp_path / "state").exists()


def test_a_file_where_the_folder_for_saving_is_wanted_gives_way(tmp_path):
    (tmp_path / "checkpoint.part").write_text("half")
    (tmp_path / "checkpoint.part.part-7").write_text("half")
    save(Checkpoints(tmp_path, 0), 1)
    assert [path.name[:12] for path in tmp_path.iterdir()] == ["step-0000001"]


def test_time_and_cost_decide_when_one_is_due(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path, 10.0)
    assert not kept.due()
    now[0] += 10
    assert kept.due()
    monkeypatch.setattr(tensors, "save", lambda path, *_: (path.write_text("x"), now.__setitem__(0, now[0] + 1.0)))
    save(kept, 1)
    assert kept.cost == 1.0
    now[0] += SHARE - 1
    assert not kept.due()  # ten seconds have passed, but a second's saving is worth fifty
    now[0] += 1
    assert kept.due()
    assert Checkpoints(tmp_path, 0).due()
