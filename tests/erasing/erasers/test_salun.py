import copy
import dataclasses

import pytest
import torch

from lethe.erasing.erasers import salun
from lethe.files.errors import UserError
from lethe.models import cutting, pipelines
from lethe.stage.record import Budget
from lethe.training import loop
from lethe.training.data import generator, shares
from lethe.training.finetune import draw
from lethe.training.losses import schedule
from tests.erasing.erasers.subjects import check_resume
from tests.tiny_training import encoded, same

OPTIONS = {
    "variant": "x",
    "ranked": "all",
    "steps": 5,
    "batch": 3,
    "lr": 1.0e-3,
    "saliency": 0.3,
    "saliency_batches": 2,
    "guidance": 8.5,
    "alpha": 1.0,
}
CONCEPTS = {
    "monet": {"prompt": "a painting by monet", "anchor": "a painting"},
    "picasso": {"prompt": "a painting by picasso", "anchor": "a painting"},
}


def load(path):
    base = pipelines.load_base(str(path), None, ["unet", "scheduler"])
    base.concepts = {name: anchored(base.unet, seed) for seed, name in enumerate(CONCEPTS)}
    base.data = encoded(base.unet, seed=9)
    return base


def anchored(unet, seed):
    """Pictures of a concept; a row's anchor is the next row's caption, its concept token 2."""
    found = encoded(unet, seed=seed)
    mask = torch.zeros((6, 8), dtype=torch.uint8)
    mask[:, 2] = 1
    return dataclasses.replace(found, anchor=found.caption.roll(-1), mask=mask, end=torch.full((6,), 4))


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def run(base, folder, concepts=CONCEPTS, **changed):
    unet, budget, values = copy.deepcopy(base.unet), Budget(), OPTIONS | changed
    erased = salun.erase(unet, base, concepts, values, 0, loop.Keeping(folder, "r", 0), budget)
    return unet, erased, budget


def brute(base, ranked, share):
    """The mask's entries, by name: sum the gradients of single pictures, sort all entries in one list."""
    unet = copy.deepcopy(base.unet).requires_grad_(True)
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    chosen = {n: p for n, p in unet.named_parameters() if ranked == "all" or "attn2" in n}
    for k in range(2):
        batch = draw(list(base.concepts.values()), shares(3, 2, k), table, generator(0, "saliency", k))
        for row in range(3):
            own = slice(row, row + 1)
            null = unet(batch.noisy[own], batch.t[own], batch.null).sample
            text = unet(batch.noisy[own], batch.t[own], batch.text[own]).sample
            target = table.target(batch.latents[own], batch.noise[own], batch.t[own])
            w = 7.5
            ((-1 / 3) * (target - ((1 + w) * text - w * null)).square().mean()).backward()
    graded = [
        (float(value), name, place)
        for name, p in chosen.items()
        for place, value in enumerate((torch.zeros_like(p) if p.grad is None else p.grad.abs()).flatten().tolist())
    ]
    graded.sort(key=lambda entry: -entry[0])
    count = round(share * len(graded))
    return {entry[1:] for entry in graded[:count]}, count, graded[count][0], len(graded)


@pytest.mark.parametrize(
    ("variant", "ranked", "share"), [("x", "all", 0.5), ("x", "trained", 0.3), ("full", "all", 0.3)]
)
def test_only_the_most_salient_weights_move(tiny_base, tmp_path, variant, ranked, share):
    """Salient among all of the U-Net, as released: of x, cross-attention has more or fewer than `share`."""
    base = load(tiny_base)
    wanted, count, limit, total = brute(base, ranked, share)
    unet, erased, _ = run(base, tmp_path, variant=variant, ranked=ranked, saliency=share)
    before = dict(base.unet.named_parameters())
    own = {name: p.numel() for name, p in before.items() if variant == "full" or "attn2" in name}
    wanted = {entry for entry in wanted if entry[0] in own}
    assert (len(wanted) == count) == (variant == "full" or ranked == "trained")
    assert erased.facts["salient_weights"] == pytest.approx(len(wanted), abs=2)  # rounding at the limit
    assert erased.facts["trained_weights"] == sum(own.values()) and erased.facts["ranked_weights"] == total
    count = len(wanted)
    moved = {
        (name, place)
        for name, p in unet.named_parameters()
        for place in (p != before[name]).flatten().nonzero()[:, 0].tolist()
    }
    assert len(moved - wanted) <= 0.002 * count  # rounding may swap entries at the very limit
    assert len(moved) >= 0.9 * count
    assert limit > 0


def test_the_ranking_decides_which_weights_move_and_how_far(tiny_base, tmp_path):
    """Saliency 0.5, three steps: the former ranking, of cross-attention alone, against the released one."""
    base, moved = load(tiny_base), {}
    for ranked in ("all", "trained"):
        unet, erased, _ = run(base, tmp_path / ranked, ranked=ranked, saliency=0.5, steps=3)
        pairs = zip(unet.parameters(), base.unet.parameters(), strict=True)
        moved[ranked] = torch.cat([(new - old).flatten() for new, old in pairs]).detach(), erased.facts
    (one, first), (other, second) = moved["all"], moved["trained"]
    apart = float((one - other).norm() / other.norm())
    print(f"{first['salient_weights']} against {second['salient_weights']} weights; {apart:.2f} of the movement")
    assert second["salient_weights"] == 3112 == round(0.5 * second["trained_weights"])
    assert first["salient_weights"] == pytest.approx(2697, abs=20)
    assert apart == pytest.approx(0.36, abs=0.05)


