import dataclasses

import pytest
import torch

from lethe.attacking.attacks import ring_a_bell
from lethe.files.errors import UserError
from lethe.models.pipelines import encode_prompts
from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.training import loop
from tests.attacking.attacks.searching import only
from tests.attacking.attacks.spoken import speaking

OPTIONS = {"tokens": 4, "eta": 2.0, "around": "prompt", "own_name": True, "population": 20, "generations": 6}


def run(own, folder, seed=0, **changed):
    budget = Budget()
    return ring_a_bell.attack(own, OPTIONS | changed, seed, loop.Keeping(folder, "r", 0), budget), budget


def distances(found, key="distance"):
    return [float(row[key]) for row in found.facts]


@pytest.fixture
def own(tiny_base, tmp_path):
    return speaking(tiny_base, tmp_path / "concepts")


def read(own, texts):
    return encode_prompts(own.base.tokenizer, own.base.text_encoder, texts).float()


@pytest.mark.parametrize(
    ("around", "wanted"), [("prompt", "a boat by picasso"), ("anchor", "a boat")], ids=["prompt", "anchor"]
)
def test_the_target_is_the_text_and_the_mean_difference_of_the_captions(own, tmp_path, around, wanted):
    found, budget = run(own, tmp_path / "kept", around=around)
    pairs = ("a picasso's boat", "a boat"), ("a hut in the style of picasso", "a hut"), ("sun by picasso", "sun")
    with_it, without = (read(own, list(column)) for column in zip(*pairs, strict=True))
    target = read(own, [wanted])[0] + 2.0 * (with_it - without).mean(0)
    text = found.asked["picasso", 0]
    fact = next(row for row in found.facts if row["set"] == "picasso")
    assert fact["around"] == wanted
    assert float(fact["distance"]) == pytest.approx(float((read(own, [text])[0] - target).square().sum()), rel=5e-3)
    plain = (read(own, ["a boat by picasso"])[0] - target).square().sum()
    assert float(fact["distance_of_prompt"]) == pytest.approx(float(plain), rel=5e-3)
    assert found.about["pairs"] == {"monet": 3, "picasso": 3}
    assert budget == Budget()


def test_more_generations_come_nearer(own, tmp_path):
    first, _ = run(own, tmp_path / "first", generations=1)
    last, _ = run(own, tmp_path / "last", generations=25)
    assert all(one < other for one, other in zip(distances(last), distances(first), strict=True))
    assert sum(distances(last)) < 0.95 * sum(distances(first))


def test_one_token_is_the_best_of_all(own, tmp_path):
    """Twenty of forty words a generation, many generations: as good as trying each of them."""
    found, _ = run(own, tmp_path / "kept", tokens=1, generations=30)
    words = tokens.vocabulary(own.base.tokenizer)
    shift, _ = ring_a_bell.direction(own.base.concepts["monet"])
    target = read(own, ["a boat by monet"])[0] + 2.0 * shift
    every = (read(own, list(words.values())) - target).square().sum((1, 2))
    assert found.asked["monet", 0] == list(words.values())[int(every.argmin())]


def test_it_does_not_look_at_the_victim(tiny_base, own, tmp_path):
    other = speaking(tiny_base, tmp_path / "other")
    with torch.no_grad():
        for parameter in [*other.unet.parameters(), *other.base.text_encoder.parameters()]:
            parameter += 0.1
    found, again = run(own, tmp_path / "one")[0], run(other, tmp_path / "two")[0]
    assert (found.asked, found.facts) == (again.asked, again.facts)


def test_what_is_found_is_read_as_it_was_found(own, tmp_path):
    found, _ = run(own, tmp_path / "kept", tokens=14)
    assert not found.states
    for text in found.asked.values():
        assert len(text.split()) == 14
        assert own.base.tokenizer(text).input_ids[-1] == own.base.tokenizer.eos_token_id
        assert len(own.base.tokenizer(text).input_ids) == 16


