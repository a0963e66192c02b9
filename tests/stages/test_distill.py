import csv
import re

import pytest

from lethe.files.errors import UserError
from lethe.files.io import read_meta
from lethe.models import unets
from lethe.training import losses
from tests.stages.running import alike, finished_without_torch, kill_after_first_checkpoint, stage, weights
from tests.tiny_training import OPTIONS


def test_trains_the_pruned_unet_and_says_what_it_cost(ready, tmp_path):
    values = OPTIONS | {"ema": 0.9, "caption_dropout": 0.5, "clip_norm": 1.0}
    out = tmp_path / "out"
    stage("distill", *ready.training("--out", out, "--state", tmp_path / "state"), **values)
    meta = read_meta(out)
    assert meta["budget"] == {"student_forward": 16, "student_backward": 16, "teacher_forward": 16}
    assert set(meta["parents"]) == {"base", "pruned", "data"}
    assert meta["options"] == {"seed": 0, **values}
    assert weights(out) != weights(ready.pruned)
    assert unets.read_pruning(out) == unets.read_pruning(ready.pruned)
    unets.load_unet(out)
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == ["step", "loss", "diff", "out", "feat", "passes"]
    assert [int(row["passes"]) for row in rows] == [12, 24, 36, 48]
    assert not (tmp_path / "state").exists()


def test_a_killed_run_goes_on_and_ends_bit_for_bit_as_one_that_was_not(tiny, tmp_path):
    values = OPTIONS | {"steps": 40, "ema": 0.99, "batch": 2}
    stage("distill", *tiny.training("--out", tmp_path / "whole", "--state", tmp_path / "other"), **values)
    words = tiny.training("--out", tmp_path / "killed")
    kill_after_first_checkpoint("distill", words, values, tmp_path / "state")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "state"}  # no result, nor a part of one
    stage("distill", *words, "--state", tmp_path / "state", **values)
    assert alike(tmp_path / "whole", tmp_path / "killed")
    assert "finished" in finished_without_torch("distill", words, values)


def test_another_teacher_is_learnt_from(tiny, tmp_path):
    """Under its own weights as the teacher, and with distillation alone, there is nothing to learn."""
    values = OPTIONS | {"w_diff": 0.0, "steps": 1}
    words = [*tiny.training("--out", tmp_path / "own"), "--teacher", tiny.pruned, "--state", tmp_path / "state"]
    stage("distill", *words, **values)
    assert set(read_meta(tmp_path / "own")["parents"]) == {"base", "pruned", "data", "teacher"}
    (row,) = csv.DictReader((tmp_path / "own/log.csv").open())
    assert float(row["loss"]) == 0.0


@pytest.mark.parametrize("pruner", ["bk_small", "bk_tiny"])
def test_a_net_without_some_blocks_is_healed_by_the_features_that_are_left(other, tmp_path, pruner):
    words = ["--base", other.base, "--out", tmp_path / "pruned", "--keep-least", 0.2, "--tolerance", 0.01]
    with pytest.raises(UserError, match="leave") as refused:
        stage("prune", *words, "--budget", 0.99, "--pruner", pruner)
    left = float(re.search(r"0\.\d+ of the MACs|0\.\d{3,}", str(refused.value)).group().split()[0])
    stage("prune", *words, "--budget", left, "--pruner", pruner)
    given = ["--base", other.base, "--pruned", tmp_path / "pruned", "--data", other.data, "--seed", 0]
    values = OPTIONS | {"w_diff": 0.0, "w_out": 0.0, "w_feat": 1.0, "steps": 1}
    stage("distill", *given, "--out", tmp_path / "out", "--state", tmp_path / "state", **values)
    (row,) = csv.DictReader((tmp_path / "out/log.csv").open())
    assert float(row["feat"]) > 0
    assert weights(tmp_path / "out") != weights(tmp_path / "pruned")


def test_a_loss_that_is_not_finite_leaves_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "diffusion", lambda answer, target, weight: answer.mean() * float("nan"))
    with pytest.raises(UserError, match="step 1: the loss is not finite"):
        stage("distill", *tiny.training("--out", tmp_path / "r" / "out", "--state", tmp_path / "state"), **OPTIONS)
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"w_diff": 0.0, "w_out": 0.0, "w_feat": 0.0}, "all 0"),
        ({"lr": "1e-4x"}, "distill.lr"),
        ({"min_snr_v": "paper"}, "legacy"),
    ],
)
def test_wrong_values_are_refused(tiny, tmp_path, values, words):
    with pytest.raises(UserError, match=words):
        stage("distill", *tiny.training("--out", tmp_path / "out"), **OPTIONS | values)


def test_wrong_folders_are_refused(tiny, other, tmp_path):
    words = ["--base", tiny.base, "--seed", 0, "--out", tmp_path / "out", "--state", tmp_path / "state"]
    with pytest.raises(UserError, match="no finished result"):
        stage("distill", *words, "--pruned", tmp_path, "--data", tiny.data, **OPTIONS)
    with pytest.raises(UserError, match="captions are 24 wide, the U-Net takes 16"):
        stage("distill", *words, "--pruned", tiny.pruned, "--data", other.data, **OPTIONS)
    with pytest.raises(UserError, match="a result of stage prune, and encoded pictures are wanted"):
        stage("distill", *words, "--pruned", tiny.pruned, "--data", tiny.pruned, **OPTIONS)
    assert list(tmp_path.iterdir()) == []
