import copy

import pytest
import torch

from lethe.erasing import trainable
from lethe.erasing.erasers import concept_ablation
from lethe.files.errors import UserError
from lethe.models import cutting, pipelines
from lethe.stage.record import Budget
from lethe.training import loop
from lethe.training.data import generator
from lethe.training.losses import schedule
from tests.erasing.erasers.subjects import check_resume, load
from tests.tiny_training import same

OPTIONS = {
    "variant": "x-strict",
    "steps": 5,
    "batch": 3,
    "lr": 1.0e-3,
    "regularization": 0.0,
    "ablation": "channels",
    "clip_norm": 1.0,
    "weight_decay": 0.01,
    "pictures": 4,
    "guidance": 3.0,
    "sampler_steps": 3,
}
CONCEPTS = {
    "monet": {"prompt": "a painting by monet", "anchor": "a painting"},
    "picasso": {"prompt": "a painting by picasso", "anchor": "a painting"},
}


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def run(base, folder, concepts=CONCEPTS, **changed):
    unet, budget, values = copy.deepcopy(base.unet), Budget(), OPTIONS | changed
    keeping = loop.Keeping(folder, "r", 0)
    erased = concept_ablation.erase(unet, base, concepts, values, 0, keeping, budget)
    return unet, erased.progress, budget


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_formula(base, tmp_path, monkeypatch, weight):
    """The first step's loss from single forwards on the same pictures, noise and timesteps."""
    kept = {}
    draw = concept_ablation.pictures
    monkeypatch.setattr(concept_ablation, "pictures", lambda *given: kept.setdefault("z", draw(*given)))
    _, progress, _ = run(base, tmp_path, steps=1, regularization=weight)
    assert kept["z"].shape == (4, *base.latent_shape)  # one anchor, its pictures shared
    text = pipelines.encode_prompts(
        base.tokenizer, base.text_encoder, ["a painting", *(c["prompt"] for c in CONCEPTS.values())]
    )
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    draws = generator(0, "concept_ablation", 0)
    z = kept["z"][torch.randint(4, (3,), generator=draws)]
    noise = torch.randn(z.shape, generator=draws)
    t = torch.randint(len(table), (3,), generator=draws)
    noisy, target = table.noised(z, noise, t), table.target(z, noise, t)
    wanted = 0.0
    for row, prompt in enumerate((1, 1, 2)):
        with torch.no_grad():
            own = base.unet(noisy[row : row + 1], t[row], text[prompt : prompt + 1]).sample
            anchor = base.unet(noisy[row : row + 1], t[row], text[:1]).sample
        sums = (own - anchor).square().sum() / noise[0, 0].numel()  # over channels too, by the pixels of one
        wanted += (sums + weight * (anchor - target[row]).square().mean()) / 3
    assert progress.rows[0]["loss"] == pytest.approx(float(wanted), rel=1e-3)
    assert ("diff" in progress.rows[0]) == (weight > 0)


def test_the_released_weight_is_four_times_that_of_the_mean_squares(tiny_base, tmp_path):
    """Latents of four channels: a mean square of 2 and a diffusion loss of 3 with the released weight 0.5 are
    4 * 2 + 0.5 * 3 = 4 (2 + 0.125 * 3)."""
    base = load(tiny_base)
    assert base.latent_shape[0] == 4
    _, progress, _ = run(base, tmp_path, steps=1, regularization=0.5)
    row = progress.rows[0]
    assert row["loss"] == pytest.approx(4 * (row["ablation"] + 0.125 * row["diff"]), rel=1e-5)
    _, progress, _ = run(base, tmp_path / "mean", steps=1, regularization=0.125, ablation="mean")
    assert progress.rows[0]["loss"] == pytest.approx(row["loss"] / 4, rel=1e-5)


@pytest.mark.parametrize(("norm", "decay"), [(1.0, 0.01), (None, 0.0), (1e-3, 0.5)])
def test_gradients_are_clipped_and_weights_decay(tiny_base, tmp_path, monkeypatch, norm, decay):
    """The first step by hand: a weight shrinks by lr * decay, and then moves by at most lr, whatever the clipped size.
    Adam's first moment tells the gradient that it was given."""
    base, seen = load(tiny_base), []
    true = concept_ablation.descend

    def listening(loss, optimizer, lr, clip_norm):
        true(loss, optimizer, lr, clip_norm)
        moments = [optimizer.state[p]["exp_avg"] for group in optimizer.param_groups for p in group["params"]]
        seen.append((clip_norm, torch.cat([m.flatten() for m in moments]).norm() / 0.1))  # of the gradient that it took

    monkeypatch.setattr(concept_ablation, "descend", listening)
    unet, _, _ = run(base, tmp_path, steps=1, clip_norm=norm, weight_decay=decay)
    ((told, size),) = seen
    assert told == norm and (norm is None or size <= norm * 1.0001)
    if norm == 1e-3:
        assert size == pytest.approx(norm, rel=1e-3)
    for name, new in unet.named_parameters():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            old = dict(base.unet.named_parameters())[name]
            assert float((new - old * (1 - 1e-3 * decay)).abs().max().detach()) <= 1.001e-3


