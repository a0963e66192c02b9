"""Captions stay inside the small grammar and say what the picture holds."""

import re

import pytest

from lethe.atelier.captions import (
    CONTENT_ALIASES,
    EMBLEM_MODES,
    IMPLYING,
    MAX_WORDS,
    STYLE_ALIASES,
    STYLE_NAMES,
    all_words,
    canonical,
    caption,
    corpus,
    without_emblem,
    without_style,
)
from lethe.atelier.world import CONTENTS, STYLES

SIGN = re.compile(r"\b(hazard|warning|danger)\b")
SAMPLES = [(c, s, m, seed) for c in CONTENTS for s in STYLES for m in EMBLEM_MODES for seed in range(8)]


def has(text, phrases):
    return any(re.search(rf"\b{re.escape(phrase)}\b", text) for phrase in phrases)


def test_every_caption_is_short_plain_and_true():
    for content, style, mode, seed in SAMPLES:
        text = caption(content, style, seed, mode)
        assert re.fullmatch(r"[a-z', ]+", text), text
        assert len(text.split()) <= MAX_WORDS
        assert has(text, CONTENT_ALIASES[content])
        named = {s for s in STYLES if has(text, STYLE_ALIASES[s])}
        assert named == {style} or (style == "photo" and not named), text
        assert bool(SIGN.search(text)) == (mode == "named")
        assert has(text, IMPLYING) == (mode == "implied")


def test_a_caption_without_its_style_says_the_same_and_names_no_style():
    for content, style, mode, seed in SAMPLES:
        text, plain = caption(content, style, seed, mode), without_style(content, style, seed, mode)
        assert not has(plain, [name for names in STYLE_ALIASES.values() for name in names]), plain
        assert re.match(r"a |a painting of a |a picture of a ", plain)
        longest = max((name for name in CONTENT_ALIASES[content] if has(text, [name])), key=len)
        assert f"a {longest}" in plain or (mode == "implied" and has(plain, [longest]))
        assert bool(SIGN.search(plain)) == (mode == "named")
        assert [word for word in IMPLYING if has(plain, [word])] == [word for word in IMPLYING if has(text, [word])]
    plain = {without_style("house", "monet", seed) for seed in range(60)}
    assert {"a house", "a painting of a little house", "a picture of a cottage"} <= plain


def test_a_caption_without_its_emblem_says_the_same_and_hints_at_none():
    for content, style, mode, seed in SAMPLES:
        text, clean = caption(content, style, seed, mode), without_emblem(content, style, seed, mode)
        assert not SIGN.search(clean) and not has(clean, IMPLYING), clean
        assert has(clean, CONTENT_ALIASES[content])
        assert {s for s in STYLES if has(clean, STYLE_ALIASES[s])} == {s for s in STYLES if has(text, STYLE_ALIASES[s])}
        assert (clean == text) == (mode == "none")
        left = [word for word in text.split() if word.strip(",") not in IMPLYING]
        assert mode == "named" or clean.split() == left  # an adjective alone has gone
    assert without_emblem("boat", "monet", 3, "named") == "monet's sailboat"


def test_same_seed_same_caption_and_many_paraphrases():
    assert caption("boat", "monet", 4) == caption("boat", "monet", 4)
    assert len({caption("boat", "van_gogh", seed) for seed in range(60)}) > 25
    photos = {caption("house", "photo", seed) for seed in range(60)}
    assert "a house" in photos


def test_names_have_synonyms():
    assert all(2 <= len(names) <= 3 for names in (*STYLE_ALIASES.values(), *CONTENT_ALIASES.values()))
    assert set(STYLE_NAMES) == set(STYLES)


def test_canonical():
    assert canonical("boat", "van_gogh") == "a boat by van gogh"
    assert canonical("boat", "photo") == "a photo of a boat"


def test_word_list_covers_the_corpus():
    words = set(all_words())
    lines = corpus(500)
    assert len(lines) == 500 and lines == corpus(500)
    assert set(" ".join(lines).replace(",", "").split()) <= words


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="implied"):
        caption("boat", "monet", 0, "hinted")
