import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training import finetune, upper_sources
from lethe.training.suppressions import attention_forgetting, concept_ablation, negative_guidance, redirect
from tests.tiny_training import OPTIONS, UPPER, encoded, pair, same
from tests.training.suppressions.anchored import GUIDED, anchored
from tests.training.suppressions.anchored import OPTIONS as MORE

VALUES = OPTIONS | UPPER | MORE | GUIDED


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


def upper_setting(teacher, student, schedule, concepts, data=None):
    return finetune.Setting(teacher, student, data or encoded(teacher, seed=9), concepts, schedule, {})


def upper_loss(setting, suppression, options, budget, seed=0):
    source = upper_sources.find(setting, options, seed, budget)
    return finetune.upper(setting, source, suppression, options, seed, budget)


def test_upper_batches_share_the_concepts_equally(setting):
    teacher, student, schedule, _ = setting
    concepts = [encoded(teacher, rows=1, seed=seed) for seed in range(3)]
    seen = []

    def loss(_student, _teacher, batch, _options, _budget):
        seen.extend(
            int((batch.text[i] == c.embeddings[0].float()).all()) * n for i in range(4) for n, c in enumerate(concepts)
        )
        return batch.noisy.mean()

    own = upper_setting(teacher, student, schedule, concepts)
    upper = upper_loss(own, SimpleNamespace(loss=loss), VALUES, Budget())
    for k in range(3):
        upper(student, k)
    assert [seen.count(n) for n in (1, 2)] == [4, 4]  # twelve pictures in three steps, four of each concept


def test_as_published_the_upper_loss_is_bit_for_bit_what_it_was_before_anchors(setting):
    teacher, student, schedule, _ = setting
    concepts = [anchored(teacher, seed=1), encoded(teacher, rows=3, seed=2)]
    budget = Budget()
    upper = upper_loss(upper_setting(teacher, student, schedule, concepts), negative_guidance, VALUES, budget, seed=7)
    total, terms = upper(student, 5)
    total.backward()
    gradients = [p.grad.clone() for p in student.parameters()]
    assert set(terms) == {"upper"} and budget == Budget(4, 4, 8)

    student.zero_grad()
    draws, latents, text = finetune.generator(7, "upper", 5), [], []
    for source in concepts:
        rows = torch.randint(len(source.caption), (2,), generator=draws)
        torch.rand(2, generator=draws)
        noise = torch.randn((2, *source.mean.shape[1:]), generator=draws)
        latents.append(torch.addcmul(source.mean[rows], source.std[rows], noise))
        text.append(source.embeddings[source.caption[rows]].float())
    latents, text = torch.cat(latents), torch.cat(text)
    noise = torch.randn(latents.shape, generator=draws)
    t = torch.randint(1000, (4,), generator=draws)
    noisy = schedule.noised(latents, noise, t)
    output = student(noisy, t, text, return_dict=False)[0]
    both = torch.cat([concepts[0].empty.expand_as(text), text])
    with torch.inference_mode():
        null, theirs = teacher(torch.cat([noisy, noisy]), torch.cat([t, t]), both, return_dict=False)[0].chunk(2)
        target = null - 1.0 * (theirs - null)
    before = (output - target).square().mean()
    before.backward()
    assert torch.equal(total, before)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, student.parameters(), strict=True))


def test_the_retain_term_is_the_mean_square_to_the_teacher_on_the_fine_tuning_pictures(setting):
    teacher, student, schedule, data = setting
    own = upper_setting(teacher, student, schedule, [anchored(teacher, seed=1)], data)
    plain, _ = upper_loss(own, redirect, VALUES, Budget())(student, 3)
    budget = Budget()
    total, terms = upper_loss(own, redirect, VALUES | {"retain_weight": 2.5}, budget)(student, 3)
    assert budget == Budget(student_forward=8, student_backward=8, teacher_forward=8)
    batch = finetune.draw([data], [4], schedule, finetune.generator(0, "retain", 3))
    with torch.no_grad():
        theirs = teacher(batch.noisy, batch.t, batch.text).sample
        output = student(batch.noisy, batch.t, batch.text).sample
    assert terms["suppress"].item() == plain.item()  # its draws are its own
    assert terms["retain"].item() == pytest.approx((output - theirs).square().mean().item(), rel=1e-5)
    assert total.item() == pytest.approx((terms["suppress"] + 2.5 * terms["retain"]).item())
    assert terms["upper"] is total
    total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    again, _ = upper_loss(own, redirect, VALUES | {"retain_weight": 2.5}, Budget())(student, 4)
    assert not torch.equal(again, total)


@pytest.mark.parametrize("suppression", [redirect, concept_ablation, attention_forgetting, negative_guidance])
def test_pictures_encoded_without_an_anchor_are_refused_before_training(setting, suppression):
    teacher, student, schedule, _ = setting
    options = VALUES | {"away_from": "anchor", "end_token": False, "padding": False, "norm": "all"}
    name = suppression.__name__.rpartition(".")[2]
    whole, plain = anchored(teacher), replace(encoded(teacher), folder=Path("results/monet"))
    upper_loss(upper_setting(teacher, student, schedule, [whole]), suppression, options, Budget())
    with pytest.raises(UserError, match=f"^results/monet: has no captions .* {name} needs; .* --prompt and --anchor"):
        upper_loss(upper_setting(teacher, student, schedule, [whole, plain]), suppression, options, Budget())
    same = replace(whole, mask=torch.zeros_like(whole.mask))
    with pytest.raises(UserError, match="every caption is the same without the concept"):
        upper_loss(upper_setting(teacher, student, schedule, [same]), suppression, options, Budget())


def test_as_published_no_anchor_is_needed(setting):
    teacher, student, schedule, data = setting
    upper = upper_loss(upper_setting(teacher, student, schedule, [data]), negative_guidance, VALUES, Budget())
    assert upper(student, 0)[0].isfinite()


def test_a_batch_has_anchors_if_all_its_sources_have(setting):
    teacher, _, schedule, data = setting
    one, other = anchored(teacher, seed=1), anchored(teacher, seed=2)
    found = finetune.draw([one, other], [2, 3], schedule, finetune.generator(0, "upper", 0))
    draws = finetune.generator(0, "upper", 0)
    parts = [one.batch(draws, 2), other.batch(draws, 3)]
    for key in ("text", "anchor", "mask", "end"):
        assert torch.equal(getattr(found, key), torch.cat([getattr(part, key) for part in parts]))
    mixed = finetune.draw([one, data], [2, 3], schedule, finetune.generator(0, "upper", 0))
    assert mixed.anchor is mixed.mask is mixed.end is None
