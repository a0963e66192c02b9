import hashlib

import numpy as np
import pytest
from PIL import Image

from lethe.files.errors import UserError
from lethe.report import grids
from lethe.report.reading import read_plan
from tests import fabricated


@pytest.fixture(scope="module")
def drawn(plan_path):
    (group,) = read_plan(plan_path).groups
    runs = {arm: found[0] for arm, found in group.arms.items()}
    sections = grids.sections(group, group.members, 2)
    return runs, sections, *grids.grid(runs, sections)


def test_sections_are_concepts_then_neighbours_then_others(drawn):
    _, sections, _, _ = drawn
    assert [section.tone for section in sections] == ["erased", "erased", "near", "kept"]
    assert sections[0].keys == (("van_gogh", 0), ("van_gogh", 4))
    assert sections[2].keys == (("retain", 0), ("retain", 8))  # the even rows are munch's, a neighbour
    assert "munch" in sections[2].title
    assert all(case % 2 for _, case in sections[3].keys)


def test_every_picture_stands_in_its_place(drawn):
    """Red tells the arm, green the prompt: each tile's corners and centre must have its own colour."""
    runs, sections, picture, places = drawn
    assert picture.size == places.size
    pixels = np.asarray(picture)
    numbers = {"van_gogh": 6, "monet": 0, "retain": 12}  # where a set begins in the fabricated table
    keys = [key for section in sections for key in section.keys]
    for row, arm in enumerate(runs):
        for column, (name, case) in enumerate(keys):
            x, y = places.tile(row, column)
            expected = [fabricated.TINT[arm], numbers[name] + case, 50]
            for dx, dy in ((0, 0), (places.side - 1, places.side - 1), (places.side // 2, places.side // 2)):
                assert pixels[y + dy, x + dx].tolist() == expected, (arm, name, case)
            assert pixels[y - 1, x].tolist() != expected
    assert (pixels[:, -grids.EDGE :] == 255).all() and (pixels[-grids.EDGE :] == 255).all()


def test_small_pictures_keep_their_pixels():
    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    assert grids.shown_side(32) == 128
    made = np.asarray(grids.shown(source, 128))
    assert (made[::4, ::4] == np.asarray(source)).all() and (made[3::4, 3::4] == np.asarray(source)).all()


@pytest.mark.parametrize(
    ("side", "shown"), [(8, 128), (48, 144), (64, 128), (100, 200), (128, 128), (200, 200), (768, 256)]
)
def test_sides(side, shown):
    assert grids.shown_side(side) == shown
    assert grids.shown(Image.new("RGB", (side, side)), shown).size == (shown, shown)


def test_spread():
    assert grids.spread(range(50), 4) == [0, 13, 26, 39]
    assert [case % 8 for case in grids.spread(range(48), 4)] == [0, 5, 2, 7]  # eight contents in turn
    assert grids.spread(range(16), 4) == [0, 5, 10, 15]
    assert grids.spread(range(7), 4) == [0, 1, 3, 5]
    assert grids.spread([1, 2], 4) == [1, 2]
    assert grids.spread([], 4) == []


def test_long_words_are_cut():
    pen = grids.ImageDraw.Draw(Image.new("RGB", (1, 1)))
    face = grids.font(13)
    lines = grids.wrapped(pen, "the starry night over the rhone " * 5, 100, face, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(pen.textlength(line, face) <= 100 for line in lines)
    assert grids.wrapped(pen, "a boat", 100, face, 3) == ["a boat"]


def test_the_same_grid_twice(drawn):
    runs, sections, picture, _ = drawn
    again, _ = grids.grid(runs, sections)
    assert hashlib.sha256(again.tobytes()).digest() == hashlib.sha256(picture.tobytes()).digest()


def test_a_picture_that_is_not_there_is_refused(drawn):
    runs, _, _, _ = drawn
    with pytest.raises(UserError, match="no picture of prompt monet/99"):
        grids.grid(runs, [grids.Section("monet", "erased", (("monet", 99),))])
