"""Picture grids: arms down, prompts across, the same picture seed in a column.

Columns are taken at even steps from the prompt files, before any picture was seen, so that nobody picks the good ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from lethe.drawing.sheets import fitted, wrapped
from lethe.files.errors import UserError
from lethe.files.images import Entry, Images
from lethe.measuring.keeping import is_near
from lethe.measuring.measures import of_set, retained
from lethe.measuring.runs import Group, Run

SMALL, LARGE = 128, 256  # small pictures are enlarged to at least SMALL pixels, large ones reduced to LARGE
LABEL, HEAD, LINE, CAPTION = 128, 30, 17, 20  # pixels: arm names, section titles, a prompt's line, the judge's words
LINES = 4  # of a prompt, at most
GAP, SECTION, EDGE = 6, 22, 16
INK, FAINT, PAPER = "#1c2430", "#5b6675", "#ffffff"
TONES = {"erased": "#b3261e", "near": "#9a6700", "kept": "#1a7f37"}


@dataclass(frozen=True)
class Section:
    """Neighbouring columns under one title; `tone` is a key of TONES, `keys` are (set, case_number)."""

    title: str
    tone: str
    keys: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Layout:
    """Where things stand, in pixels; `tile(row, column)` is the left upper corner of a picture."""

    side: int
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    size: tuple[int, int]

    def tile(self, row: int, column: int) -> tuple[int, int]:
        return self.columns[column], self.rows[row]


def spread(items: Sequence | pd.Index, count: int) -> list:
    """Up to `count` items at even steps, the first among them.

    Where there is room a step is one item longer: prompt files go round contents and styles, and a step that divides
    that round would show the same one again and again.
    """
    count = min(count, len(items))
    if len(items) < count * count:
        return [items[i * len(items) // count] for i in range(count)]
    return [items[i * (len(items) // count + 1)] for i in range(count)]


def sections(group: Group, members: Sequence[str], count: int) -> list[Section]:
    """`count` prompts of each erased concept, then of its neighbours, then of other prompts that must stay."""
    run = next(iter(group.arms.values()))[0]
    found = [
        Section(
            f"{plain(name)}: to be erased",
            "erased",
            tuple((name, case) for case in spread(of_set(run, name).index, count)),
        )
        for name in members
    ]
    kept = retained(run, group)
    labels = sorted(frozenset().union(*(group.neighbours[name] for name in members)))
    near = is_near(kept.reset_index(), group.concepts, members)
    near_title = f"neighbours ({', '.join(map(plain, labels))}): to be kept"
    for table, title, tone in ((kept[near], near_title, "near"), (kept[~near], "others: to be kept", "kept")):
        found.append(Section(title, tone, tuple(spread(table.index, count))))
    return [section for section in found if section.keys]


def plain(name: str) -> str:
    return name.replace("_", " ")


def layout(sections: Sequence[Section], rows: int, side: int, lines: int, captions: bool, label: int = LABEL) -> Layout:
    """Places of all pictures. `side`: pixels of a picture as it is shown; `lines`: of the longest prompt; `label`:
    pixels for the names of arms."""
    columns, x = [], EDGE + label
    for section in sections:
        for _ in section.keys:
            columns.append(x)
            x += side + GAP
        x += SECTION - GAP
    top = EDGE + HEAD + lines * LINE + GAP
    step = side + GAP + (CAPTION if captions else 0)
    places = tuple(top + row * step for row in range(rows))
    return Layout(side, tuple(columns), places, (x - SECTION + EDGE, top + rows * step - GAP + EDGE))


def shown_side(side: int) -> int:
    """Small pictures grow by a whole factor (their pixels stay visible), large ones shrink to LARGE."""
    if side < SMALL:
        return side * -(-SMALL // side)
    return min(side, LARGE)


def shown(picture: Image.Image, side: int) -> Image.Image:
    """Nearest-pixel enlargement, or smooth reduction."""
    if picture.width < side:
        return picture.resize((side, side), Image.Resampling.NEAREST)
    return picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)


Pictures = dict[tuple[str, int], tuple[Entry, Image.Image]]  # those of one row of a grid, by (set, case_number)


def grid(runs: dict[str, Run], sections: Sequence[Section]) -> tuple[Image.Image, Layout]:
    """Draws the grid: one row an arm, its first training seed. Raises UserError if an arm lacks a picture."""
    keys = [key for section in sections for key in section.keys]
    rows = {arm: pictures(run.samples, keys) for arm, run in runs.items()}
    judged = runs if _judged(runs) else {}
    return sheet(rows, sections, {arm: {key: _judgement(run, key) for key in keys} for arm, run in judged.items()})


def pictures(samples: Path, keys: Sequence[tuple[str, int]]) -> Pictures:
    """Some of the pictures of a samples folder. Raises UserError if one is not there."""
    with Images(samples) as images:
        entries = {(entry.set, entry.case_number): entry for entry in images.entries}
        missing = [key for key in keys if key not in entries]
        if missing:
            raise UserError(f"{samples}: no picture of prompt {missing[0][0]}/{missing[0][1]}; sample again")
        return {key: (entries[key], images.picture(entries[key])) for key in keys}


def sheet(
    rows: dict[str, Pictures], sections: Sequence[Section], words: dict[str, dict[tuple[str, int], str]] | None = None
) -> tuple[Image.Image, Layout]:
    """Pictures in labelled rows and columns. `words`: what stands below a picture, by row and key."""
    keys = [key for section in sections for key in section.keys]
    first = next(iter(rows.values()))
    side = shown_side(first[keys[0]][1].width)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    prompts = [wrapped(ruler, first[key][0].prompt, side, font(13), LINES) for key in keys]
    widest = max(math.ceil(ruler.textlength(name, font(17, bold=True))) for name in rows)
    places = layout(sections, len(rows), side, max(map(len, prompts)), bool(words), max(LABEL, widest + 2 * GAP))
    canvas = Image.new("RGB", places.size, PAPER)
    pen = ImageDraw.Draw(canvas)
    _head(pen, places, sections, prompts)
    for row, (name, found) in enumerate(rows.items()):
        pen.text((EDGE, places.rows[row] + places.side // 2), name, INK, font(17, bold=True), anchor="lm")
        for column, key in enumerate(keys):
            x, y = places.tile(row, column)
            canvas.paste(shown(found[key][1], places.side), (x, y))
            if words and words[name][key]:
                text = fitted(pen, words[name][key], places.side, font(12))
                pen.text((x + places.side // 2, y + places.side + 3), text, FAINT, font(12), anchor="ma")
    return canvas, places


def _judged(runs: dict[str, Run]) -> bool:
    return any("style_pred" in run.scores or "content_pred" in run.scores for run in runs.values())


def _judgement(run: Run, key: tuple[str, int]) -> str:
    """What the judges saw in a picture: "monet, boat"."""
    words = [run.scores[name].loc[key] for name in ("style_pred", "content_pred") if name in run.scores]
    return ", ".join(plain(str(word)) for word in words if isinstance(word, str))


def _head(pen: ImageDraw.ImageDraw, places: Layout, sections: Sequence[Section], prompts: list[list[str]]) -> None:
    """Section titles over a coloured bar, and the prompt above each column."""
    column = 0
    for section in sections:
        left = places.columns[column]
        width = len(section.keys) * (places.side + GAP) - GAP
        title = fitted(pen, section.title, width, font(15, bold=True))
        pen.text((left, EDGE), title, TONES[section.tone], font(15, bold=True))
        pen.rectangle((left, EDGE + HEAD - 7, left + width - 1, EDGE + HEAD - 5), TONES[section.tone])
        for _ in section.keys:
            for above, line in enumerate(reversed(prompts[column])):
                bottom = places.rows[0] - GAP - above * LINE
                pen.text((places.columns[column], bottom), line, INK, font(13), anchor="ld")
            column += 1


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
