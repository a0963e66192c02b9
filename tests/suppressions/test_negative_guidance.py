import pytest
import torch

from lethe import finetune
from lethe.record import Budget
from lethe.suppressions import negative_guidance
from tests.tiny_training import encoded, pair


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    teacher, student, schedule = pair(request.getfixturevalue(request.param))
    batch = finetune.draw([encoded(teacher)], [3], schedule, finetune.generator(0, "upper", 0))
    return teacher, student, batch


def two_forwards(teacher, batch):
    with torch.no_grad():
        null = teacher(batch.noisy, batch.t, batch.null.expand_as(batch.text)).sample
        return null, teacher(batch.noisy, batch.t, batch.text).sample


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_one_forward_equals_two(setting, eta):
    teacher, _, batch = setting
    null, text = two_forwards(teacher, batch)
    budget = Budget()
    found = negative_guidance.target(teacher, batch, eta, budget)
    torch.testing.assert_close(found, null - eta * (text - null), atol=1e-5, rtol=1e-4)
    assert budget == Budget(teacher_forward=6)


def test_at_eta_one_the_target_is_twice_the_null_less_the_text(setting):
    teacher, student, batch = setting
    null, text = two_forwards(teacher, batch)
    with torch.no_grad():
        own = student(batch.noisy, batch.t, batch.text).sample
    budget = Budget()
    found = negative_guidance.loss(student, teacher, batch, 1.0, budget)
    assert found.item() == pytest.approx((own - (2 * null - text)).square().mean().item(), rel=1e-4)
    assert budget == Budget(student_forward=3, student_backward=3, teacher_forward=6)
    found.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
