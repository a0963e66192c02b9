import copy
import dataclasses

import pytest
import torch

from lethe.attacking import victims
from lethe.attacking.attacks import concept_inversion
from lethe.erasing.erasers import safree
from lethe.files.errors import UserError
from lethe.models import cutting
from lethe.models.pipelines import encode_prompts
from lethe.stage.record import Budget
from lethe.texts.rows import Prompt
from lethe.training import loop, losses
from tests.attacking.attacks.spoken import speaking
from tests.tiny_training import same

OPTIONS = {"sentences": "captions", "steps": 5, "batch": 3, "lr": 0.05, "weight_decay": 0.0}


def run(own, folder, seed=0, **changed):
    budget = Budget()
    return concept_inversion.attack(own, OPTIONS | changed, seed, loop.Keeping(folder, "r", 0), budget), budget


@pytest.fixture
def own(tiny_base, tmp_path):
    return speaking(tiny_base, tmp_path / "concepts")


def value(own, name, text, rows):
    """The victim's loss on some of a concept's pictures, on noise that the attack did not see."""
    pictures, table = own.base.concepts[name], losses.schedule(own.base.scheduler, None, "legacy", own.device)
    draws = torch.Generator().manual_seed(5)
    z, t = pictures.mean[rows], torch.randint(len(table), (len(rows),), generator=draws)
    noise = torch.randn(z.shape, generator=draws)
    with torch.no_grad():
        found = own.unet(table.noised(z, noise, t), t, text.expand(len(rows), -1, -1)).sample
    return float((found - table.target(z, noise, t)).square().mean())


def test_rows_ask_with_the_word_for_the_concept(own, tmp_path):
    prompts = ["a boat by monet", "a hut in the style of monet", "monet's tree", "Monet", "a boat", "by monet by monet"]
    own = dataclasses.replace(own, rows={"monet": [Prompt(i, text, i) for i, text in enumerate(prompts)]})
    found, _ = run(own, tmp_path / "state")
    wanted = ["a boat <monet>", "a hut <monet>", "<monet> tree", "<monet>", "a painting <monet>", "<monet>"]
    assert [found.asked["monet", i] for i in range(6)] == wanted
    assert set(found.states) == set(wanted)
    shape = own.base.tokenizer.model_max_length, own.unet.config.cross_attention_dim
    assert all(state.shape == shape for state in found.states.values())
    assert len({tuple(state.flatten().tolist()) for state in found.states.values()}) == len(set(wanted))


