import pytest
import torch
from torch import nn

from lethe.training.solvers import alternate
from tests.tiny_training import OPTIONS, UPPER


def losses(calls, scale=1.0):
    """Lower pulls the weight to 0, upper to 5; both note their calls."""

    def lower(model, k):
        calls.append(("lower", k))
        value = model.weight.square().sum()
        return value, {"loss": value}

    def upper(model, k):
        calls.append(("upper", k))
        value = scale * (model.weight - 5).square().sum()
        return value, {"upper": value}

    return lower, upper


def student():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


def test_an_upper_step_after_every_nth_lower_step():
    calls = []
    training = alternate.solve(student(), *losses(calls), OPTIONS | UPPER | {"upper_every": 3})
    terms = [training.step(k) for k in range(7)]
    lower = [("lower", k) for k in range(7)]
    assert calls == [*lower[:3], ("upper", 0), *lower[3:6], ("upper", 1), *lower[6:]]
    assert ["upper" in found for found in terms] == [False, False, True, False, False, True, False]
    assert not any(value.requires_grad for found in terms for value in found.values())


def test_each_level_has_its_own_moments_and_warm_up():
    model = student()
    training = alternate.solve(model, *losses([]), OPTIONS | UPPER | {"warmup": 100, "upper_warmup": 4})
    for k in range(6):
        training.step(k)
    low, up = (training.optimizers[name].state[model.weight] for name in ("lower", "upper"))
    assert (low["step"].item(), up["step"].item()) == (6, 3)
    assert low["exp_avg"].item() > 0 > up["exp_avg"].item()
    rates = [training.optimizers[name].param_groups[0]["lr"] for name in ("lower", "upper")]
    assert rates == pytest.approx([1e-3 * 6 / 100, 1e-3 * 3 / 4])


def test_the_scale_of_the_upper_loss_does_not_matter():
    found = []
    for scale in (1.0, 1000.0):
        model = student()
        training = alternate.solve(model, *losses([], scale), OPTIONS | UPPER)
        for k in range(10):
            training.step(k)
        found.append(model.weight.detach())
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_the_log_tells_angle_and_displacement():
    model = student()
    training = alternate.solve(model, *losses([]), OPTIONS | UPPER | {"upper_every": 2, "lr": 1e-3, "upper_lr": 2e-3})
    assert "cosine" not in training.step(0)
    terms = training.step(1)  # warmed up: AdamW's first steps are as long as the learning rate
    assert terms["cosine"].item() == pytest.approx(-1)  # one pulls down, the other up
    assert terms["displacement"].item() == pytest.approx(0.5 * 2e-3 / 1e-3, rel=1e-3)  # upper step 1 of a warm-up of 2
