"""redirect and concept_ablation: the concept is answered as its anchor is, by the teacher or by the student itself."""

import pytest
import torch

from lethe.stage.record import Budget
from lethe.training import finetune
from lethe.training.suppressions import concept_ablation, redirect
from tests.tiny_training import pair
from tests.training.suppressions.anchored import anchored


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    teacher, student, schedule = pair(request.getfixturevalue(request.param))
    batch = finetune.draw([anchored(teacher)], [3], schedule, finetune.generator(0, "upper", 0))
    return teacher, student, batch


def test_redirect_is_the_mean_square_to_the_teachers_answer_without_the_concept(setting):
    teacher, student, batch = setting
    with torch.no_grad():
        own = student(batch.noisy, batch.t, batch.text).sample
        wanted = teacher(batch.noisy, batch.t, batch.anchor).sample
    budget = Budget()
    found = redirect.loss(student, teacher, batch, {}, budget)
    assert found.item() == pytest.approx((own - wanted).square().mean().item(), rel=1e-4)
    assert budget == Budget(student_forward=3, student_backward=3, teacher_forward=3)
    found.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_ablation_compares_the_student_with_itself_and_stops_the_gradient_at_the_anchor(setting):
    teacher, student, batch = setting
    budget = Budget()
    found = concept_ablation.loss(student, teacher, batch, {}, budget)
    assert budget == Budget(student_forward=6, student_backward=3, teacher_forward=0)
    found.backward()
    gradients = [p.grad.clone() for p in student.parameters()]
    assert all(p.grad is None for p in teacher.parameters())

    with torch.no_grad():
        wanted = student(batch.noisy, batch.t, batch.anchor).sample
    student.zero_grad()
    direct = (student(batch.noisy, batch.t, batch.text).sample - wanted).square().mean()
    direct.backward()
    assert found.item() == pytest.approx(direct.item(), rel=1e-5) and found.item() > 0
    for gradient, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


def test_ablation_has_gradients_under_autocast(setting):
    teacher, student, batch = setting
    with finetune.precision("bfloat16", torch.device("cpu")):
        found = concept_ablation.loss(student, teacher, batch, {}, Budget())
    found.backward()
    assert found.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
