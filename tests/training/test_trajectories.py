import copy

import pytest
import torch

from lethe.models import pipelines
from lethe.models.schedulers import build_scheduler
from lethe.stage.record import Budget
from lethe.training import trajectories
from lethe.training.data import generator
from lethe.training.trajectories import Trajectories

OPTIONS = {"batch": 3, "guidance": 3.0, "sampler_steps": 6, "reuse": 2}


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    path = request.getfixturevalue(request.param)
    found = pipelines.load_base(str(path), None, ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
    found.latent_shape = pipelines.latent_shape(found.unet, found.vae)
    return found


def parts(base, prompts, rows, steps=6):
    """Sampler, empty prompt [1, L, D], text of `rows` rows."""
    found = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["", *prompts]).float()
    return build_scheduler("ddim", base.scheduler.config, steps), found[:1], trajectories.dealt(found[1:], rows, 0)


def window(base, sampler, empty, text, turns=6, number=0, budget=None, clean=False, **changed):
    values = OPTIONS | changed
    spent = budget or Budget()
    return trajectories.draw(base.unet, sampler, empty, text, base.latent_shape, values, turns, 0, number, spent, clean)


def test_states_and_answers_are_those_of_the_frozen_sampler(base):
    """One picture's trajectory computed again, step by step and with separate forwards, in the model's own space."""
    sampler, empty, text = parts(base, ["a painting by monet"], 2)
    budget = Budget()
    found = window(base, sampler, empty, text, budget=budget, clean=True)
    assert budget == Budget(teacher_forward=2 * 2 * 6)
    assert sorted(int(states.t[0]) for states in found) == sorted(sampler.timesteps.tolist())

    x = torch.randn((2, *base.latent_shape), generator=generator(0, "trajectory", 0))[:1]
    by_time = {int(states.t[0]): states for states in found}
    for t in sampler.timesteps:
        with torch.no_grad():
            null = base.unet(x, t, empty).sample
            conditional = base.unet(x, t, text[:1]).sample
        states = by_time[int(t)]
        for value, wanted in ((states.noisy, x), (states.null, null), (states.conditional, conditional)):
            torch.testing.assert_close(value[:1], wanted, atol=1e-4, rtol=1e-3)
        x = sampler.step(null + 3.0 * (conditional - null), t, x).prev_sample
    for states in found:
        torch.testing.assert_close(states.clean[:1], x, atol=1e-4, rtol=1e-3)
        assert torch.equal(states.text, text)


def test_rows_have_their_own_text_and_do_not_see_each_other(base):
    sampler, empty, text = parts(base, ["monet", "picasso"], 2)
    (both,) = window(base, sampler, empty, text, turns=1)
    (swapped,) = window(base, sampler, empty, text.flip(0), turns=1)
    (same,) = window(base, sampler, empty, text[:1].expand_as(text), turns=1)
    torch.testing.assert_close(both.noisy[0], same.noisy[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both.conditional[1], same.conditional[1], atol=1e-7)
    assert torch.equal(swapped.t, both.t)
    assert not torch.equal(swapped.conditional, both.conditional)


def test_clean_latents_change_no_state_and_nothing_else_is_computed_without_them(base):
    sampler, empty, text = parts(base, ["monet"], 3)
    spent, all_spent = Budget(), Budget()
    (without,) = window(base, sampler, empty, text, turns=1, budget=spent)
    (states,) = window(base, sampler, empty, text, turns=1, budget=all_spent, clean=True)
    assert without.clean is None
    for name in ("noisy", "t", "null", "conditional"):
        assert torch.equal(getattr(without, name), getattr(states, name))
    last = 1 + sampler.timesteps.tolist().index(int(without.t.min()))
    assert spent == Budget(teacher_forward=2 * 3 * last)
    assert all_spent == Budget(teacher_forward=2 * 3 * 6)


def test_any_step_can_come_first_and_windows_count_once(base):
    """What a run that goes on within a window sees is what one that never stopped saw."""
    sampler, empty, text = parts(base, ["monet"], 3)

    def made():
        return Trajectories(base.unet, sampler, empty, lambda window: text, base.latent_shape, OPTIONS, 0, 5)

    whole, budget = made(), Budget()
    wanted = [whole.at(k, budget) for k in range(5)]
    late, counted = made(), Budget()
    found = [late.at(k, counted) for k in (3, 4)]
    for states, other in zip(found, wanted[3:], strict=True):
        for name in ("noisy", "t", "null", "conditional", "text"):
            assert torch.equal(getattr(states, name), getattr(other, name))
    only = made()
    last = Budget()
    only.at(4, last)
    assert counted == last  # window 1 was begun by the run before, and counted there
    assert 0 < last.teacher_forward <= 2 * 3 * 6
    assert not torch.equal(wanted[0].noisy, wanted[2].noisy)


def test_pictures_are_the_ends_of_trajectories(base):
    sampler, empty, text = parts(base, ["monet"], 3)
    budget = Budget()
    found = trajectories.pictures(base.unet, sampler, empty, text, base.latent_shape, OPTIONS | {"batch": 2}, 7, budget)
    assert budget == Budget(teacher_forward=2 * 3 * 6)
    x = torch.randn((2, *base.latent_shape), generator=generator(7, "picture", 0))
    last = torch.randn((1, *base.latent_shape), generator=generator(7, "picture", 1))
    x = torch.cat([x, last])
    sampler.set_timesteps(6)
    for t in sampler.timesteps:
        with torch.no_grad():
            null, conditional = base.unet(x, t, empty.expand_as(text)).sample, base.unet(x, t, text).sample
        x = sampler.step(null + 3.0 * (conditional - null), t, x).prev_sample
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-3)


def test_a_network_in_training_stops_each_row_at_its_own_step(base):
    sampler, empty, text = parts(base, ["monet"], 5)
    budget = Budget()
    found, t = trajectories.arrive(
        copy.deepcopy(base.unet), sampler, empty, text, base.latent_shape, OPTIONS, 0, 4, budget
    )
    draws = generator(0, "trajectory", 4)
    x = torch.randn((5, *base.latent_shape), generator=draws)
    picks = torch.randint(6, (5,), generator=draws)
    assert len(set(picks.tolist())) > 2
    assert torch.equal(t, sampler.timesteps[picks])
    assert budget == Budget(student_forward=2 * int(picks.sum()))
    for index, time in enumerate(sampler.timesteps):
        torch.testing.assert_close(found[picks == index], x[picks == index], atol=1e-4, rtol=1e-3)
        with torch.no_grad():
            null, conditional = base.unet(x, time, empty.expand_as(text)).sample, base.unet(x, time, text).sample
        x = sampler.step(null + 3.0 * (conditional - null), time, x).prev_sample


def test_texts_share_a_batch_and_take_turns():
    texts = torch.arange(2.0).view(2, 1, 1)
    assert [trajectories.dealt(texts, 3, k).flatten().tolist() for k in range(2)] == [[0, 0, 1], [0, 1, 1]]
