import copy

import pytest
import torch

from lethe.attacking.attacks import relearn
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training import loop, losses
from lethe.training.data import generator
from lethe.training.finetune import adamw
from tests.attacking.attacks.victims import victim
from tests.tiny_training import same

OPTIONS = {"source": "concepts", "count": 4, "rank": None, "steps": 4, "batch": 3, "lr": 1.0e-3}


def run(own, folder, seed=0, **changed):
    budget = Budget()
    found = relearn.attack(own, OPTIONS | changed, seed, loop.Keeping(folder, "r", 0), budget)
    return found, budget


def changed_names(own):
    before, after = own.base.unet.state_dict(), own.unet.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("base", ["tiny_base", "other_base"])
def test_all_weights_take_the_steps_of_the_plain_diffusion_loss(base, tmp_path, request):
    own = victim(request.getfixturevalue(base))
    found, budget = run(own, tmp_path, source="data", count=None, steps=2)
    assert found.unet is None, "the victim's own U-Net draws"
    assert (budget.student_forward, budget.student_backward, budget.teacher_forward) == (6, 6, 0)
    assert found.about["pictures"] == {"data": 6}

    unet = copy.deepcopy(own.base.unet).requires_grad_(True)
    optimizer = adamw(unet.parameters(), 1.0e-3)
    table = losses.schedule(own.base.scheduler, None, "legacy", own.device)
    for k in range(2):
        draws = generator(0, "relearn", k)
        latents, text, *_ = own.base.data.batch(draws, 3)
        noise = torch.randn(latents.shape, generator=draws)
        t = torch.randint(len(table), (3,), generator=draws)
        answer = unet(table.noised(latents, noise, t), t, text).sample
        ((answer - table.target(latents, noise, t)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in unet.state_dict().items():
        assert torch.allclose(own.unet.state_dict()[name], value, atol=1e-6), name


def test_low_rank_additions_are_in_the_attention_of_that_rank_and_nowhere_else(tiny_base, tmp_path):
    own = victim(tiny_base)
    found, _ = run(own, tmp_path, rank=2, lr=1.0e-2)
    changed = changed_names(own)
    ends = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    assert changed == {name for name in own.unet.state_dict() if name.endswith(ends)}
    before, after = own.base.unet.state_dict(), own.unet.state_dict()
    assert all(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 2 for name in changed)
    added = sum(2 * sum(after[name].shape) for name in changed)
    assert found.about["trained_weights"] == added
    assert not any(parameter.requires_grad for parameter in own.unet.parameters())


def test_an_addition_of_zero_steps_worth_changes_nothing(tiny_base):
    own = victim(tiny_base)
    batch = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 16, 16)
    before = own.unet(*batch).sample
    relearn.add_low_rank(own.unet, 3, 0)
    assert torch.equal(own.unet(*batch).sample, before), "B begins at zero"


@pytest.mark.parametrize("rank", [None, 2])
def test_fewer_steps_are_the_first_of_more_and_a_stopped_run_ends_in_the_same_weights(tiny_base, tmp_path, rank):
    straight = victim(tiny_base)
    run(straight, tmp_path / "one", rank=rank)
    stopped = victim(tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        real, steps = relearn.descend, []

        def descend(*words):
            if len(steps) == 3:
                raise KeyboardInterrupt
            steps.append(1)
            real(*words)

        patch.setattr(relearn, "descend", descend)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, tmp_path / "two", rank=rank)
    again = victim(tiny_base)
    _, budget = run(again, tmp_path / "two", rank=rank)
    assert same(straight.unet, again.unet)
    assert budget.student_forward == 4 * 3


def test_few_pictures_are_the_same_for_any_number_of_steps_and_differ_by_seed(tiny_base, tmp_path):
    own = victim(tiny_base)
    pictures = own.base.concepts["monet"]
    few = relearn.few(pictures, 3, 0, "monet")
    assert len(few.caption) == len(few.mean) == len(few.std) == 3
    assert torch.equal(few.mean, relearn.few(pictures, 3, 0, "monet").mean)
    assert not torch.equal(few.mean, relearn.few(pictures, 3, 1, "monet").mean)
    assert all(any(torch.equal(row, other) for other in pictures.mean) for row in few.mean)
    assert relearn.few(pictures, None, 0, "monet") is pictures
    found, _ = run(own, tmp_path, count=5)
    assert found.about["pictures"] == {"monet": 5, "picasso": 5}


def test_too_few_pictures_and_a_net_without_attention(tiny_base, tmp_path):
    with pytest.raises(UserError, match=r"\(monet\): has 6 pictures, count is 7; lower it, or give more"):
        run(victim(tiny_base), tmp_path, count=7)
    with pytest.raises(UserError, match="rank: this U-Net has no attention to add to"):
        relearn.add_low_rank(torch.nn.Sequential(torch.nn.Linear(2, 2)), 1, 0)