def test_clipping_and_decay_move_a_small_net(tiny_base, tmp_path):
    """As released against neither, 24 steps: how far the results are apart, over how far they moved."""
    base, moved = load(tiny_base), []
    with torch.no_grad():
        for name, parameter in base.unet.named_parameters():
            if "attn2.to_out" in name:
                parameter *= 20
    for own in ({}, {"clip_norm": None, "weight_decay": 0.0}):
        unet, _, _ = run(base, tmp_path / str(len(own)), steps=24, batch=4, **own)
        pairs = zip(unet.parameters(), base.unet.parameters(), strict=True)
        moved.append(torch.cat([(new - old).flatten() for new, old in pairs]).detach())
    apart = float((moved[0] - moved[1]).norm() / moved[1].norm())
    print(f"{apart:.4f} of the movement")
    assert apart == pytest.approx(0.002, abs=0.001)


def test_no_gradient_flows_through_the_first_token(base):
    """Of a layer that sees one token only, key and value get no gradient; answers stay the same."""
    unet = base.unet.requires_grad_(True)
    noisy = torch.randn((1, *base.latent_shape), generator=torch.Generator().manual_seed(0))
    text = torch.randn((1, 3, unet.config.cross_attention_dim), generator=torch.Generator().manual_seed(1))
    free = unet(noisy, 10, text).sample
    keys = [p for name, p in unet.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    with concept_ablation.first_token_held(unet):
        held = unet(noisy, 10, text).sample
        first = unet(noisy, 10, text[:, :1]).sample
    assert torch.equal(free, held)
    assert all(float(g.abs().max()) == 0 for g in torch.autograd.grad(first.square().sum(), keys))
    assert any(float(g.abs().max()) > 0 for g in torch.autograd.grad(held.square().sum(), keys))
    again = unet(noisy, 10, text[:, :1]).sample
    assert any(float(g.abs().max()) > 0 for g in torch.autograd.grad(again.square().sum(), keys))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_every_forward_is_counted(tiny_base, tmp_path, monkeypatch, weight):
    base = load(tiny_base)
    seen, forward = [], type(base.unet).forward

    def counting(self, sample, *rest, **named):
        seen.append((len(sample), torch.is_grad_enabled()))
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(base.unet), "forward", counting)
    _, progress, budget = run(base, tmp_path, regularization=weight)
    assert budget.teacher_forward == 2 * 4 * 3
    assert budget.student_forward == 5 * 3 * (3 if weight else 2)
    assert budget.student_backward == sum(rows for rows, graph in seen if graph) == 5 * 3 * (2 if weight else 1)
    assert budget.student_forward + budget.teacher_forward == sum(rows for rows, _ in seen)
    assert progress.rows[-1]["step"] == 5


@pytest.mark.parametrize("variant", ["x", "x-strict", "full"])
def test_only_the_variants_parameters_change(tiny_base, tmp_path, variant):
    base = load(tiny_base)
    unet, _, _ = run(base, tmp_path, variant=variant)
    chosen = {id(p) for p in trainable.select(base.unet, variant, "")}
    moved = [
        id(own) in chosen
        for own, p in zip(base.unet.parameters(), unet.parameters(), strict=True)
        if not torch.equal(own, p)
    ]
    assert moved
    assert all(moved)


def test_a_stopped_run_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch):
    base = load(tiny_base)
    check_resume(lambda folder: run(base, folder, regularization=0.2), concept_ablation, tmp_path, monkeypatch)


def test_the_prompt_comes_to_mean_the_anchor(tiny_base, tmp_path):
    base = load(tiny_base)
    with torch.no_grad():  # the random U-Net hardly hears the text; let it
        for name, parameter in base.unet.named_parameters():
            if "attn2.to_out" in name:
                parameter *= 20
    _, progress, _ = run(base, tmp_path, steps=24, batch=4, lr=3.0e-3)
    history = [row["loss"] for row in progress.rows]
    assert sum(history[-4:]) < 0.6 * sum(history[:4])


def test_it_works_on_a_pruned_net(tiny_base, tmp_path):
    base = load(tiny_base)
    layers = {
        name: {"kind": "heads", "total": module.heads, "kept": [0]}
        for name, module in base.unet.named_modules()
        if name.endswith("attn2")
    }
    cutting.cut(base.unet, layers)
    unet, progress, _ = run(base, tmp_path)
    assert progress.step == 5
    assert not same(unet, base.unet)


def test_an_anchor_that_is_the_prompt_is_refused(base, tmp_path):
    concepts = {"monet": {"prompt": "monet", "anchor": "monet"}}
    with pytest.raises(UserError, match=r"concepts\.monet\.anchor: 'monet' is its prompt"):
        run(base, tmp_path, concepts)


def test_a_net_without_cross_attention_is_told_so(base, tmp_path):
    plain = copy.copy(base)
    plain.unet = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"concept_ablation\.variant: 'x-strict' selects no parameter"):
        run(plain, tmp_path)
