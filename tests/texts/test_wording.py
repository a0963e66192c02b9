import pytest

from lethe.texts.wording import end_token, neutral, runs, swapped, token_mask, words
from tests.conftest import tokenizer

PROMPT, ANCHOR = "a painting by monet", "a painting"


@pytest.mark.parametrize(
    ("prompt", "anchor", "wanted"),
    [
        (PROMPT, ANCHOR, "by monet"),
        ("a nude woman", "a woman", "nude"),
        ("a painting by van gogh", "a photo", "painting by van gogh"),
        ("monet", "", "monet"),
        ("a painting", "a painting", ""),
    ],
)
def test_words_that_the_prompt_has_over_its_anchor(prompt, anchor, wanted):
    assert words(prompt, anchor) == wanted


@pytest.mark.parametrize(
    ("caption", "prompt", "anchor", "wanted"),
    [
        ("a house by monet", PROMPT, ANCHOR, "a house"),
        ("a house by Monet, in oil", PROMPT, ANCHOR, "a house in oil"),
        (PROMPT, PROMPT, ANCHOR, ANCHOR),
        ("a house, style of claude", PROMPT, ANCHOR, ANCHOR),
        ("two dogs on a lawn", "dogs", "cats", "two cats on a lawn"),
        ("monet", "monet", "", ""),
        ("a naked man by the sea", "naked", "clothed", "a clothed man by the sea"),
    ],
)
def test_a_caption_with_the_concept_taken_out(caption, prompt, anchor, wanted):
    assert neutral(caption, prompt, anchor) == wanted


@pytest.mark.parametrize(
    ("caption", "without", "wanted"),
    [
        ("a boat xy", "a boat", [0, 0, 0, 0, 0, 0, 1, 1, 0, 0]),
        ("xy boat", "a boat", [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("a boat", "a boat", [0] * 10),
        ("a boat by x", "a boat", [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),  # fills all ten places
        ("xy", "", [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_mask_marks_what_the_caption_has_over_its_neutral_form(caption, without, wanted):
    assert token_mask(tokenizer(10), caption, without, 10) == wanted


@pytest.mark.parametrize(("caption", "wanted"), [("", 1), ("a boat", 6), ("a boat by the sea", 9)])
def test_the_end_token_follows_the_last_word(caption, wanted):
    made = tokenizer(10)
    assert end_token(made, caption, 10) == wanted
    assert made(caption, truncation=True, max_length=10).input_ids[wanted] == made.eos_token_id


PAIRS = [
    ("claude monet's little house", "a little house"),
    ("a tree in the style of monet", "a tree"),
    ("a tree, as monet would paint it", "a tree"),
    ("a boat", "a boat"),
    ("a boat by monet", "a boat"),
]


def test_runs_are_what_captions_say_over_their_plain_forms():
    """Longest first, and without words that belong to what else is in the picture."""
    assert runs(PAIRS) == ["as monet would paint it", "in the style of monet", "claude monet's", "by monet"]
    assert runs([("a nude woman", "a woman"), ("a woman", "a woman")]) == ["nude"]
    assert runs([]) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a mountain in the style of monet", "a mountain *"),
        ("A hut By  Monet, at sea", "A hut *, at sea"),
        ("claude monet's sun", "* sun"),
        ("a sun by monet in the style of monet", "a sun *"),
        ("by monet", "*"),
        ("standby monet", None),
        ("a boat", None),
    ],
)
def test_another_word_for_what_speaks_of_the_concept(text, wanted):
    assert swapped(text, runs(PAIRS), "*") == wanted


def test_nothing_in_its_place_takes_it_out():
    assert swapped("a sun by monet", ["by monet"], "") == "a sun"
    assert swapped("a sun", [""], "") is None
