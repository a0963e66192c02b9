import copy
import csv
import json

import pytest
import torch
from torch import nn

from lethe import loop, tensors
from lethe.data import generator
from lethe.errors import UserError
from lethe.finetune import adamw, descend
from lethe.record import Budget


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

    keeping = loop.Keeping(tmp_path / "cut", "r", 7)
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
    progress = loop.run(training, 130, loop.Keeping(tmp_path, "r", 50), budgets)
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
    loop.run(watched, 20, loop.Keeping(tmp_path, "r", 50), budgets, ema=0.5)
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
        loop.run(broken, 600, loop.Keeping(tmp_path, "r", 5), budgets)  # logs every 10, saves every 5
    state = tensors.load(tmp_path / "state.safetensors")
    assert json.loads(tensors.metadata(tmp_path / "state.safetensors")["progress"])["step"] == 15
    assert all(value.isfinite().all() for value in state.values())
    assert "nan" not in (tmp_path / "log.csv").read_text()


def test_weights_that_are_not_finite_are_found_though_the_loss_is(tmp_path):
    training, budgets = regression()

    def step(k):
        with torch.no_grad():
            training.modules["student"].bias.fill_(float("inf"))
        return {"loss": torch.zeros(())}

    with pytest.raises(UserError, match="a weight is not finite"):
        loop.run(loop.Training(step, training.modules, {}), 3, loop.Keeping(tmp_path, "r", 5), budgets)


def test_a_state_of_another_run_or_no_state_at_all(tmp_path):
    training, budgets = regression()
    keeping = loop.Keeping(tmp_path, "mine", 2)
    with pytest.raises(KeyboardInterrupt):
        loop.run(stop_at(training, 3), 10, keeping, budgets)
    with pytest.raises(UserError, match="state of recipe mine"):
        loop.run(training, 10, loop.Keeping(tmp_path, "other", 2), budgets)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"state\.safetensors.*delete"):
        loop.run(training, 10, keeping, budgets)
    loop.forget(keeping)
    assert not tmp_path.exists()
