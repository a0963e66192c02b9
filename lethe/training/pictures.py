"""Pictures with captions: an imagefolder, a folder of COCO, or the samples folder of a model that drew them; and real
ones without, to compare with."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lethe.files import kinds
from lethe.files.decoding import decoded
from lethe.files.errors import UserError
from lethe.files.images import MANIFEST, Images
from lethe.files.io import META, read_json
from lethe.params.recipe import listed, picture_list, plain_pictures
from lethe.texts.wording import neutral


@dataclass(frozen=True)
class Pictures:
    """Rows of a picture folder, checked: every file is there. `read` gives a row's file as bytes."""

    source: Path
    files: list[str]
    captions: list[str]
    lines: list[int]
    read: Callable[[int], bytes]
    unit: str = "line"  # what `lines` counts
    anchors: list[str | None] | None = None  # captions with the concept taken out, for rows that bring one
    missing: int = 0  # rows of the list that were left out, since their picture is not there

    def __len__(self) -> int:
        return len(self.files)

    def where(self, row: int) -> str:
        """A row as an error names it: list, line, file."""
        return f"{self.source} {self.unit} {self.lines[row]}: {self.files[row]}"

    def missing_line(self) -> str:
        """What is said of rows that were left out."""
        return f"{self.source}: {self.missing} of {self.missing + len(self)} {self.unit}s have no picture, left out"

    def without(self, prompt: str, anchor: str) -> list[str]:
        """Each row's caption with a concept taken out: its own `anchor`, or else as `lethe.texts.wording.neutral` has
        it."""
        own = self.anchors or [None] * len(self)
        found = zip(self.captions, own, strict=True)
        return [neutral(caption, prompt, anchor) if given is None else given for caption, given in found]

    def decode(self, row: int, content: bytes) -> tuple[Image.Image, str]:
        """A row's bytes as an upright RGB picture (`lethe.files.decoding`), and the mode they came in. Raises UserError
        naming row and file if they are none, or would lose something."""
        return decoded(self.where(row), content)


def read(folder: Path, prompt: str | None = None, plain: bool = False, subset: bool = False) -> Pictures:
    """Lists and checks the pictures of a folder; decodes none.

    An imagefolder has a `metadata.jsonl` with one object a line: `file_name`, `text` (the caption) and, if wanted,
    `anchor` (the caption with a concept taken out); or a `metadata.csv` with these columns. A picture may stand there
    more than once, with other captions. COCO's
    folder `coco/train2017` has its captions in `coco/annotations/captions_train2017.json`; of the five of a picture
    the first is taken, so that the frozen embeddings of all captions stay of a size that can be kept. A samples folder
    (a finished result with `images.tar` and `manifest.csv`) has its prompts as captions. `prompt`, if given, is the
    caption of the rows that have none. `plain`: a folder without a list is good too, all picture files in it and below,
    with `prompt` as their caption. `subset`: rows of a list whose picture is not there are left out, and counted.
    Raises UserError, naming line and file: no list, a line that is not JSON, a missing column, a file that is absent
    or lies elsewhere, a row given twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: {kinds.dangling(folder) or 'no such picture folder'}")
    if (folder / META).is_file():
        return _samples(folder)
    if plain and not listed(folder) and (names := plain_pictures(folder)):
        numbers = list(range(1, len(names) + 1))
        texts = [prompt or ""] * len(names)
        return Pictures(folder, names, texts, numbers, lambda row: _content(folder / names[row]), "picture")
    source = picture_list(folder)
    found = (_coco if source.suffix == ".json" else _imagefolder)(folder, source, prompt, subset)
    if not found.files and found.missing:
        raise UserError(f"{source}: none of its {found.missing} pictures is in {folder}; put some there")
    if not found.files:
        raise UserError(f"{source}: lists no pictures")
    return found


def contents(folder: Path, subset: bool = False) -> str:
    """sha256 of the bytes of a folder's pictures (real ones, or a model's samples), in the order of its list."""
    found, hashed = read(folder, prompt="", plain=True, subset=subset), hashlib.sha256()
    for row in range(len(found)):
        hashed.update(hashlib.sha256(found.read(row)).digest())
    return hashed.hexdigest()


def _coco(folder: Path, source: Path, prompt: str | None, subset: bool) -> Pictures:
    found = read_json(source)
    files: dict[int, str] = {}
    first: set[str] = set()
    try:
        for image in found["images"]:
            number, name = int(image["id"]), str(Path(image["file_name"]))
            if number in files or name in first:
                raise UserError(f"{source} image {number}: {name}: its id or file stands there twice; keep one")
            files[number] = name
            first.add(name)
        captions: dict[int, str] = {}
        for note in sorted(found["annotations"], key=lambda note: note["id"]):
            captions.setdefault(int(note["image_id"]), " ".join(_caption(source, note).split()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{source}: not COCO's captions (images: id, file_name; annotations: id, image_id, caption): "
            f"{type(error).__name__} {error}"
        ) from None
    ids = [one for one in sorted(files) if _is_there(folder, files[one], f"{source} image {one}", subset)]
    for number in ids:
        if number not in captions:
            if prompt is None:
                raise UserError(f"{source} image {number}: {files[number]} has no caption; drop it or give it one")
            captions[number] = prompt
    names = [files[number] for number in ids]
    texts = [captions[number] for number in ids]
    missing = len(files) - len(ids)
    return Pictures(source, names, texts, ids, lambda row: _content(folder / names[row]), "image", missing=missing)


def _is_there(folder: Path, name: str, where: str, subset: bool) -> bool:
    """Whether a row's picture is; raises UserError if it is not, unless that is known (`subset`), and for one that lies
    elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{where}: {name} leads out of {folder}; put the picture there, or a link to it")
    if (folder / name).is_file():
        return True
    if not subset:
        raise UserError(
            f"{where}: {name}: no such file in {folder}; where the folder is meant to hold a part of the list alone: "
            "--subset of encode and score (pictures.subset in a params file)"
        )
    return False


