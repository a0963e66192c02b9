"""The penalty method against its formulas, and against the solver that it must equal when its copies do not meet."""

import copy

import pytest
import torch
from torch import nn

from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training import loop
from lethe.training.solvers import alternate, penalty, weighted_sum
from tests.tiny_training import OPTIONS, UPPER, same

OWN = {
    "lambda": 3.0,
    "inner_steps": 4,
    "coupling": "none",
    "pull": 0.5,
    "lambda_growth": 1.0,
    "lambda_most": 1000.0,
    "gap_tolerance": 0.0,
    "second_copy": "device",
}


def options(**own) -> dict:
    return OPTIONS | UPPER | OWN | own


def levels(batch=lambda k: k):
    """Two noisy quadratics with minima at 0 and 5; `batch` maps a lower number to that of its draw."""

    def quadratic(model, stream, number, centre):
        draws = torch.Generator().manual_seed(1000 * stream + number)
        rows = torch.randn((6, 3), generator=draws)
        return (model(rows) - rows.sum(1, keepdim=True) * centre).square().mean()

    def lower(model, k):
        value = quadratic(model, 0, batch(k), 0.0)
        return value, {"loss": value, "diff": value}

    def upper(model, k):
        value = quadratic(model, 1, k, 5.0)
        return value, {"upper": value}

    return lower, upper


def student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(3, 1)


def walk(solver, values, steps, batch=lambda k: k) -> tuple[nn.Module, list[dict], loop.Training]:
    model = student()
    training = solver.solve(model, *levels(batch), values)
    return model, [training.step(k) for k in range(steps)], training


def test_without_coupling_theta_walks_as_under_the_weighted_sum():
    found, terms, _ = walk(penalty, options(), 20, batch=lambda k: k // 4)
    wanted, other, _ = walk(weighted_sum, options(), 5)
    assert torch.equal(found.weight, wanted.weight) and torch.equal(found.bias, wanted.bias)
    for mine, theirs in zip(terms[3::4], other, strict=True):
        assert mine["cosine"].item() == theirs["cosine"].item()
    moved = [not torch.equal(found.weight, student().weight), not torch.equal(found.bias, student().bias)]
    assert all(moved)


def test_the_weighted_sum_steps_along_the_gradient_of_the_weighted_losses():
    found, _, _ = walk(weighted_sum, options(), 1)
    model = student()
    lower, upper = levels()
    total = (upper(model, 0)[0] + 3.0 * lower(model, 0)[0]) / 4.0
    total.backward()
    rate = UPPER["upper_lr"] / UPPER["upper_warmup"]  # the first step of the warm-up
    torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0).step()
    torch.testing.assert_close(found.weight, model.weight)


def test_the_second_copy_is_plain_fine_tuning():
    _, _, training = walk(penalty, options(), 9)
    model = student()
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIONS["lr"], weight_decay=0.0)
    for k in range(9):
        loss, _ = levels()[0](model, k)
        loss.backward()
        optimizer.param_groups[0]["lr"] = OPTIONS["lr"] * min(1.0, (k + 1) / OPTIONS["warmup"])
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(training.modules["vartheta"].weight, model.weight)


def test_the_gap_is_that_of_both_copies_on_one_batch():
    model = student()
    lower, upper = levels()
    training = penalty.solve(model, lower, upper, options())
    for k in range(7):
        training.step(k)
    before = copy.deepcopy(training.modules["vartheta"])
    terms = training.step(7)
    wanted = lower(model, 7)[0] - lower(training.modules["vartheta"], 7)[0]
    assert terms["gap"].item() == pytest.approx(wanted.item())
    assert terms["loss"].item() == lower(before, 7)[0].item()


def test_under_reset_the_gap_is_what_the_outer_step_cost():
    def lower(model, k):
        return (value := model.weight.square().sum()), {"loss": value}

    def upper(model, k):
        return (value := (model.weight - 5).square().sum()), {"upper": value}

    model = student()
    nn.init.ones_(model.weight)
    training = penalty.solve(model, lower, upper, options(**{"lambda": 0.0}, coupling="reset", upper_lr=0.1))
    for k in range(8):
        terms = training.step(k)
    assert terms["gap"].item() > 0.01 and same(model, training.modules["vartheta"])


def test_lambda_rises_with_the_gap_and_falls_back_to_its_first_value():
    values = options(lambda_growth=2.0, gap_tolerance=1e9)
    assert {term["multiplier"].item() for term in walk(penalty, values, 12)[1] if "multiplier" in term} == {3.0}
    values = options(lambda_growth=2.0, gap_tolerance=-1e9)
    found = [term["multiplier"].item() for term in walk(penalty, values, 12)[1] if "multiplier" in term]
    assert found == [3.0, 6.0, 12.0]
    values |= {"lambda_most": 7.0}
    assert [term["multiplier"].item() for term in walk(penalty, values, 12)[1] if "multiplier" in term] == [
        3.0,
        6.0,
        7.0,
    ]
    with pytest.raises(UserError, match=r"bilevel\.lambda: 0\.0 cannot grow"):
        walk(penalty, values | {"lambda": 0.0}, 1)


def test_reset_at_lambda_zero_alternates_as_the_release_does():
    """Both copies are one then: K healing steps, one suppression step; each level keeps its moments."""
    found, _, _ = walk(penalty, options(**{"lambda": 0.0, "coupling": "reset"}), 12)
    wanted, _, _ = walk(alternate, options(upper_every=4), 12)
    torch.testing.assert_close(found.weight, wanted.weight)


def test_interpolation_goes_its_part_of_the_way():
    found, _, _ = walk(penalty, options(coupling="interpolate", pull=0.25, upper_lr=1e-12), 4)
    _, _, training = walk(penalty, options(), 4)
    start, end = student().weight, training.modules["vartheta"].weight
    torch.testing.assert_close(found.weight, start + 0.25 * (end - start))


@pytest.mark.parametrize("coupling", ["none", "reset", "interpolate"])
def test_where_the_second_copy_is_kept_changes_no_bit(coupling):
    here, there = (walk(penalty, options(coupling=coupling, second_copy=place), 12) for place in ("device", "cpu"))
    assert torch.equal(here[0].weight, there[0].weight)
    assert all(parameter.device.type == "cpu" for parameter in there[2].modules["vartheta"].parameters())


@pytest.mark.parametrize("solver", [penalty, weighted_sum, alternate])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, solver):
    values = options(coupling="interpolate", lambda_growth=1.5)
    whole = solver.solve(student(), *levels(), values)
    wanted = loop.run(whole, 21, loop.Keeping(tmp_path / "whole", "r", 1000), {"total": Budget()})
    first, keeping = solver.solve(student(), *levels(), values), loop.Keeping(tmp_path / "cut", "r", 0)

    def stop(k):
        if k == 13:
            raise KeyboardInterrupt
        return first.step(k)

    with pytest.raises(KeyboardInterrupt):
        loop.run(loop.Training(stop, first.modules, first.optimizers), 21, keeping, {"total": Budget()})
    second = solver.solve(student(), *levels(), values)
    found = loop.run(second, 21, keeping, {"total": Budget()})
    assert found.rows == wanted.rows
    for name in whole.modules:
        one, other = (training.modules[name].state_dict() for training in (whole, second))
        assert all(torch.equal(one[key], other[key]) for key in one)
