import copy

import pytest
import torch

from lethe import loop, models, options
from lethe.data import generator
from lethe.erasers import esd
from lethe.errors import UserError
from lethe.record import Budget
from lethe.sampling import build_scheduler
from tests.tiny_training import same

OPTIONS = {
    "variant": "x",
    "steps": 5,
    "batch": 3,
    "lr": 1.0e-3,
    "eta": 1.0,
    "guidance": 3.0,
    "sampler_steps": 6,
    "reuse": 2,
}
CONCEPTS = {"monet": {"prompt": "a painting by monet"}, "picasso": {"prompt": "a painting by picasso"}}


def load(path):
    found = models.load_base(str(path), None, ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
    found.latent_shape = models.latent_shape(found.unet, found.vae)
    return found


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def run(base, folder, **changed):
    unet, budget, values = copy.deepcopy(base.unet), Budget(), OPTIONS | changed
    progress = esd.erase(unet, base, CONCEPTS, values, 0, loop.Keeping(folder, "r", 2), budget)
    return unet, progress, budget


@pytest.mark.parametrize(
    ("variant", "rule"),
    [
        ("x", lambda name: "attn2" in name),
        ("u", lambda name: "attn2" not in name),
        ("x-strict", lambda name: "attn2.to_k" in name or "attn2.to_v" in name),
        ("all", lambda name: True),
    ],
)
def test_only_the_variants_parameters_change(base, tmp_path, variant, rule):
    unet, _, _ = run(base, tmp_path, variant=variant)
    before = dict(base.unet.named_parameters())
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    # attn2's query and key see one token type at first, so a few of its tensors may stand still; none outside may move
    assert changed
    assert all(rule(name) for name in changed)
    assert len(changed) >= 0.8 * sum(rule(name) for name in before)


def test_states_and_targets_are_those_of_the_frozen_sampler(base):
    """One picture's trajectory computed again, step by step and with separate forwards, in the model's own space."""
    embeddings = models.encode_prompts(base.tokenizer, base.text_encoder, ["", "a painting by monet"])
    sampler = build_scheduler("ddim", base.scheduler.config, 6)
    values = OPTIONS | {"batch": 2, "eta": 1.5}
    budget = Budget()
    found = esd._states(base.unet, sampler, embeddings, base.latent_shape, values, 6, 0, 0, budget)
    assert budget == Budget(teacher_forward=2 * 2 * 6)
    assert sorted(int(times[0]) for _, times, _, _ in found) == sorted(sampler.timesteps.tolist())

    x = torch.randn((2, *base.latent_shape), generator=generator(0, "trajectory", 0))[:1]
    by_time = {int(times[0]): (state[:1], target[:1]) for state, times, _, target in found}
    sampler.set_timesteps(6)
    for t in sampler.timesteps:
        with torch.no_grad():
            null = base.unet(x, t, embeddings[:1]).sample
            text = base.unet(x, t, embeddings[1:]).sample
        state, target = by_time[int(t)]
        torch.testing.assert_close(state, x, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(target, null - 1.5 * (text - null), atol=1e-4, rtol=1e-3)
        x = sampler.step(null + 3.0 * (text - null), t, x).prev_sample


def test_every_forward_is_counted(base, tmp_path, monkeypatch):
    seen = {"calls": 0}
    forward = type(base.unet).forward

    def counting(self, sample, *rest, **named):
        seen["calls"] += len(sample)
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(base.unet), "forward", counting)
    _, progress, budget = run(base, tmp_path)
    assert budget.student_forward == budget.student_backward == 5 * 3
    assert budget.student_forward + budget.teacher_forward == seen["calls"]
    assert budget.teacher_forward <= 3 * 2 * 3 * 6  # three windows of two passes for three pictures over six steps
    assert progress.rows[-1]["step"] == 5


def test_concepts_share_a_batch_and_take_turns(base):
    embeddings = models.encode_prompts(base.tokenizer, base.text_encoder, ["", "monet", "picasso"])
    sampler = build_scheduler("ddim", base.scheduler.config, 2)
    values = OPTIONS | {"sampler_steps": 2}
    counts = []
    for window in range(2):
        (_, _, text, _), *_ = esd._states(
            base.unet, sampler, embeddings, base.latent_shape, values, 1, 0, window, Budget()
        )
        counts.append([int((text == own).flatten(1).all(1).sum()) for own in embeddings[1:]])
    assert counts == [[2, 1], [1, 2]]


def test_it_learns_to_avoid_the_concept(tiny_base, tmp_path):
    base = load(tiny_base)
    with torch.no_grad():  # the random U-Net hardly hears the text; let it
        for name, parameter in base.unet.named_parameters():
            if "attn2.to_out" in name:
                parameter *= 20
    _, progress, _ = run(base, tmp_path, steps=24, reuse=6, batch=4, lr=3.0e-3)
    history = [row["loss"] for row in progress.rows]
    assert sum(history[-4:]) < 0.6 * sum(history[:4])


def test_a_run_stopped_within_a_window_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch):
    base = load(tiny_base)
    wanted, _, budget = run(base, tmp_path / "whole", reuse=3)
    descend, steps = esd.descend, []

    def stopping(*arguments):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        descend(*arguments)

    monkeypatch.setattr(esd, "descend", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "cut", reuse=3)
    found, _, counted = run(base, tmp_path / "cut", reuse=3)
    assert same(found, wanted)
    assert counted == budget


def test_more_reuse_than_states_is_refused():
    rules = options.section_schema("erase_esd", ("erasers", "esd"))
    with pytest.raises(UserError, match=r"esd\.reuse: 7 is more than sampler_steps \(6\)"):
        options.check(OPTIONS | {"reuse": 7, "sampler_steps": 6}, rules, "erase.esd")
