import dataclasses

import pytest
import torch

from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.stage.record import Budget
from lethe.training import finetune, losses, upper_sources
from lethe.training.data import generator
from lethe.training.suppressions import negative_guidance, redirect
from tests.tiny_training import OPTIONS, UPPER, encoded, pair
from tests.training.suppressions.anchored import GUIDED, anchored
from tests.training.suppressions.anchored import OPTIONS as MORE

VALUES = OPTIONS | UPPER | MORE | GUIDED | {"upper_source": "trajectories"}


@pytest.fixture(params=["tiny_base", "other_base"])
def setting(request):
    base = request.getfixturevalue(request.param)
    teacher, student, _ = pair(base)
    scheduler = pipelines.load_base(str(base), None, ["scheduler"]).scheduler
    schedule = losses.schedule(scheduler, 5.0, "legacy", torch.device("cpu"))
    concepts = [anchored(teacher, seed=1), anchored(teacher, rows=3, seed=2)]
    return finetune.Setting(teacher, student, encoded(teacher), concepts, schedule, scheduler.config)


def test_states_are_those_of_the_teachers_guided_sampling(setting):
    """Each state lies on the trajectory that a plain loop over diffusers' own DDIM draws from the same noise."""
    from diffusers import DDIMScheduler

    source = upper_sources.find(setting, VALUES, 5, Budget())
    batches = [source(k) for k in (0, 1)]  # a window
    text, empty = batches[0].text, setting.concepts[0].empty
    sampler = DDIMScheduler.from_config(setting.scheduler)
    sampler.set_timesteps(4)
    shape = (4, *setting.data.mean.shape[1:])
    x, known = torch.randn(shape, generator=generator(5, "trajectory", 0)), {}
    with torch.no_grad():
        for t in sampler.timesteps:
            known[int(t)] = x
            null = setting.teacher(x, t, empty.expand_as(text)).sample
            conditional = setting.teacher(x, t, text).sample
            x = sampler.step(null + 3.0 * (conditional - null), t, x).prev_sample
    for batch in batches:
        for row, t in enumerate(batch.t.tolist()):
            torch.testing.assert_close(batch.noisy[row], known[t][row], atol=1e-4, rtol=1e-3)
        assert batch.latents is None and batch.noise is None and torch.equal(batch.null, empty)
    assert (batches[0].t != batches[1].t).all()  # no trajectory gives a state twice


def test_captions_are_the_concepts_own_shared_equally_with_their_anchors(setting):
    source = upper_sources.find(setting, VALUES, 5, Budget())
    draws = generator(5, "upper", 1)
    parts = [own.captions(own.rows(draws, 2)) for own in setting.concepts]
    for k in (2, 3):  # the second window
        batch = source(k)
        for key, *columns in zip(("text", "anchor", "mask", "end"), *parts, strict=True):
            assert torch.equal(getattr(batch, key), torch.cat(columns))


def test_a_step_is_a_pure_function_and_a_window_is_paid_once(setting):
    budget = Budget()
    source = upper_sources.find(setting, VALUES | {"upper_reuse": 4}, 5, budget)
    found = [source(k) for k in range(4)]
    assert budget == Budget(teacher_forward=2 * 4 * 4)  # two answers of four rows at four steps, all of them taken
    source(4)
    assert budget.teacher_forward > 32
    resumed = Budget()
    again = upper_sources.find(setting, VALUES | {"upper_reuse": 4}, 5, resumed)(2)
    assert torch.equal(again.noisy, found[2].noisy) and torch.equal(again.t, found[2].t)
    assert resumed == Budget()  # a run that goes on has counted it before
    other = upper_sources.find(setting, VALUES, 6, Budget())(2)
    assert not torch.equal(other.noisy, found[2].noisy)


def test_an_upper_step_counts_its_states(setting):
    budget = Budget()
    options = VALUES | {"upper_reuse": 4}
    source = upper_sources.find(setting, options, 0, budget)
    upper = finetune.upper(setting, source, redirect, options, 0, budget)
    for k in range(4):
        upper(setting.student, k)[0].backward()
    assert budget == Budget(student_forward=16, student_backward=16, teacher_forward=2 * 4 * 4 + 16)
    assert all(p.grad is not None for p in setting.student.parameters())
    assert all(p.grad is None for p in setting.teacher.parameters())


def test_concepts_without_anchors_give_batches_without(setting):
    plain = dataclasses.replace(setting, concepts=[setting.data])
    batch = upper_sources.find(plain, VALUES, 0, Budget())(0)
    assert batch.anchor is batch.mask is batch.end is None


def test_more_steps_than_the_model_has_are_refused(setting):
    with pytest.raises(UserError, match="1001 is more than the model's 1000"):
        upper_sources.find(setting, VALUES | {"upper_sampler_steps": 1001}, 0, Budget())


def test_what_the_teacher_said_on_its_way_is_the_target_without_asking_again(setting):
    values, budget = VALUES | {"away_from": "empty"}, Budget()
    batch = upper_sources.find(setting, values, 0, budget)(0)
    spent = budget.teacher_forward
    found = negative_guidance.target(setting.teacher, batch, values, budget)
    assert budget.teacher_forward == spent
    asked = negative_guidance.target(setting.teacher, dataclasses.replace(batch, answers=None), values, budget)
    assert budget.teacher_forward == spent + 2 * len(batch.noisy)
    torch.testing.assert_close(found, asked, rtol=1e-3, atol=1e-4)
