"""Our solver: a step of each level, and no part of the upper one that climbs the lower loss's mean gradient."""

import copy

import pytest
import torch
from torch import nn

from lethe import loop
from lethe.record import Budget
from lethe.solvers import alternate, simultaneous
from tests.solvers.test_penalty import levels, student
from tests.tiny_training import OPTIONS, UPPER, same


def test_a_step_uphill_loses_that_part_and_any_other_stays():
    before = [torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2)]
    steps = [[1.0, 1.0], [-1.0, 1.0], [3.0, 0.0], [1.0, 2.0]]
    parameters = [nn.Parameter(torch.tensor(step)) for step in steps]
    uphill = [torch.tensor([2.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), torch.zeros(2)]
    simultaneous.project(parameters, before, uphill)
    assert [p.tolist() for p in parameters] == [[0.0, 1.0], [-1.0, 1.0], [1.5, -1.5], [1.0, 2.0]]


def test_no_upper_step_climbs_the_mean_gradient_of_the_lower_level():
    model = student()
    training = simultaneous.solve(model, *levels(), OPTIONS | UPPER | {"upper_lr": 0.05})
    lower_step, state = alternate.solve(student(), *levels(), OPTIONS | UPPER | {"upper_every": 10**6}), None
    climbed = 0
    for k in range(30):
        lower_step.modules["student"].load_state_dict(model.state_dict())
        if state is not None:
            lower_step.optimizers["lower"].load_state_dict(state)
        lower_step.step(k)  # where the lower step alone ends
        training.step(k)
        state = copy.deepcopy(training.optimizers["lower"].state_dict())
        for parameter, middle in zip(model.parameters(), lower_step.modules["student"].parameters(), strict=True):
            up = training.optimizers["lower"].state[parameter]["exp_avg"]
            moved = (parameter - middle).detach()
            assert (moved * up).sum() <= 1e-5 * moved.norm() * up.norm()
            climbed += torch.isclose((moved * up).sum(), torch.tensor(0.0), atol=1e-8).item()
    assert climbed  # the levels pull apart here, so something was taken out


def test_where_the_levels_agree_it_is_alternating_at_every_step():
    def both(model, k):
        value = levels()[0](model, k)[0]
        return value, {"loss": value}

    found, wanted = student(), student()
    ours = simultaneous.solve(found, both, both, OPTIONS | UPPER | {"warmup": 1, "upper_warmup": 1})
    theirs = alternate.solve(wanted, both, both, OPTIONS | UPPER | {"warmup": 1, "upper_warmup": 1, "upper_every": 1})
    for k in range(5):
        terms = ours.step(k)
        theirs.step(k)
    assert same(found, wanted)
    assert terms["cosine"].item() == pytest.approx(1, abs=0.05)


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path):
    values = OPTIONS | UPPER
    whole = simultaneous.solve(student(), *levels(), values)
    wanted = loop.run(whole, 21, loop.Keeping(tmp_path / "whole", "r", 1000), {"total": Budget()})
    first, keeping = simultaneous.solve(student(), *levels(), values), loop.Keeping(tmp_path / "cut", "r", 0)

    def stop(k):
        if k == 13:
            raise KeyboardInterrupt
        return first.step(k)

    with pytest.raises(KeyboardInterrupt):
        loop.run(loop.Training(stop, first.modules, first.optimizers), 21, keeping, {"total": Budget()})
    second = simultaneous.solve(student(), *levels(), values)
    found = loop.run(second, 21, keeping, {"total": Budget()})
    assert found.rows == wanted.rows
    assert same(whole.modules["student"], second.modules["student"])
