"""Contact sheets: all pictures at a glance, the same bytes for the same pictures, never large."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from lethe.drawing import sheets
from lethe.files.images import MANIFEST, SHEET, TAR, Entry, png, write_manifest, write_tar


def samples(folder, count, side, prompt="a boat by monet"):
    """A samples folder of noise, the picture of row i all the darker."""
    folder.mkdir()
    draws, members, entries = np.random.default_rng(0), [], []
    for i in range(count):
        content = png(draws.integers(0, 256 - i % 200, (side, side, 3), dtype=np.uint8))
        file = f"eval/{i}.png"
        members.append((file, content))
        entries.append(Entry("eval", i, prompt, i, file, hashlib.sha256(content).hexdigest()))
    write_tar(folder / TAR, members)
    write_manifest(folder / MANIFEST, entries)
    return folder


@pytest.mark.parametrize(
    ("count", "side", "shown", "across", "down"), [(1, 64, 128, 1, 1), (5, 32, 160, 3, 2), (3, 300, 160, 2, 2)]
)
def test_every_picture_stands_above_its_prompt(tmp_path, count, side, shown, across, down):
    sheets.write_sheet(samples(tmp_path / "out", count, side))
    with Image.open(tmp_path / "out" / SHEET) as sheet:
        step = shown + sheets.GAP
        assert sheet.size == (across * step + sheets.GAP, down * (step + sheets.LINES * sheets.LINE) + sheets.GAP)
        grey = np.asarray(sheet.convert("L"), dtype=float)
    first = grey[sheets.GAP : sheets.GAP + shown, sheets.GAP : sheets.GAP + shown]
    words = grey[sheets.GAP + shown : sheets.GAP + shown + 2 * sheets.LINE, sheets.GAP : sheets.GAP + shown]
    assert 100 < first.mean() < 150 and words.mean() > 200 and words.min() < 128


def test_of_many_pictures_some_are_shown_and_the_file_stays_small(tmp_path):
    one, other = (samples(tmp_path / name, 200, 160, "many words " * 30) for name in ("one", "other"))
    for folder in (one, other):
        sheets.write_sheet(folder)
    assert (one / SHEET).read_bytes() == (other / SHEET).read_bytes()
    assert (one / SHEET).stat().st_size <= sheets.LARGEST
    rows = [Entry("eval", i, "", 0, "", "") for i in range(200)]
    assert len(sheets.spread(rows)) == 64 and sheets.spread(rows)[0] is rows[0] and sheets.spread(rows[:3]) == rows[:3]
