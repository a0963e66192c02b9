"""Picture sets: what is read, which pairs are held out, and the one line that a bad set ends in."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lethe.files.errors import UserError
from lethe.files.images import png, write_tar
from lethe.pretraining import pictures

STYLES, CONTENTS = ("ink", "wash", "chalk"), ("boat", "tree", "house", "dog")


def row(style, content, **more):
    own = {"file_name": f"{style}-{content}.png", "text": f"a {content} in {style}", "style": style, "content": content}
    return own | more


ROWS = [row(style, content) for content in CONTENTS for style in STYLES]


def members(rows, picture=None):
    """metadata.jsonl and a picture for each row."""
    pixels = np.full((16, 16, 3), 90, np.uint8) if picture is None else picture
    listed = "".join(json.dumps(one) + "\n" for one in rows)
    return [("metadata.jsonl", listed.encode()), *((one["file_name"], png(pixels)) for one in rows)]


def folder(path, found):
    path.mkdir()
    for name, content in found:
        (path / name).write_bytes(content)
    return path


def refused(path):
    with pytest.raises(UserError) as told:
        pictures.read(path, 64)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_folder_and_its_tar_are_one_set(tmp_path):
    rows = [row("ink", "boat", texts=["boat, ink"], loose=["a boat"], group="things"), *ROWS[1:]]
    write_tar(tmp_path / "set.tar", members(rows))
    one = pictures.read(folder(tmp_path / "set", members(rows)), 64)
    two = pictures.read(tmp_path / "set.tar", 64)
    assert one.rows == two.rows and np.array_equal(one.pixels, two.pixels) and np.array_equal(one.held, two.held)
    assert one.styles == list(STYLES) and one.contents == list(CONTENTS)
    assert one.pixels.shape == (12, 64, 64, 4) and (one.pixels[0, 5, 5] == [90, 90, 90, 255]).all()
    assert one.rows[0].wordings == ("a boat in ink", "boat, ink") and one.rows[0].loose == ("a boat",)
    assert one.ids("style").tolist() == [0, 1, 2] * 4


def test_the_first_contents_only(tmp_path):
    found = pictures.read(folder(tmp_path / "set", members(ROWS)), 64, contents=2)
    assert found.contents == ["boat", "tree"] and len(found.rows) == 6


def test_what_is_transparent_does_not_bleed_into_edges(tmp_path):
    picture = np.zeros((128, 128, 4), np.uint8)
    picture[:, 64:] = (200, 0, 0, 255)
    picture[:, :64] = (0, 0, 255, 0)  # a colour that nobody sees
    found = pictures.read(folder(tmp_path / "set", members(ROWS, picture)), 64)
    assert found.pixels[0, :, 40:, 2].max() == 0 and found.pixels[0, 0, 0, 3] == 0


def test_held_out_pairs_are_the_same_each_time_and_in_any_order():
    pairs = [(f"s{i}", f"c{j}") for j in range(40) for i in range(5)]
    held = pictures.held_out(pairs, 0.1)
    assert held.sum() == 20
    again = pictures.held_out(pairs[::-1], 0.1)
    assert np.array_equal(held, again[::-1])
    assert not pictures.held_out(pairs, 0.0).any()


def test_a_pair_is_held_out_with_all_its_pictures_and_both_its_labels_stay_seen():
    pairs = [(f"s{i}", f"c{j}") for j in range(40) for i in range(5)] * 2
    held = pictures.held_out(pairs, 0.15)
    gone = {pair for pair, is_held in zip(pairs, held, strict=True) if is_held}
    seen = {pair for pair, is_held in zip(pairs, held, strict=True) if not is_held}
    assert not gone & seen and len(gone) == 30
    assert {style for style, _ in seen} == {f"s{i}" for i in range(5)}
    assert max(Counter(content for _, content in gone).values()) == 1
    assert max(Counter(style for style, _ in gone).values()) <= 2 * 0.15 * 40 + 1


def test_a_content_of_two_styles_loses_none():
    assert not pictures.held_out([(style, content) for style in "ab" for content in "cdefg"], 0.3).any()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [row("ink", content) for content in CONTENTS],
            "at least two labels of style are wanted to tell apart; found ink",
        ),
        (
            [row(style, "boat") for style in STYLES],
            "at least two labels of content are wanted to tell apart; found boat",
        ),
        ([*ROWS, row("ink", "owl")], "1 contents are there in one style only (owl)"),
        ([*ROWS[:4], row("ink", "")], "metadata.jsonl line 5: no text in column 'content'"),
        ([*ROWS, row("ink", "boat", texts="boat")], "line 13: texts is no list of captions; mend it or leave it out"),
        ([], "at least two labels of style are wanted to tell apart; found none"),
    ],
)
def test_a_set_that_cannot_teach_is_refused(tmp_path, rows, told):
    assert told in refused(folder(tmp_path / "set", members(rows)))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "metadata.jsonl").unlink(), "has no metadata.jsonl; wanted: one object a line with file_name"),
        (lambda f: (f / "metadata.jsonl").write_text("{\n"), "metadata.jsonl line 1: not JSON"),
        (lambda f: (f / "ink-boat.png").unlink(), "line 1: ink-boat.png: no such file in"),
        (lambda f: (f / "ink-boat.png").write_bytes(b"no"), "ink-boat.png: not a readable picture"),
        (lambda f: (f / "ink-boat.png").write_bytes(oblong()), "ink-boat.png: 20 x 10 is not square; crop it"),
    ],
)
def test_a_folder_with_a_fault(tmp_path, spoil, told):
    found = folder(tmp_path / "set", members(ROWS))
    spoil(found)
    assert told in refused(found)


def oblong():
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_archive_that_is_none(tmp_path):
    (tmp_path / "set.tar").write_bytes(b"not a tar" * 200)
    assert "set.tar: not a readable tar" in refused(tmp_path / "set.tar")
    assert "absent: no such picture set; give a folder with metadata.jsonl, or a tar of one" in refused(
        tmp_path / "absent"
    )
