import itertools

import pytest
import torch
from transformers import CLIPTokenizer

from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.texts import tokens
from tests.conftest import tokenizer

ATELIER = "models/atelier/pipeline/tokenizer"


def by_sorting(values):
    """Duchi et al. 2008, figure 1."""
    ordered = values.sort(descending=True).values
    over = ordered - (ordered.cumsum(0) - 1) / torch.arange(1, len(values) + 1)
    last = int((over > 0).nonzero().max())
    return (values - (ordered[: last + 1].sum() - 1) / (last + 1)).clamp(min=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_projection_is_that_by_sorting(scale):
    draws = torch.Generator().manual_seed(0)
    values = scale * torch.randn((5, 3, 70), generator=draws) + 0.5
    found = tokens.simplex(values)
    wanted = torch.stack([by_sorting(row) for row in values.double().flatten(0, 1)]).view_as(found)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 3))


def test_what_is_on_the_simplex_stays():
    values = torch.tensor([[0.2, 0.0, 0.8], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(tokens.simplex(values), values)


def test_a_draw_is_one_token_by_its_chance_and_the_gradient_passes_cut():
    chances = torch.tensor([[0.5, 0.0, 0.25, 0.25]], requires_grad=True)
    uniform = torch.arange(8)[None] / 8
    picked = torch.cat([tokens.sampled(chances, one) for one in uniform.T])
    assert picked.argmax(-1).tolist() == [0, 0, 0, 0, 2, 2, 3, 3]
    assert (picked.sum(-1) == 1).all()
    (picked[0] * torch.tensor([3.0, 0.5, -4.0, 0.0])).sum().backward()
    assert chances.grad.tolist() == [[1.0, 0.5, -1.0, 0.0]]


def merging(length=16):
    """A tokenizer with beginnings of words: "box" is one token, "ox" another, and "b" + "ox" is read as the first."""
    letters = [*"abox"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(one + "</w>" for one in letters), "ox</w>", "box</w>"]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[("o", "x</w>"), ("b", "ox</w>")], model_max_length=length)


def test_the_vocabulary_is_what_stands_for_itself():
    made = merging()
    assert sorted(tokens.vocabulary(made).values()) == ["a", "b", "box", "o", "ox", "x"]
    vocab = made.get_vocab()
    pieces = [vocab["b"], vocab["ox</w>"]]
    assert made(made.decode(pieces), add_special_tokens=False).input_ids == [vocab["box</w>"]], "what a search may meet"


@pytest.mark.parametrize("made", [merging(), tokenizer(16), ATELIER])
def test_words_of_the_vocabulary_are_read_as_they_were_chosen(made):
    made = CLIPTokenizer.from_pretrained(made) if isinstance(made, str) else made
    words, length = tokens.vocabulary(made), made.model_max_length
    assert not set(words) & set(made.all_special_ids)
    draws = torch.Generator().manual_seed(0)
    ids = torch.tensor(list(words))
    for position in ("prefix", "suffix"):
        rows = tokens.sentences(made, ["a box"] * 50, 3, position, length, torch.device("cpu"), "x")
        chosen = ids[torch.randint(len(ids), (50, 3), generator=draws)]
        rows = rows.filled(chosen)
        for number, own in enumerate(chosen.tolist()):
            text = tokens.joined([words[one] for one in own], "a box", position)
            assert tokens.survives(made, text, rows.rows([number])), text
            assert not tokens.survives(made, text + " a", rows.rows([number]))


def test_pairs_of_all_words_survive():
    made = CLIPTokenizer.from_pretrained(ATELIER)
    words = tokens.vocabulary(made)
    assert len(words) > 100
    pairs = list(itertools.product(words, repeat=2))
    read = made([f"{words[one]} {words[other]}" for one, other in pairs], add_special_tokens=False).input_ids
    assert [tuple(row) for row in read] == pairs


@pytest.mark.parametrize(("position", "places"), [("prefix", [1, 2]), ("suffix", [5, 6])])
def test_where_free_tokens_stand(position, places):
    made = tokenizer(10)
    found = tokens.sentences(made, ["a sky"], 2, position, 10, torch.device("cpu"), "x")
    assert found.places.tolist() == [places]
    assert found.ends.tolist() == [7]
    filled = found.filled(torch.tensor([[30, 31]])).ids[0].tolist()
    assert filled[places[0] : places[1] + 1] == [30, 31]
    assert [one for one in filled[:8] if one not in (30, 31)] == made("a sky").input_ids
    assert filled[8:] == [made.pad_token_id] * 2


def test_a_prompt_that_is_too_long_loses_its_end_as_in_drawing():
    made, long = tokenizer(8), "abcdefghij"
    found = tokens.sentences(made, [long], 3, "prefix", 8, torch.device("cpu"), "x")
    word = made("x", add_special_tokens=False).input_ids
    filled = found.filled(torch.tensor([word * 3]))
    assert tokens.survives(made, f"x x x {long}", filled)
    assert found.ends.tolist() == [7]
    with pytest.raises(UserError, match=r"x: no room for 3 tokens after 'abcdefghij' .* set position to prefix"):
        tokens.sentences(made, [long], 3, "suffix", 8, torch.device("cpu"), "x")


@pytest.mark.parametrize("count", [0, 6, 20])
def test_tokens_that_leave_no_room_are_refused(count):
    with pytest.raises(UserError, match=rf"attack\.tokens: {count} tokens beside the prompt.* give 1 to 5"):
        tokens.sentences(tokenizer(8), ["a"], count, "prefix", 8, torch.device("cpu"), "attack.tokens")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("path", ["tiny_base", "other_base"])
def test_known_tokens_in_the_free_places_are_read_as_written(path, masked, request):
    base = pipelines.load_base(str(request.getfixturevalue(path)), None, ["tokenizer", "text_encoder"])
    base.text_encoder.config.use_attention_mask = masked
    length, table = tokens.length(base), base.text_encoder.get_input_embeddings().weight
    wanted = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["x y a sky", "x y b"])
    rows = tokens.sentences(base.tokenizer, ["a sky", "b"], 2, "prefix", length, torch.device("cpu"), "x")
    letters = torch.tensor(base.tokenizer("x y", add_special_tokens=False).input_ids).expand(2, -1)
    vectors = table[letters].detach().requires_grad_(True)
    found = tokens.encode(base.text_encoder, rows, vectors)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(tokens.encode(base.text_encoder, rows.filled(letters)), wanted)
    found[0].sum().backward()
    assert vectors.grad[0].abs().sum() > 0
    assert vectors.grad[1].abs().sum() == 0, "rows are independent"
    plain = tokens.plain(base.tokenizer, ["x y a sky", "x y b"], length, torch.device("cpu"))
    torch.testing.assert_close(tokens.encode(base.text_encoder, plain), wanted)
    assert not base.text_encoder.get_input_embeddings()._forward_hooks


def test_a_text_with_a_word_of_its_own():
    made = tokenizer(10)
    found = tokens.with_word(made, ["* sky", "a *", "abcdefghijk *", "*"], "*", 10, torch.device("cpu"))
    assert found.places.tolist() == [[1], [2], [8], [1]]
    assert found.ends.tolist() == [5, 3, 9, 2]
    letter = made("x", add_special_tokens=False).input_ids * 4
    filled = found.filled(torch.tensor(letter)[:, None])
    for number, text in enumerate(("x sky", "a x")):
        assert tokens.survives(made, text, filled.rows([number]))
    assert filled.ids[2, 9] == made.eos_token_id


def test_levels_are_the_middles_of_equal_parts():
    assert tokens.levels(50, 1000, "x") == list(range(10, 1000, 20))
    assert tokens.levels(3, 3, "x") == [0, 1, 2]
    for count in (0, 1001):
        with pytest.raises(UserError, match=rf"x: {count} is not from 1 to the model's 1000 timesteps"):
            tokens.levels(count, 1000, "x")