def _caption(source: Path, note: dict) -> str:
    if not isinstance(note["caption"], str):
        where = f"{source} annotation {note['id']} (image {note['image_id']})"
        raise UserError(f"{where}: caption {note['caption']!r} is no text; mend or delete it")
    return note["caption"]


def _imagefolder(folder: Path, source: Path, prompt: str | None, subset: bool) -> Pictures:
    files, captions, anchors, lines, missing = [], [], [], [], 0
    first: dict[tuple[str, str], int] = {}
    for number, row in _table(source) if source.suffix == ".csv" else _objects(source):
        row = {"text": prompt} | row
        for column in ("file_name", "text"):
            if not isinstance(row.get(column), str):
                raise UserError(f"{source} line {number}: no text in column {column!r}; wanted: file_name, text")
        if not isinstance(row.get("anchor"), str | None):
            raise UserError(f"{source} line {number}: anchor {row['anchor']!r} is no text; mend it or leave it out")
        name = row["file_name"]
        if not _is_there(folder, name, f"{source} line {number}", subset):
            missing += 1
            continue
        before = first.setdefault((str(Path(name)), row["text"]), number)
        if before != number:
            raise UserError(
                f"{source} line {number}: {name} stands in line {before} too, with this caption; delete one"
            )
        files.append(name)
        captions.append(row["text"])
        anchors.append(row.get("anchor"))
        lines.append(number)
    own = Pictures(source, files, captions, lines, lambda row: _content(folder / files[row]), anchors=anchors)
    return replace(own, missing=missing)


def _objects(source: Path) -> Iterator[tuple[int, dict]]:
    """Line number and row of a metadata.jsonl."""
    for number, line in enumerate(_text(source).split("\n"), 1):  # captions may hold other line ends
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} line {number}: not JSON ({error}); one object a line is wanted") from None
        if not isinstance(row, dict):
            raise UserError(f"{source} line {number}: not an object; wanted: file_name, text")
        yield number, row


def _table(source: Path) -> Iterator[tuple[int, dict]]:
    """Line number and row of a metadata.csv; an empty cell is none."""
    reader = csv.DictReader(io.StringIO(_text(source), newline=""), strict=True)
    try:
        for cells in reader:
            if cells.get(None):
                raise UserError(f"{source} line {reader.line_num}: more cells than columns; quote captions with commas")
            yield reader.line_num, {key: value for key, value in cells.items() if value}
    except csv.Error as error:
        raise UserError(
            f"{source} line {reader.line_num}: not valid CSV ({error}); quote captions with commas"
        ) from None


def _text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8-sig")  # editors may leave a mark in front
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 ({error}); save it as UTF-8") from None


def _samples(folder: Path) -> Pictures:
    images = Images(folder)  # its file stays open as long as `read` lives
    if not images.entries:
        raise UserError(f"{folder / MANIFEST}: lists no pictures")
    files = [entry.file for entry in images.entries]
    captions = [entry.prompt for entry in images.entries]
    lines = list(range(2, len(files) + 2))
    return Pictures(folder / MANIFEST, files, captions, lines, lambda row: images.read(images.entries[row]))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend it or drop the row") from None
