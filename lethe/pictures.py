"""Pictures with captions: an imagefolder, or the samples folder of a model that drew them."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from lethe.errors import UserError
from lethe.images import MANIFEST, Images
from lethe.io import META


@dataclass(frozen=True)
class Pictures:
    """Rows of a picture folder, checked: every file is there. `read` gives a row's file as bytes."""

    source: Path
    files: list[str]
    captions: list[str]
    lines: list[int]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.files)

    def where(self, row: int) -> str:
        """A row as an error names it: list, line, file."""
        return f"{self.source} line {self.lines[row]}: {self.files[row]}"

    def decode(self, row: int, content: bytes) -> Image.Image:
        """A row's bytes as an upright RGB picture. Raises UserError naming row and file if they are none."""
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{self.where(row)}: not a readable picture ({error}); mend it or drop the row") from None


def read(folder: Path, prompt: str | None = None) -> Pictures:
    """Lists and checks the pictures of a folder; decodes none.

    An imagefolder has a `metadata.jsonl` with one object a line: `file_name` and `text` (the caption). A samples folder
    (a finished result with `images.tar` and `manifest.csv`) has its prompts as captions. `prompt`, if given, is the
    caption of the rows that have none.
    Raises UserError, naming line and file: no list, a line that is not JSON, a missing column, a file that is absent.
    """
    folder = Path(folder)
    if (folder / META).is_file():
        return _samples(folder)
    return _imagefolder(folder, prompt)


def _imagefolder(folder: Path, prompt: str | None) -> Pictures:
    source = folder / "metadata.jsonl"
    if not source.is_file():
        raise UserError(f"{folder}: no metadata.jsonl there (one JSON object a line: file_name, text)")
    files, captions, lines = [], [], []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} line {number}: not JSON ({error}); one object a line is wanted") from None
        if not isinstance(row, dict):
            raise UserError(f"{source} line {number}: not an object; wanted: file_name, text")
        row = {"text": prompt} | row
        for column in ("file_name", "text"):
            if not isinstance(row.get(column), str):
                raise UserError(f"{source} line {number}: no text in column {column!r}; wanted: file_name, text")
        if not (folder / row["file_name"]).is_file():
            raise UserError(f"{source} line {number}: {row['file_name']}: no such file in {folder}")
        files.append(row["file_name"])
        captions.append(row["text"])
        lines.append(number)
    if not files:
        raise UserError(f"{source}: lists no pictures")
    return Pictures(source, files, captions, lines, lambda row: (folder / files[row]).read_bytes())


def _samples(folder: Path) -> Pictures:
    images = Images(folder)  # its file stays open as long as `read` lives
    if not images.entries:
        raise UserError(f"{folder / MANIFEST}: lists no pictures")
    files = [entry.file for entry in images.entries]
    captions = [entry.prompt for entry in images.entries]
    lines = list(range(2, len(files) + 2))
    return Pictures(folder / MANIFEST, files, captions, lines, lambda row: images.read(images.entries[row]))