def test_nothing_salient_to_train_is_told(tiny_base, tmp_path):
    base = load(tiny_base)
    with pytest.raises(UserError, match=r"erase\.salun\.saliency: 1e-06 of all weights holds none of variant 'x'"):
        run(base, tmp_path, saliency=1e-6)


def test_all_weights_move_with_a_share_of_one(tiny_base, tmp_path):
    base = load(tiny_base)
    unet, erased, _ = run(base, tmp_path, saliency=1.0)
    assert erased.facts["salient_weights"] == erased.facts["trained_weights"] < erased.facts["ranked_weights"]
    cross = [n for n, _ in base.unet.named_parameters() if "attn2" in n]
    before = dict(base.unet.named_parameters())
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= set(cross)
    assert len(changed) >= 0.8 * len(cross)


@pytest.mark.parametrize(("share", "count"), [(0.3, 3), (1.0, 10), (0.01, 1)])
def test_the_mask_takes_the_largest_of_all_tensors_together(share, count):
    grades = [torch.tensor([[5.0, 0.0], [9.0, 1.0]]), torch.tensor([2.0, 8.0, 7.0, 3.0, 4.0, 6.0])]
    masks = salun.most(grades, share)
    assert [mask.shape for mask in masks] == [grade.shape for grade in grades]
    kept = torch.cat([grade[mask.bool()] for grade, mask in zip(grades, masks, strict=True)])
    assert sorted(kept.tolist(), reverse=True) == [float(v) for v in range(9, 9 - count, -1)]


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_loss_is_the_formula(base, tmp_path, alpha):
    _, erased, _ = run(base, tmp_path, steps=1, alpha=alpha)
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    forget = draw(list(base.concepts.values()), [2, 1], table, generator(0, "forget", 0))
    kept = draw([base.data], [3], table, generator(0, "remain", 0))
    with torch.no_grad():
        wanted = (
            (
                base.unet(forget.noisy, forget.t, forget.text).sample
                - base.unet(forget.noisy, forget.t, forget.anchor).sample
            )
            .square()
            .mean()
        )
        target = table.target(kept.latents, kept.noise, kept.t)
        wanted += alpha * (base.unet(kept.noisy, kept.t, kept.text).sample - target).square().mean()
    row = erased.progress.rows[0]
    assert row["loss"] == pytest.approx(float(wanted), rel=1e-3)
    assert ("remain" in row) == (alpha > 0)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_every_forward_is_counted(tiny_base, tmp_path, monkeypatch, alpha):
    base = load(tiny_base)
    seen, forward = [], type(base.unet).forward

    def counting(self, sample, *rest, **named):
        seen.append((len(sample), torch.is_grad_enabled()))
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(base.unet), "forward", counting)
    _, _, budget = run(base, tmp_path, alpha=alpha)
    remain = 5 * 3 if alpha else 0
    assert budget == Budget(2 * 2 * 3 + 5 * 2 * 3 + remain, 2 * 2 * 3 + 5 * 3 + remain, 0)
    assert budget.student_forward == sum(rows for rows, _ in seen)
    assert budget.student_backward == sum(rows for rows, graph in seen if graph)


def test_a_stopped_run_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch):
    base = load(tiny_base)
    check_resume(lambda folder: run(base, folder), salun, tmp_path, monkeypatch)


def test_captions_come_to_mean_their_anchors(tiny_base, tmp_path):
    base = load(tiny_base)
    with torch.no_grad():  # the random U-Net hardly hears the text; let it
        for name, parameter in base.unet.named_parameters():
            if "attn2.to_out" in name:
                parameter *= 20
    _, erased, _ = run(base, tmp_path, steps=24, batch=4, lr=3.0e-3, alpha=0.0)
    history = [row["forget"] for row in erased.progress.rows]
    assert sum(history[-4:]) < 0.7 * sum(history[:4])


def test_it_works_on_a_pruned_net(tiny_base, tmp_path):
    base = load(tiny_base)
    heads = [(n, m) for n, m in base.unet.named_modules() if n.endswith("attn2")]
    cutting.cut(base.unet, {n: {"kind": "heads", "total": m.heads, "kept": [0]} for n, m in heads})
    unet, erased, _ = run(base, tmp_path)
    assert erased.progress.step == 5
    assert not same(unet, base.unet)


def test_what_cannot_be_forgotten_is_refused(tiny_base, tmp_path):
    base = load(tiny_base)
    with pytest.raises(UserError, match=r"concepts\.monet\.anchor: 'monet' is its prompt"):
        run(base, tmp_path, {"monet": {"prompt": "monet", "anchor": "monet"}})
    base.concepts["monet"] = dataclasses.replace(base.concepts["monet"], anchor=None)
    with pytest.raises(UserError, match=r"\(monet\): pictures encoded without anchors; encode them again"):
        run(base, tmp_path)
    base.concepts["monet"] = anchored(base.unet, 0)
    base.unet = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"salun\.variant: 'x' selects no parameter"):
        run(base, tmp_path)
