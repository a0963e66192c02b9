import copy
import csv
import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from lethe.files import tensors
from lethe.files.checkpoints import Checkpoints
from lethe.files.errors import UserError
from lethe.stage import stopping
from lethe.stage.record import Budget
from lethe.training import loop
from lethe.training.data import generator
from lethe.training.finetune import adamw, descend


def checkpoints(folder):
    return Checkpoints(folder, 0)


def regression(seed=0):
    """A linear model learning another: small, but with Adam's moments and draws of its own."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer, budget = adamw(model.parameters(), 0.05), Budget()

    def step(k):
        x = torch.randn((8, 3), generator=generator(0, "lower", k))
        loss = (model(x) - x[:, :2] * 2).square().mean()
        budget.student_forward += 8
        descend(loss, optimizer, 0.05)
        return {"loss": loss.detach()} | ({"upper": loss.detach()} if k % 3 == 2 else {})

    return loop.Training(step, {"student": model}, {"adam": optimizer}), {"total": budget}


def stop_at(training, last):
    def step(k):
        if k == last:
            raise KeyboardInterrupt
        return training.step(k)

    return loop.Training(step, training.modules, training.optimizers)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, ema):
    whole, budgets = regression()
    wanted = loop.run(whole, 130, loop.Keeping(tmp_path / "whole", "r", 1000), budgets, ema)

    keeping = loop.Keeping(tmp_path / "cut", "r", 0)
    first, counts = regression()
    with pytest.raises(KeyboardInterrupt):
        loop.run(stop_at(first, 45), 130, keeping, counts, ema)
    second, counts = regression(seed=5)  # other initial weights: all must come from the state
    found = loop.run(second, 130, keeping, counts, ema)

    one, other = (training.modules["student"].state_dict() for training in (whole, second))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert found.rows == wanted.rows
    assert counts == budgets == {"total": Budget(student_forward=130 * 8)}
    assert found.seconds > wanted.seconds == 0


def test_the_loop_learns_and_logs(tmp_path):
    training, budgets = regression()
    progress = loop.run(training, 130, loop.Keeping(tmp_path, "r", 0), budgets)
    rows = list(csv.DictReader(loop.log_text(progress.rows).splitlines()))
    assert (tmp_path / "log.csv").read_text() == loop.log_text(progress.rows)
    assert [int(row["step"]) for row in rows[:2]] == [2, 4]
    assert int(rows[-1]["step"]) == 130
    assert float(rows[-1]["loss"]) < 0.01 * float(rows[0]["loss"])
    assert rows[0]["upper"] == ""
    assert rows[1]["upper"] != ""


def test_averaged_weights(tmp_path):
    training, budgets = regression()
    seen = [copy.deepcopy(training.modules["student"].weight.detach())]

    def step(k):
        losses = training.step(k)
        seen.append(training.modules["student"].weight.detach().clone())
        return losses

    watched = loop.Training(step, training.modules, training.optimizers)
    loop.run(watched, 20, loop.Keeping(tmp_path, "r", 0), budgets, ema=0.5)
    average = seen[0]
    for k, weight in enumerate(seen[1:]):
        decay = min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(training.modules["student"].weight.detach(), average)


def test_a_loss_that_is_not_finite_is_named_by_its_step_and_never_saved(tmp_path):
    training, budgets = regression()

    def step(k):
        losses = training.step(k)
        if k == 17:
            with torch.no_grad():
                training.modules["student"].weight.fill_(float("nan"))
            return {"loss": torch.tensor(float("nan"))}
        return losses

    broken = loop.Training(step, training.modules, training.optimizers)
    with pytest.raises(UserError, match="step 18: the loss is not finite"):
        loop.run(broken, 600, loop.Keeping(tmp_path, "r", 0), budgets)  # logs every 10, saves every step
    newest = checkpoints(tmp_path).newest()
    state = tensors.load(newest)
    assert json.loads(tensors.metadata(newest)["progress"])["step"] == 17
    assert all(value.isfinite().all() for value in state.values())
    assert "nan" not in (tmp_path / "log.csv").read_text()


def test_weights_that_are_not_finite_are_found_though_the_loss_is(tmp_path):
    training, budgets = regression()

    def step(k):
        with torch.no_grad():
            training.modules["student"].bias.fill_(float("inf"))
        return {"loss": torch.zeros(())}

    with pytest.raises(UserError, match="a weight is not finite"):
        loop.run(loop.Training(step, training.modules, {}), 3, loop.Keeping(tmp_path, "r", 0), budgets)


def test_a_state_of_another_run_or_no_state_at_all(tmp_path):
    training, budgets = regression()
    keeping = loop.Keeping(tmp_path, "mine", 0)
    with pytest.raises(KeyboardInterrupt):
        loop.run(stop_at(training, 3), 10, keeping, budgets)
    with pytest.raises(UserError, match="state of recipe mine"):
        loop.run(training, 10, loop.Keeping(tmp_path, "other", 0), budgets)
    larger = nn.Linear(4, 4)
    other = loop.Training(training.step, {"student": larger}, {"adam": adamw(larger.parameters(), 0.1)})
    with pytest.raises(UserError, match=r"step-0000003-.*not a state of this run .*delete"):
        loop.run(other, 10, keeping, budgets)
    loop.forget(keeping)
    assert not tmp_path.exists()


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_steps_but_changes_nothing(tmp_path, capsys, damaged):
    """The run goes on from the one before, or from the start, and ends in the same weights."""
    whole, budgets = regression()
    wanted = loop.run(whole, 30, loop.Keeping(tmp_path / "whole", "r", 1000), budgets)
    first, counts = regression()
    with pytest.raises(KeyboardInterrupt):
        loop.run(stop_at(first, 20), 30, loop.Keeping(tmp_path / "cut", "r", 0), counts)
    for _, path in checkpoints(tmp_path / "cut").found()[:damaged]:
        path.write_bytes(path.read_bytes()[:-1])
    second, counts = regression()
    found = loop.run(second, 30, loop.Keeping(tmp_path / "cut", "r", 1000), counts)
    said = capsys.readouterr().out
    assert said.count("is not what was saved") == damaged
    assert ("going on from step 19" in said) == (damaged == 1)
    one, other = (training.modules["student"].state_dict() for training in (whole, second))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert found.rows == wanted.rows and counts == budgets


def test_sigterm_saves_the_step_and_ends(tmp_path, capsys):
    whole, budgets = regression()
    loop.run(whole, 30, loop.Keeping(tmp_path / "whole", "r", 1000), budgets)
    first, counts = regression()

    def step(k):
        if k == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return first.step(k)

    before = signal.getsignal(signal.SIGTERM)
    stopping.install()
    try:
        with pytest.raises(SystemExit) as end:
            keeping = loop.Keeping(tmp_path / "cut", "r", 1000)
            loop.run(loop.Training(step, first.modules, first.optimizers), 30, keeping, counts)
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping.forget()
    assert end.value.code == 143
    assert f"stopped by SIGTERM at step 13 of 30, state saved in {tmp_path / 'cut'}" in capsys.readouterr().err
    second, counts = regression(seed=5)
    loop.run(second, 30, keeping, counts)
    one, other = (training.modules["student"].state_dict() for training in (whole, second))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_checkpoints_cost_little_of_the_time(tmp_path):
    """However short the time between two, where one costs more than 2 % of it they lie further apart."""
    training, budgets = regression()
    saves = []
    kept = tensors.save

    def slow(*given):
        saves.append(time.monotonic())
        time.sleep(0.02)
        kept(*given)

    def step(k):
        time.sleep(0.002)
        return training.step(k)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(tensors, "save", slow)
        started = time.monotonic()
        slowed = loop.Training(step, training.modules, training.optimizers)
        loop.run(slowed, 1200, loop.Keeping(tmp_path, "r", 0.01), budgets)
        spent = time.monotonic() - started
    assert saves
    assert 0.02 * (len(saves) - 1) <= 0.025 * spent
