import copy
import dataclasses
import json

import pytest
import torch

from lethe.erasing.erasers import fmn
from lethe.files.errors import UserError
from lethe.models import cutting, pipelines
from lethe.models.attention import recorded
from lethe.stage.record import Budget
from lethe.training import loop
from lethe.training.data import generator
from lethe.training.finetune import draw
from lethe.training.losses import schedule
from tests.erasing.erasers.subjects import check_resume
from tests.tiny_training import encoded, same

OPTIONS = {
    "variant": "x",
    "steps": 5,
    "batch": 3,
    "lr": 1.0e-3,
    "end_token": False,
    "padding": False,
    "norm": "mean",
    "inversion_steps": 0,
    "inversion_lr": 1.0e-2,
}
CONCEPTS = {
    "monet": {"prompt": "a sky by monet", "anchor": "a sky"},
    "picasso": {"prompt": "a sky by picasso", "anchor": "a sky"},
}


def load(path):
    base = pipelines.load_base(str(path), None, ["unet", "tokenizer", "text_encoder", "scheduler"])
    base.concepts = {}
    for seed, name in enumerate(CONCEPTS):
        length = base.tokenizer.model_max_length
        found = encoded(base.unet, seed=seed, length=length)
        mask = torch.zeros((6, length), dtype=torch.uint8)
        mask[:, 2 + seed : 4] = 1
        base.concepts[name] = dataclasses.replace(
            found, anchor=found.caption.roll(-1), mask=mask, end=torch.full((6,), 5)
        )
    return base


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def run(base, folder, **changed):
    unet, budget, values = copy.deepcopy(base.unet), Budget(), OPTIONS | changed
    erased = fmn.erase(unet, base, CONCEPTS, values, 0, loop.Keeping(folder, "r", 0), budget)
    return unet, erased, budget


def attention(unet, batch):
    """Mean squared attention to the concept's tokens."""
    with torch.no_grad(), recorded(unet) as maps:
        unet(batch.noisy, batch.t, batch.text)
    return float(torch.stack([(own**2 * batch.mask[:, None, None]).sum(-1).mean() for own in maps]).mean())


@pytest.mark.parametrize("end_token", [False, True])
def test_the_loss_is_attention_to_the_concepts_words(base, tmp_path, end_token):
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    batch = draw(list(base.concepts.values()), [2, 1], table, generator(0, "forget", 0))
    assert batch.mask.sum(1).tolist() == [2, 2, 1]
    if end_token:
        batch.mask[:, 5] = 1
    _, erased, budget = run(base, tmp_path, steps=1, end_token=end_token)
    assert erased.progress.rows[0]["loss"] == pytest.approx(attention(base.unet, batch), rel=1e-3)
    assert budget == Budget(student_forward=3, student_backward=3)


@pytest.mark.parametrize("pads_with_the_end", [True, False])
def test_padding_goes_where_the_tokenizer_pads_with_the_end_token(tiny_base, tmp_path, pads_with_the_end):
    """As in SD 1.x: of 16 places the 11 from the end token on, beside the concept's words; else the end token alone."""
    base = load(tiny_base)
    base.tokenizer.pad_token = base.tokenizer.eos_token if pads_with_the_end else "a"
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    batch = draw(list(base.concepts.values()), [2, 1], table, generator(0, "forget", 0))
    batch.mask[:, 5 : 16 if pads_with_the_end else 6] = 1
    _, erased, _ = run(base, tmp_path, steps=1, end_token=True, padding=None)
    assert erased.facts["padding"] == pads_with_the_end
    assert erased.progress.rows[0]["loss"] == pytest.approx(attention(base.unet, batch), rel=1e-3)


def test_attention_leaves_the_concept(tiny_base, tmp_path):
    base = load(tiny_base)
    unet, erased, _ = run(base, tmp_path, steps=30, lr=1.0e-2, batch=4)
    history = [row["loss"] for row in erased.progress.rows]
    assert sum(history[-4:]) < 0.5 * sum(history[:4])
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    batch = draw(list(base.concepts.values()), [4, 4], table, generator(1, "test", 0))
    assert attention(unet, batch) < 0.6 * attention(base.unet, batch)


