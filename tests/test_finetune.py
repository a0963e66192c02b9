import copy

import pytest
import torch

from lethe import finetune
from lethe.record import Budget
from tests.tiny_training import OPTIONS, encoded, pair, same


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    teacher, student, schedule = pair(request.getfixturevalue(request.param))
    return teacher, student, schedule, encoded(teacher)


def test_terms_add_up_and_a_student_like_its_teacher_has_nothing_to_distill(setting):
    teacher, student, schedule, data = setting
    loss = finetune.lower(teacher, data, schedule, OPTIONS, 0, Budget())
    total, terms = loss(student, 0)
    assert total.item() == pytest.approx((terms["diff"] + 2 * terms["out"] + 0.1 * terms["feat"]).item())
    _, terms = loss(copy.deepcopy(teacher), 0)
    assert terms["out"].item() == pytest.approx(0, abs=1e-9)
    assert terms["feat"].item() == pytest.approx(0, abs=1e-9)
    assert terms["diff"].item() > 0


def test_output_distillation_is_the_mean_square_on_the_same_batch(setting):
    teacher, student, schedule, data = setting
    options = OPTIONS | {"w_diff": 0.0, "w_feat": 0.0}
    total, terms = finetune.lower(teacher, data, schedule, options, 5, Budget())(student, 7)
    batch = finetune.draw([data], [4], schedule, finetune.generator(5, "lower", 7))
    with torch.no_grad():
        theirs = teacher(batch.noisy, batch.t, batch.text).sample
        own = student(batch.noisy, batch.t, batch.text).sample
    assert total.item() == pytest.approx(2 * (own - theirs).square().mean().item(), rel=1e-5)
    assert set(terms) == {"loss", "out"}


def test_features_of_every_block_and_no_hook_is_left(setting):
    teacher, _, schedule, data = setting
    batch = finetune.draw([data], [2], schedule, finetune.generator(0, "lower", 0))
    with finetune.features(teacher, True) as found:
        finetune.ask(teacher, batch.noisy, batch.t, batch.text, Budget())
    blocks = len(teacher.down_blocks) + len(teacher.up_blocks) + 1
    assert len(found) == blocks
    assert all(isinstance(value, torch.Tensor) and value.dim() == 4 for value in found.values())
    assert not any(module._forward_hooks for module in teacher.modules())
    with finetune.features(teacher, False) as found:
        finetune.ask(teacher, batch.noisy, batch.t, batch.text, Budget())
    assert found == {}


def test_no_teacher_forward_without_distillation(setting):
    teacher, student, schedule, data = setting
    budget = Budget()
    loss = finetune.lower(teacher, data, schedule, OPTIONS | {"w_out": 0.0, "w_feat": 0.0}, 0, budget)
    loss(student, 0)
    assert budget == Budget(student_forward=4, student_backward=4, teacher_forward=0)
    with torch.no_grad():
        loss(student, 1)
    assert budget == Budget(student_forward=8, student_backward=4, teacher_forward=0)


def test_distillation_overfits(setting):
    teacher, student, schedule, data = setting
    before, budget = copy.deepcopy(teacher), Budget()
    options = OPTIONS | {"w_diff": 0.0, "lr": 2.0e-4}
    loss = finetune.lower(teacher, data, schedule, options, 0, budget)
    training = finetune.solve(student, loss, options)
    first = training.step(0)["out"].item()
    for k in range(1, 20):
        training.step(k)
    assert budget == Budget(student_forward=80, student_backward=80, teacher_forward=80)
    assert loss(student, 0)[1]["out"].item() < 0.7 * first  # on the batch, noise and timesteps of the first step
    assert same(teacher, before)


def test_bfloat16_keeps_weights_and_losses_in_float32(setting):
    teacher, student, schedule, data = setting
    loss = finetune.lower(teacher, data, schedule, OPTIONS, 0, Budget())
    _, exact = loss(student, 0)
    half = copy.deepcopy(teacher).to(torch.bfloat16)
    options = OPTIONS | {"precision": "bfloat16"}
    total, rough = finetune.lower(half, data, schedule, options, 0, Budget())(student, 0)
    total.backward()
    assert total.dtype == torch.float32
    assert {p.grad.dtype for p in student.parameters()} == {torch.float32}
    assert rough["diff"].item() == pytest.approx(exact["diff"].item(), rel=0.05)
    assert rough["out"].item() == pytest.approx(exact["out"].item(), rel=0.2)


def test_warm_up_is_linear_then_constant():
    rates = [finetune.warm(1.0, 4, k) for k in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert finetune.warm(1.0, 0, 0) == 1.0


def test_clipping_bounds_the_gradient():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    finetune.descend((parameter * torch.tensor([3.0, 4.0, 0.0])).sum(), optimizer, 1.0, clip_norm=1.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.6, -0.8, 0.0]))


def test_upper_batches_share_the_concepts_equally(setting):
    teacher, student, schedule, _ = setting
    concepts = [encoded(teacher, rows=1, seed=seed) for seed in range(3)]
    seen = []

    def suppression(_student, _teacher, batch, _eta, _budget):
        seen.extend(
            int((batch.text[i] == c.embeddings[0].float()).all()) * n for i in range(4) for n, c in enumerate(concepts)
        )
        return batch.noisy.mean()

    upper = finetune.upper(
        teacher, concepts, suppression, schedule, OPTIONS | {"upper_batch": 4, "eta": 1.0}, 0, Budget()
    )
    for k in range(3):
        upper(student, k)
    assert [seen.count(n) for n in (1, 2)] == [4, 4]  # twelve pictures in three steps, four of each concept
