import dataclasses

import pytest
import torch

from lethe.models import attention
from lethe.stage.record import Budget
from lethe.training import finetune
from lethe.training.suppressions import attention_forgetting
from tests.tiny_training import pair
from tests.training.suppressions.anchored import anchored

MEAN = {"end_token": False, "padding": False, "norm": "mean"}


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    teacher, student, schedule = pair(request.getfixturevalue(request.param))
    batch = finetune.draw([anchored(teacher)], [3], schedule, finetune.generator(0, "upper", 0))
    return teacher, student, batch


@pytest.mark.parametrize("end_token", [False, True])
def test_the_mean_of_squared_probabilities_at_the_concepts_tokens(setting, end_token):
    teacher, student, batch = setting
    wanted = []

    def keep(module, inputs, keywords, _output):
        """softmax(Q K^T / sqrt(d)) from the layer's weights, at the concept's tokens, query by query."""
        x, text = inputs[0], keywords["encoder_hidden_states"]
        for picture in range(3):
            columns = batch.mask[picture].nonzero()[:, 0].tolist() + ([5] if end_token else [])
            query = module.to_q(x[picture]).chunk(module.heads, -1)
            key = module.to_k(text[picture]).chunk(module.heads, -1)
            for q, k in zip(query, key, strict=True):
                maps = (q @ k.T / q.shape[-1] ** 0.5).softmax(-1)[:, columns]
                wanted[-1].append(maps.square().sum(1).mean().item())

    layers = attention.cross_attentions(student)
    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_pre_hook(lambda *_: wanted.append([])) for layer in layers]
    with torch.no_grad():
        student(batch.noisy, batch.t, batch.text)
    for handle in handles:
        handle.remove()
    budget = Budget()
    found = attention_forgetting.loss(student, teacher, batch, MEAN | {"end_token": end_token}, budget)
    assert len(wanted) == len(layers)
    each = [sum(layer) / len(layer) for layer in wanted]
    assert found.item() == pytest.approx(sum(each) / len(each), rel=1e-4)
    assert found.dtype == torch.float32
    assert budget == Budget(student_forward=3, student_backward=3, teacher_forward=0)


def test_gradients_reach_keys_and_queries_of_the_student_alone_and_lower_the_loss(setting):
    teacher, student, batch = setting
    options, budget = MEAN, Budget()
    before = attention_forgetting.loss(student, teacher, batch, options, budget)
    before.backward()
    for layer in attention.cross_attentions(student):
        assert layer.to_k.weight.grad.abs().sum() > 0 and layer.to_q.weight.grad.abs().sum() > 0
    assert student.conv_out.weight.grad is None  # behind the last cross-attention
    assert all(p.grad is None for p in teacher.parameters())
    optimizer = torch.optim.SGD(student.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        after = attention_forgetting.loss(student, teacher, batch, options, budget)
    assert after < before


def test_end_tokens_join_the_concepts(setting):
    _, _, batch = setting
    found = attention_forgetting.tokens(batch, True)
    assert torch.equal(found[:, 5], torch.ones(3))
    assert torch.equal(found[:, :5], batch.mask[:, :5]) and found[:, 6:].sum() == 0
    assert attention_forgetting.tokens(batch, False) is batch.mask
    found = attention_forgetting.tokens(batch, True, padding=True)
    assert torch.equal(found[:, 5:], torch.ones_like(found[:, 5:]))
    assert torch.equal(found[:, :5], batch.mask[:, :5])


def test_one_norm_over_all_by_hand():
    """Two layers of 1 and 2 queries over 3 tokens, the last of them the concept's: sqrt(0.3^2 + 0.4^2 + 1.2^2) = 1.3
    (1.2 is no probability, but makes the root a plain number)."""
    mask = torch.tensor([[0.0, 0.0, 1.0]])
    maps = [torch.tensor([[[[0.5, 0.2, 0.3]]]]), torch.tensor([[[[0.6, 0.0, 0.4], [0.1, 0.1, 1.2]]]])]
    norms = [attention_forgetting.total(one, mask) for one in maps]
    assert torch.stack(norms).norm().item() == pytest.approx(1.3)
    mean = torch.stack([attention_forgetting.attended(one, mask) for one in maps]).mean()
    assert mean.item() == pytest.approx((0.09 + (0.16 + 1.44) / 2) / 2)


@pytest.mark.parametrize("norm", ["all", "mean"])
def test_captions_without_the_concept_give_no_gradient_and_no_nan(setting, norm):
    teacher, student, batch = setting
    nothing = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    options = {"end_token": False, "padding": False, "norm": norm}
    student.requires_grad_(True)
    loss = attention_forgetting.loss(student, teacher, nothing, options, Budget())
    loss.backward()
    given = [p.grad for p in student.parameters() if p.grad is not None]
    assert loss == 0 and given and all(not grad.any() for grad in given)
    student.zero_grad(set_to_none=True)


def test_the_released_norm_is_the_root_of_all_squares_and_leads_elsewhere(setting):
    teacher, student, batch = setting
    with torch.no_grad(), attention.recorded(student) as maps:
        student(batch.noisy, batch.t, batch.text)
    wanted = torch.cat([(one * batch.mask[:, None, None]).flatten() for one in maps]).norm()
    gradients = []
    for norm in ("all", "mean"):
        found = attention_forgetting.loss(student, teacher, batch, MEAN | {"norm": norm}, Budget())
        if norm == "all":
            assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
        trained = [layer.to_k.weight for layer in attention.cross_attentions(student)]
        gradients.append(torch.cat([one.flatten() for one in torch.autograd.grad(found, trained)]))
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert cosine == pytest.approx(0.97 if len(trained) < 6 else 0.83, abs=0.02)