@pytest.mark.parametrize("variant", ["x", "full"])
def test_only_the_variants_parameters_change(tiny_base, tmp_path, variant):
    base = load(tiny_base)
    unet, _, _ = run(base, tmp_path, variant=variant)
    before = dict(base.unet.named_parameters())
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert any("attn2.to_q" in name for name in changed)
    assert all("attn2" in name for name in changed) == (variant == "x")


@pytest.mark.parametrize("inversion_steps", [0, 3])
def test_every_forward_is_counted(tiny_base, tmp_path, monkeypatch, inversion_steps):
    base = load(tiny_base)
    seen, forward = [], type(base.unet).forward

    def counting(self, sample, *rest, **named):
        seen.append(len(sample))
        return forward(self, sample, *rest, **named)

    monkeypatch.setattr(type(base.unet), "forward", counting)
    _, _, budget = run(base, tmp_path, inversion_steps=inversion_steps)
    passes = 3 * (5 + inversion_steps)
    assert budget == Budget(student_forward=passes, student_backward=passes)
    assert sum(seen) == passes


@pytest.mark.parametrize("inversion_steps", [0, 3])
def test_a_stopped_run_ends_as_one_that_was_not(tiny_base, tmp_path, monkeypatch, inversion_steps):
    base = load(tiny_base)
    changed = {"inversion_steps": inversion_steps, "variant": "full"}
    check_resume(lambda folder: run(base, folder, **changed), fmn, tmp_path, monkeypatch)


def test_with_an_inversion_the_learnt_word_is_what_attention_leaves(tiny_base, tmp_path, monkeypatch):
    """Pictures stay those of their concept, captions become the concept's own sentence; the text encoder stays."""
    base = load(tiny_base)
    seen, encoder = [], copy.deepcopy(base.text_encoder)
    monkeypatch.setattr(
        fmn.attention_forgetting,
        "loss",
        lambda unet, _, batch, *more: (seen.append(batch), loss(unet, _, batch, *more))[1],
    )
    unet, erased, _ = run(base, tmp_path, steps=2, inversion_steps=2)
    assert same(base.text_encoder, encoder)
    assert not same(unet, base.unet)
    own = seen[0]
    assert own.text.shape == (3, base.tokenizer.model_max_length, base.unet.config.cross_attention_dim)
    assert torch.equal(own.text[0], own.text[1])
    assert not torch.equal(own.text[0], own.text[2])
    length = len(base.tokenizer("a sky").input_ids)
    assert [row.nonzero()[:, 0].tolist() for row in own.mask] == [[length - 1]] * 3
    assert own.end.tolist() == [length] * 3
    plain = draw(
        list(base.concepts.values()),
        [2, 1],
        schedule(base.scheduler, None, "legacy", torch.device("cpu")),
        generator(0, "forget", 0),
    )
    assert torch.equal(own.noisy, plain.noisy)
    assert len(erased.facts["inversion_loss"]) == 2
    json.dumps(erased.facts)


loss = fmn.attention_forgetting.loss


def test_it_works_on_a_pruned_net(tiny_base, tmp_path):
    base = load(tiny_base)
    heads = [(n, m) for n, m in base.unet.named_modules() if n.endswith("attn2")]
    cutting.cut(base.unet, {n: {"kind": "heads", "total": m.heads, "kept": [0]} for n, m in heads})
    unet, erased, _ = run(base, tmp_path)
    assert erased.progress.step == 5
    assert not same(unet, base.unet)


def test_what_has_no_words_or_no_attention_is_refused(tiny_base, tmp_path):
    base = load(tiny_base)
    own = base.concepts["monet"]
    base.concepts["monet"] = dataclasses.replace(own, mask=torch.zeros_like(own.mask))
    with pytest.raises(UserError, match=r"concepts\.monet: its captions have no word .* erase\.fmn\.inversion_steps"):
        run(base, tmp_path)
    base.concepts["monet"] = dataclasses.replace(own, anchor=None, mask=None, end=None)
    with pytest.raises(UserError, match=r"\(monet\): pictures encoded without anchors; encode them again"):
        run(base, tmp_path)
    base.concepts["monet"] = own
    base.unet = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"fmn\.variant: 'x' selects no parameter"):
        run(base, tmp_path)
    with pytest.raises(UserError, match="no cross-attention"):
        run(base, tmp_path, variant="full")
