import csv

import pytest

from lethe.files.errors import UserError
from lethe.files.io import read_meta
from lethe.models import unets
from tests.stages.running import alike, finished_without_torch, kill_after_first_checkpoint, stage, weights
from tests.tiny_training import OPTIONS, UPPER

VALUES = OPTIONS | UPPER
PENALTY = {"lambda": 1.0, "coupling": "none", "pull": 0.5, "lambda_growth": 1.0, "lambda_most": 1.0}
PENALTY |= {"gap_tolerance": 0.0, "second_copy": "device"}


def test_trains_both_levels_and_counts_them_apart(ready, tmp_path):
    out = tmp_path / "out"
    words = ready.training("--concepts", *ready.named(), "--out", out, "--state", tmp_path / "state")
    stage("bilevel", *words, **VALUES | {"upper_batch": 3})
    meta = read_meta(out)
    lower = {"student_forward": 16, "student_backward": 16, "teacher_forward": 16}
    upper = {"student_forward": 6, "student_backward": 6, "teacher_forward": 12}
    assert meta["levels"] == {"lower": lower, "upper": upper}
    assert meta["budget"] == {key: lower[key] + upper[key] for key in lower}
    assert set(meta["parents"]) == {"base", "pruned", "data", "concept:monet", "concept:van_gogh"}
    assert weights(out) != weights(ready.pruned)
    unets.load_unet(out)
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [bool(row["upper"]) for row in rows] == [False, True, False, True]


def test_a_killed_run_goes_on_and_ends_bit_for_bit_as_one_that_was_not(tiny, tmp_path):
    values = VALUES | {"steps": 40, "batch": 2, "upper_every": 2, "upper_batch": 2}
    named = tiny.training("--concepts", *tiny.named())
    stage("bilevel", *named, "--out", tmp_path / "whole", "--state", tmp_path / "other", **values)
    # the order in which concepts are named must not matter
    words = tiny.training("--concepts", *reversed(tiny.named()), "--out", tmp_path / "killed")
    kill_after_first_checkpoint("bilevel", words, values, tmp_path / "state")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "state"}
    stage("bilevel", *words, "--state", tmp_path / "state", **values)
    assert alike(tmp_path / "whole", tmp_path / "killed")
    assert "finished" in finished_without_torch("bilevel", words, values)


def test_unknown_plugins_and_wrong_concepts_are_refused(tiny, other, tmp_path):
    words = tiny.training("--out", tmp_path / "out", "--state", tmp_path / "state")
    with pytest.raises(UserError, match="alternate"):
        stage("bilevel", *words, "--concepts", *tiny.named(), **VALUES | {"solver": "magic"})
    with pytest.raises(UserError, match="negative_guidance"):
        stage("bilevel", *words, "--concepts", *tiny.named(), **VALUES | {"suppression": "magic"})
    with pytest.raises(UserError, match="NAME=PATH"):
        stage("bilevel", *words, "--concepts", "monet", **VALUES)
    with pytest.raises(UserError, match="concept monet"):
        stage("bilevel", *words, "--concepts", f"monet={other.concepts['monet']}", **VALUES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"upper_every": 5}, "upper_every"),
        ({"solver": "penalty", "inner_steps": 5, **PENALTY}, "inner_steps"),
    ],
)
def test_a_run_that_would_forget_nothing_is_refused(tiny, tmp_path, values, key):
    words = tiny.training("--concepts", *tiny.named(), "--out", tmp_path / "out", "--state", tmp_path / "state")
    shared = {name: value for name, value in VALUES.items() if name != "upper_every"}
    with pytest.raises(UserError, match=rf"bilevel.{key}: 5 is more than distill.steps \(4\): no upper step"):
        stage("bilevel", *words, **shared | values)
    assert list(tmp_path.iterdir()) == []
