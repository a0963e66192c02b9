"""An image set is one tar of PNGs and a manifest.csv: few files to track, pictures read by name without unpacking.

The tar is deterministic (order given, no times, no owners), so equal pictures make equal files.
"""

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.errors import UserError
from lethe.io import META, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

TAR, MANIFEST = "images.tar", "manifest.csv"


@dataclass(frozen=True)
class Entry:
    """One row of manifest.csv; `sha256` is that of the PNG's bytes."""

    set: str
    case_number: int
    prompt: str
    evaluation_seed: int
    file: str
    sha256: str


def png(pixels) -> bytes:
    """uint8 RGB [H, W, 3] -> bytes of a PNG; equal pixels give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode(content: bytes) -> "Image":
    """Bytes of a picture file -> RGB picture."""
    from PIL import Image

    return Image.open(io.BytesIO(content)).convert("RGB")


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes named members in the order given, atomically."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with open(part, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name, content in members:
                    info = tarfile.TarInfo(name)  # its defaults: no time, owner 0, mode 0644
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    """All members in the file's order."""
    with tarfile.open(path) as tar:
        for info in tar:
            yield info.name, tar.extractfile(info).read()


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """manifest.csv, one row a picture."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Entry.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    write_text(path, buffer.getvalue())


def read_manifest(folder: Path) -> list[Entry]:
    """Rows of a samples folder's manifest.csv. Raises UserError if it is not one."""
    path = Path(folder) / MANIFEST
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        typed = [row | {key: int(row[key]) for key in ("case_number", "evaluation_seed")} for row in rows]
        return [Entry(**row) for row in typed]
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST} there; give a folder that stage sample made") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a manifest of stage sample; make the samples again") from None


class Images:
    """Pictures of a samples folder, by the name in the manifest; a context manager.

    `read(entry)` -> bytes of the PNG, `picture(entry)` -> RGB picture. Both raise UserError if a picture is missing or
    its bytes are not those that the manifest tells of.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / TAR
        self.entries = read_manifest(folder)
        try:
            self._tar = tarfile.open(self.path)  # noqa: SIM115, closed by __exit__
            self._members = {info.name: info for info in self._tar}
        except FileNotFoundError:
            raise UserError(f"{folder}: no {TAR} there; make the samples again") from None
        except tarfile.TarError as error:
            raise UserError(f"{self.path}: not a readable tar ({error}); make the samples again") from None

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def read(self, entry: Entry) -> bytes:
        if entry.file not in self._members:
            raise UserError(f"{self.path}: {entry.file} is missing; make the samples again")
        content = self._tar.extractfile(self._members[entry.file]).read()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"{self.path}: {entry.file} differs from its sha256 in {MANIFEST}; make the samples again")
        return content

    def picture(self, entry: Entry) -> "Image":
        return decode(self.read(entry))


def picture_files(folder: Path) -> list[str]:
    """Names of the pictures of an imagefolder (metadata.jsonl order). Light; raises UserError if one is missing."""
    path = Path(folder) / "metadata.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{folder}: no metadata.jsonl there (one JSON object a line: file_name, text)") from None
    names = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            name = json.loads(line)["file_name"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: not a JSON object with file_name") from None
        if not (Path(folder) / name).is_file():
            raise UserError(f"{path}, line {number}: no picture {name} in {folder}")
        names.append(name)
    if not names:
        raise UserError(f"{path}: no pictures listed")
    return names


def check_pictures(folder: Path) -> int:
    """Number of pictures in an imagefolder or a samples folder; raises UserError if it is neither."""
    return len(read_manifest(folder) if (Path(folder) / META).is_file() else picture_files(folder))


def pictures_of(folder: Path) -> "Iterator[Image]":
    """RGB pictures of an imagefolder or of a samples folder, in a fixed order."""
    if (Path(folder) / META).is_file():
        with Images(folder) as images:
            yield from map(images.picture, images.entries)
    else:
        for name in picture_files(folder):
            yield decode((Path(folder) / name).read_bytes())
