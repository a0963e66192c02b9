"""A captioned picture set with known style and content: read once, checked, kept as one array.

An imagefolder, or a tar of one: metadata.jsonl with one object a line, and the pictures that it names.

    file_name   the picture, square, RGB or RGBA; what is transparent gets a background
    text        the caption that says everything, by which pictures are asked for
    texts       further captions that say the same (optional)
    loose       captions that leave something out: style, content, or both (optional)
    style       label of the style
    content     label of the content
    group       what kind of content that is (optional)
"""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lethe.files.errors import UserError

LIST = "metadata.jsonl"
WANTED = ("file_name", "text", "style", "content")


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    file_name: str
    text: str
    style: str
    content: str
    texts: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    group: str = ""

    @property
    def wordings(self) -> tuple[str, ...]:
        """All captions that say everything, `text` first."""
        return tuple(dict.fromkeys((self.text, *self.texts)))


@dataclass(frozen=True)
class PictureSet:
    """Rows and their pictures uint8 [N, side, side, 4], RGBA, in the list's order. `held`: no training sees them."""

    rows: list[Row]
    pixels: np.ndarray
    held: np.ndarray
    source: str

    @property
    def styles(self) -> list[str]:
        """Labels in order of first appearance."""
        return list(dict.fromkeys(row.style for row in self.rows))

    @property
    def contents(self) -> list[str]:
        """Labels in order of first appearance."""
        return list(dict.fromkeys(row.content for row in self.rows))

    def ids(self, column: str) -> np.ndarray:
        """int64 [N]: each row's place among the labels of "style" or "content"."""
        labels = self.styles if column == "style" else self.contents
        place = {label: number for number, label in enumerate(labels)}
        return np.array([place[getattr(row, column)] for row in self.rows])


def read(path: Path, side: int, hold_out: float = 0.1, contents: int | None = None) -> PictureSet:
    """Reads and checks a picture set; `contents`: the first so many content labels only.

    Raises UserError naming list and line: a missing column or file, a picture of another size, a set of one style or
    one content, a content that only one style has, captions or labels that are no text.
    """
    names, content_of = _files(Path(path))
    rows = _rows(path, names, content_of)
    if contents is not None:
        kept = set(list(dict.fromkeys(row.content for row in rows))[:contents])
        rows = [row for row in rows if row.content in kept]
    _check(path, rows)
    # a file that has gone since its row was read counts as an empty one: not a readable picture
    pixels = np.stack([_picture(path, row, content_of(row.file_name) or b"", side) for row in rows])
    return PictureSet(rows, pixels, held_out([(row.style, row.content) for row in rows], hold_out), str(path))


def held_out(pairs: list[tuple[str, str]], share: float) -> np.ndarray:
    """bool [N]: which rows' (style, content) pairs no training sees.

    Pairs are taken by the order of their sha256 until the share is reached; one is passed over if its content has lost
    a pair already or stands in fewer than three styles, or if its style has lost twice its share. So every style and
    every content is still seen elsewhere, and what is held out has never been seen together.
    """
    distinct = list(dict.fromkeys(pairs))
    styles = Counter(style for style, _ in distinct)
    contents = Counter(content for _, content in distinct)
    wanted = round(share * len(distinct))
    lost: Counter[tuple[str, str]] = Counter()
    taken: set[tuple[str, str]] = set()
    for style, content in sorted(distinct, key=lambda pair: hashlib.sha256("\n".join(pair).encode()).hexdigest()):
        if len(taken) == wanted:
            break
        if lost["content", content] or contents[content] < 3 or lost["style", style] >= 2 * share * styles[style]:
            continue
        lost.update([("content", content), ("style", style)])
        taken.add((style, content))
    return np.array([pair in taken for pair in pairs])


def _files(path: Path) -> tuple[set[str] | None, Callable[[str], bytes | None]]:
    """Names of a tar's members (None for a folder), and name -> bytes (None if there is no such file)."""
    if path.is_dir():
        return None, lambda name: (path / name).read_bytes() if (path / name).is_file() else None
    if not path.is_file():
        raise UserError(f"{path}: no such picture set; give a folder with {LIST}, or a tar of one")
    try:
        with tarfile.open(path, "r:") as tar:
            files = ((info.name, tar.extractfile(info)) for info in tar if info.isreg())
            found = {name: file.read() for name, file in files if file is not None}
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a readable tar ({error}); give a folder with {LIST}, or a tar of one") from None
    return set(found), found.get


def _rows(path: Path, names: set[str] | None, content_of: Callable[[str], bytes | None]) -> list[Row]:
    listed = content_of(LIST)
    if listed is None:
        raise UserError(f"{path}: has no {LIST}; wanted: one object a line with {', '.join(WANTED)}")
    rows = []
    for number, line in enumerate(listed.decode().split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} {LIST} line {number}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error}); one object a line is wanted") from None
        for column in WANTED:
            if not isinstance(found, dict) or not isinstance(found.get(column), str) or not found[column].strip():
                raise UserError(f"{where}: no text in column {column!r}; wanted: {', '.join(WANTED)}")
        lists = {key: found.get(key, []) for key in ("texts", "loose")}
        for key, value in lists.items():
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UserError(f"{where}: {key} is no list of captions; mend it or leave it out")
        if content_of(found["file_name"]) is None:
            raise UserError(f"{where}: {found['file_name']}: no such file in {path}")
        own = {key: found[key] for key in WANTED}
        texts, loose = tuple(lists["texts"]), tuple(lists["loose"])
        rows.append(Row(**own, texts=texts, loose=loose, group=str(found.get("group", ""))))
    return rows


def _check(path: Path, rows: list[Row]) -> None:
    pairs = dict.fromkeys((row.style, row.content) for row in rows)
    for column, labels in (("style", [style for style, _ in pairs]), ("content", [content for _, content in pairs])):
        if len(set(labels)) < 2:
            told = ", ".join(dict.fromkeys(labels)) or "none"
            raise UserError(f"{path}: at least two labels of {column} are wanted to tell apart; found {told}")
    alone = [content for content, count in Counter(content for _, content in pairs).items() if count == 1]
    if alone:
        raise UserError(
            f"{path}: {len(alone)} contents are there in one style only ({', '.join(alone[:3])}): nothing could tell "
            "style and content apart; add them in another style, or drop their rows"
        )


def _picture(path: Path, row: Row, content: bytes, side: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = file.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {row.file_name}: not a readable picture ({error}); mend it or drop its row") from None
    if picture.width != picture.height:
        raise UserError(f"{path}: {row.file_name}: {picture.width} x {picture.height} is not square; crop it")
    if picture.width != side:  # with colours weighted by opacity, or what is transparent would bleed into the edges
        picture = picture.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
    return np.asarray(picture)
