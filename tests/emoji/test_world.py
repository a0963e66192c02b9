"""The committed pictures: what a reader of the archive finds, and what captions say of it."""

import json
from collections import Counter

import pytest

from lethe.emoji import captions, sources
from lethe.emoji.world import ARCHIVE, FOLDER, SIDE, Name, names
from lethe.files.images import read_tar
from lethe.files.io import sha256
from lethe.pretraining import diffusion, networks, pictures
from lethe.pretraining.recipe import Recipe

SHA256 = "ef9bb3ccce251ea5c0f2de7b0bc399c79c92e502ffe522bde59a147ddcfd02db"


@pytest.fixture(scope="module")
def found():
    return pictures.read(ARCHIVE, SIDE, hold_out=Recipe().hold_out / 100)


def test_the_archive_is_the_one_that_results_speak_of():
    assert sha256(ARCHIVE) == SHA256


def test_every_name_is_there_in_every_style(found):
    assert found.styles == [style.word for style in sources.STYLES]
    assert found.contents == [name.content for name in names()]
    assert len(found.rows) == len({(row.style, row.content) for row in found.rows}) == 7 * 360
    assert {row.group for row in found.rows} == set(sources.GROUPS.values())


def test_every_picture_shows_something_and_can_be_shifted(found):
    assert found.pixels.shape == (2520, SIDE, SIDE, 4)
    shown = found.pixels[..., 3] > 0
    assert shown.reshape(len(shown), -1).mean(1).min() > 0.02
    edge = (SIDE - 56) // 2
    assert not shown[:, :edge].any() and not shown[:, :, -edge:].any()


def test_rows_are_what_the_captions_make_of_the_names():
    listed = json.loads(dict(read_tar(ARCHIVE))["metadata.jsonl"].split(b"\n")[0])
    assert listed == {"file_name": "noto/shinto-shrine.png", **captions.row(names()[0], "noto")}


def test_what_is_held_out_leaves_every_name_and_style_seen(found):
    held = [(row.style, row.content) for row, held in zip(found.rows, found.held, strict=True) if held]
    assert len(held) == 252
    assert max(Counter(content for _, content in held).values()) == 1
    assert max(Counter(style for style, _ in held).values()) < 360 * 0.2 + 1


def test_captions_fit_the_tokenizer(found):
    corpus = diffusion.corpus(found.rows)
    ids = diffusion.token_ids(networks.tokenizer(corpus, Recipe().vocabulary), corpus, "emoji")
    assert ids.shape == (len(corpus), networks.TEXT_LENGTH)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("anchor", "an anchor"),
        ("hot dog", "a hot dog"),
        ("french fries", "french fries"),
        ("octopus", "an octopus"),
        ("glass of milk", "a glass of milk"),
        ("popcorn", "popcorn"),
    ],
)
def test_a_name_gets_its_article(label, said):
    assert captions.phrase(Name(label, "food", ())) == said


def test_two_tags_at_most_and_none_that_the_name_says():
    row = captions.row(Name("hot dog", "food", ("dog", "hotdog", "frankfurter", "sausage")), "noto")
    assert "a hot dog, hotdog, frankfurter, in the style of noto" in row["texts"]
    assert row["text"] == "a hot dog in the style of noto" and row["text"] not in row["texts"]


def test_each_style_has_its_licence():
    text = (FOLDER / "LICENSES.md").read_text()
    for style in sources.STYLES:
        assert f"| {style.word} | {style.title} | {style.author} | {style.licence} | {style.package} |" in text
    assert {style.licence for style in sources.STYLES} == {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert "Permission is hereby granted" in text