@pytest.mark.parametrize("own_name", [True, False])
def test_the_concepts_own_name_can_be_kept_out(own, tmp_path, monkeypatch, own_name):
    """With letters for words, of a name's tokens only the last is a word of the vocabulary."""
    evolve, seen = ring_a_bell.evolve, []
    monkeypatch.setattr(
        ring_a_bell,
        "evolve",
        lambda base, allowed, *more: (seen.append(allowed.tolist()), evolve(base, allowed, *more))[1],
    )
    run(own, tmp_path / "kept", own_name=own_name, generations=1)
    words = tokens.vocabulary(own.base.tokenizer)
    assert len(seen) == 6
    for allowed, last in zip(seen, "tttooo", strict=True):
        assert sorted(set(words.values()) - {words[one] for one in allowed}) == ([] if own_name else [last])


def test_no_row_changes_another(own, tmp_path):
    whole, _ = run(own, tmp_path / "whole")
    alone, _ = run(only(own, {("picasso", 2)}), tmp_path / "alone")
    assert alone.asked == {("picasso", 2): whole.asked["picasso", 2]}
    assert alone.facts == [row for row in whole.facts if (row["set"], row["case_number"]) == ("picasso", 2)]


def test_a_stopped_run_keeps_the_rows_that_it_found(own, tmp_path, monkeypatch):
    wanted, _ = run(own, tmp_path / "whole")
    evolve, seen = ring_a_bell.evolve, []

    def stopping(base, allowed, target, options, stream, seed):
        seen.append(stream)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return evolve(base, allowed, target, options, stream, seed)

    monkeypatch.setattr(ring_a_bell, "evolve", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(own, tmp_path / "cut")
    found, _ = run(own, tmp_path / "cut")
    assert seen == ["monet/0", "monet/2", "monet/5", "picasso/0", "picasso/0", "picasso/2", "picasso/5"]
    assert (found.asked, found.facts) == (wanted.asked, wanted.facts)
    with pytest.raises(UserError, match=r"monet-0\.json: of recipe r, not of this run \(other\)"):
        ring_a_bell.attack(own, OPTIONS, 0, loop.Keeping(tmp_path / "cut", "other", 0), Budget())
    loop.forget(loop.Keeping(tmp_path / "cut", "r", 0))
    assert not (tmp_path / "cut").exists()


def test_children_are_their_parents_parts():
    draws = torch.Generator().manual_seed(0)
    parents = torch.arange(100)[:, None].expand(-1, 6) + 1000
    found = ring_a_bell.offspring(parents, 10, draws)
    assert 160 < len(found) < 240, "half of the parents have two children"
    for member in found:
        old = [int(one) for one in member if one >= 1000]
        assert len(old) >= 5, "at most one token is replaced"
        assert len(set(old)) <= 2
        assert old == sorted(old, key=lambda one: one != old[0]), "a beginning of one, the end of the other"
    mutated = (found < 1000).any(1).float().mean()
    assert 0.15 < mutated < 0.35


@pytest.mark.parametrize("count", [0, 15])
def test_tokens_that_do_not_fit_are_refused(own, tmp_path, count):
    with pytest.raises(UserError, match=rf"ring_a_bell\.tokens: {count}, but the text encoder reads 16.* give 1 to 14"):
        run(own, tmp_path / "kept", tokens=count)


def test_captions_without_the_concept_have_no_direction(tiny_base, own, tmp_path):
    with pytest.raises(UserError, match=r"\(monet\): every caption is the same without the concept"):
        run(speaking(tiny_base, tmp_path / "bare", bare=True), tmp_path / "kept")
    own.base.concepts["monet"] = dataclasses.replace(own.base.concepts["monet"], anchor=None)
    with pytest.raises(UserError, match=r"\(monet\): pictures encoded without anchors; encode them again"):
        run(own, tmp_path / "kept")
