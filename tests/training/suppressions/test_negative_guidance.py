import pytest
import torch

from lethe.stage.record import Budget
from lethe.training import finetune
from lethe.training.suppressions import negative_guidance
from tests.tiny_training import pair
from tests.training.suppressions.anchored import anchored


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    teacher, student, schedule = pair(request.getfixturevalue(request.param))
    batch = finetune.draw([anchored(teacher)], [3], schedule, finetune.generator(0, "upper", 0))
    return teacher, student, batch


def two_forwards(teacher, batch, away_from):
    origin = batch.anchor if away_from == "anchor" else batch.null.expand_as(batch.text)
    with torch.no_grad():
        return [teacher(batch.noisy, batch.t, text).sample for text in (origin, batch.text)]


@pytest.mark.parametrize("away_from", ["empty", "anchor"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_one_forward_equals_two(setting, eta, away_from):
    teacher, _, batch = setting
    origin, text = two_forwards(teacher, batch, away_from)
    budget = Budget()
    found = negative_guidance.target(teacher, batch, {"eta": eta, "away_from": away_from}, budget)
    torch.testing.assert_close(found, origin - eta * (text - origin), atol=1e-5, rtol=1e-4)
    assert budget == Budget(teacher_forward=6)


@pytest.mark.parametrize("away_from", ["empty", "anchor"])
def test_at_eta_one_the_target_is_twice_the_origin_less_the_text(setting, away_from):
    teacher, student, batch = setting
    origin, text = two_forwards(teacher, batch, away_from)
    with torch.no_grad():
        own = student(batch.noisy, batch.t, batch.text).sample
    budget = Budget()
    found = negative_guidance.loss(student, teacher, batch, {"eta": 1.0, "away_from": away_from}, budget)
    assert found.item() == pytest.approx((own - (2 * origin - text)).square().mean().item(), rel=1e-4)
    assert budget == Budget(student_forward=3, student_backward=3, teacher_forward=6)
    found.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_only_the_anchor_as_origin_needs_anchors():
    assert negative_guidance.needs({"away_from": "empty"}) == []
    assert negative_guidance.needs({"away_from": "anchor"}) == ["anchor"]