def test_before_the_first_step_the_word_is_what_the_prompt_has_over_its_anchor(own, tmp_path):
    """With a learning rate of nothing: a text in which that mean stands at the word's place."""
    own = dataclasses.replace(own, rows={"monet": [Prompt(0, "ab by monet", 0)]})
    found, _ = run(own, tmp_path / "state", lr=1e-12, steps=1)
    table = own.base.text_encoder.get_input_embeddings().weight
    spelled = own.base.tokenizer("by monet", add_special_tokens=False).input_ids
    with torch.no_grad():
        table[10] = table[spelled].mean(0)  # some letter in the midst of words
        ids = torch.tensor([own.base.tokenizer("ab", add_special_tokens=False).input_ids])
        row = [own.base.tokenizer.bos_token_id, *ids[0].tolist(), 10]
        row += [own.base.tokenizer.eos_token_id] * (16 - len(row))
        wanted = own.base.text_encoder(torch.tensor([row]))[0][0]
    torch.testing.assert_close(found.states["ab <monet>"], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sentences", ["anchor", "captions"])
def test_the_victims_loss_is_lowered_and_nothing_else_changes(own, tmp_path, sentences):
    rows = {
        name: [Prompt(0, own.concepts[name]["prompt"] if sentences == "anchor" else f"sun by {name}", 0)]
        for name in own.concepts
    }
    own = dataclasses.replace(own, rows=rows)
    encoder = own.base.text_encoder
    before = copy.deepcopy(own.unet), copy.deepcopy(encoder)
    start, _ = run(own, tmp_path / "start", sentences=sentences, steps=1, lr=1e-12)
    found, budget = run(own, tmp_path / "state", sentences=sentences, steps=60, batch=6, lr=0.1)
    assert same(own.unet, before[0])
    assert same(encoder, before[1])
    assert budget == Budget(student_forward=720, student_backward=720)
    pictures = torch.tensor([0, 1, 2, 3] if sentences == "anchor" else [2, 3]).repeat(6)
    for name in own.concepts:
        text = found.asked[name, 0]
        assert value(own, name, found.states[text], pictures) < value(own, name, start.states[text], pictures) - 0.01


def test_the_word_decays_as_released(own, tmp_path):
    """After one step of 0.05: 0.05 * 0.01 of what it was before is gone, beside what the gradient did."""
    words = {}
    for decay, rate in ((0.0, 0.05), (0.01, 0.05), (0.0, 1e-12)):
        one = dataclasses.replace(own, base=copy.copy(own.base))
        run(one, tmp_path / f"{decay}-{rate}", steps=1, lr=rate, weight_decay=decay)
        place = one.base.tokenizer.convert_tokens_to_ids("<monet>")
        words[decay, rate] = one.base.text_encoder.get_input_embeddings().weight[place].detach()
    start = words[0.0, 1e-12]
    torch.testing.assert_close(words[0.0, 0.05] - words[0.01, 0.05], 0.05 * 0.01 * start, atol=1e-7, rtol=1e-3)


def test_concepts_do_not_change_each_other(own, tmp_path):
    both, _ = run(own, tmp_path / "both")
    one = dataclasses.replace(own, concepts={"picasso": own.concepts["picasso"]}, rows={"picasso": own.rows["picasso"]})
    alone, _ = run(one, tmp_path / "alone")
    text = both.asked["picasso", 0]
    assert torch.equal(both.states[text], alone.states[text])


def test_a_stopped_run_ends_as_one_that_was_not(own, tmp_path, monkeypatch):
    wanted, budget = run(own, tmp_path / "whole")
    advance, steps = concept_inversion.advance, []

    def stopping(*given):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        advance(*given)

    monkeypatch.setattr(concept_inversion, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(own, tmp_path / "cut")
    found, counted = run(own, tmp_path / "cut")
    assert found.states.keys() == wanted.states.keys()
    assert all(torch.equal(state, wanted.states[text]) for text, state in found.states.items())
    assert counted == budget


def test_it_works_on_a_pruned_net_and_on_epsilon(other_base, tmp_path):
    own = speaking(other_base, tmp_path / "concepts")
    heads = [(name, module) for name, module in own.unet.named_modules() if name.endswith("attn2")]
    cutting.cut(own.unet, {name: {"kind": "heads", "total": one.heads, "kept": [0]} for name, one in heads})
    own.unet.requires_grad_(False)
    assert len(run(own, tmp_path / "state")[0].asked) == 6


def test_timesteps_are_one_from_each_part():
    found = torch.stack([concept_inversion.spread(1000, 8, torch.Generator().manual_seed(i)) for i in range(200)])
    assert ((found // 125) == torch.arange(8)).all()
    assert abs(float(found.float().mean()) - 499.5) < 5


def test_the_word_is_in_what_the_text_encoder_reads_of_a_long_prompt(own, tmp_path):
    own = dataclasses.replace(own, rows={"monet": [Prompt(0, "abcdefghijklmnopqrst by monet", 0)]})
    (state,) = run(own, tmp_path / "state")[0].states.values()
    plain = encode_prompts(own.base.tokenizer, own.base.text_encoder, ["abcdefghijklmnopqrst"])[0]
    torch.testing.assert_close(state[:13], plain[:13])
    assert not torch.allclose(state[14], plain[14])


@pytest.mark.parametrize("eos", [None, 2])
def test_who_reads_the_text_reads_the_word(own, tmp_path, eos):
    """As an eraser does that acts while sampling: one token more, in its place, and the end token is the end."""
    tokenizer, encoder = own.base.tokenizer, own.base.text_encoder
    for module in [*encoder.modules()] if eos else []:
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = eos  # as in old configurations
    plain, before = encode_prompts(tokenizer, encoder, ["a boat"]), len(tokenizer)
    found, _ = run(own, tmp_path / "state")
    base = own.base
    assert len(tokenizer) == before
    assert base.tokenizer is not tokenizer
    assert base.text_encoder is not encoder
    text = found.asked["monet", 0]
    assert text == "a boat <monet>"
    assert len(base.tokenizer(text).input_ids) == len(tokenizer("a boat").input_ids) + 1
    for one, state in found.states.items():
        torch.testing.assert_close(encode_prompts(base.tokenizer, base.text_encoder, [one])[0], state)
    assert torch.equal(encode_prompts(base.tokenizer, base.text_encoder, ["a boat"]), plain)
    read = base.tokenizer(text, return_tensors="pt").input_ids
    output = base.text_encoder(read)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, -1])


def test_an_eraser_that_guides_sampling_meets_the_word(own, tmp_path, monkeypatch):
    options = {name: option["default"] for name, option in safree.OPTIONS.items()}
    record = {"eraser": "safree", "texts": ["a painting by monet"], **options, "gamma": None, "padding": True}
    own, seen = dataclasses.replace(own, guidance=record), []
    found, _ = run(own, tmp_path / "state")
    move = safree.move
    monkeypatch.setattr(
        safree,
        "move",
        lambda base, text, *more: (seen.append((text, len(safree.tokens(base, text)))), move(base, text, *more))[1],
    )
    entries, _ = victims.draw(own, found, 1)
    assert len(entries) == 6
    lengths = dict(seen)
    assert lengths["a boat <monet>"] == len(own.base.tokenizer("a boat").input_ids) + 1


def test_captions_that_say_nothing_of_the_concept_are_refused_where_they_are_read(tiny_base, tmp_path):
    own = speaking(tiny_base, tmp_path / "bare", bare=True)
    with pytest.raises(UserError, match=r"\(monet\): every caption is the same without the concept"):
        run(own, tmp_path / "state")
    found, _ = run(own, tmp_path / "state", sentences="anchor")
    assert found.asked["monet", 0] == "a boat <monet>", "the anchor's sentence needs no captions"
