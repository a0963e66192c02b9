"""An image set is one tar of PNGs and a manifest.csv: few files to track, pictures read by name without unpacking.

The tar is deterministic (order given, no times, no owners), so equal pictures make equal files.
"""

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lethe.files.errors import UserError
from lethe.files.io import META, checked, naming, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

TAR, MANIFEST, SHEET = "images.tar", "manifest.csv", "sheet.jpg"


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
        with naming(path), open(part, "wb") as file:
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
    """All members in the file's order. Raises UserError if it is not a whole tar of plain files."""
    with _opened(path) as tar:
        for info in _members(path, tar):
            yield info.name, _content(path, tar, info)


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a readable tar ({error}); make the samples again") from None


def _members(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """What an archive holds. Nothing is ever unpacked, but a name that leads elsewhere tells that it is not ours."""
    try:
        for info in tar:
            parts = PurePosixPath(info.name).parts
            leads = "/" in parts or ".." in parts
            if leads or not info.isreg():
                what = "leads out of it" if leads else "is no plain file"
                raise UserError(f"{path}: {info.name} {what}, so no stage made it; make the samples again")
            yield info
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a readable tar ({error}); make the samples again") from None


def _content(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    try:
        file = tar.extractfile(info)
        if file is None:  # not with `_members`, which passes plain files alone
            raise tarfile.ReadError("no plain file")
        return file.read()
    except tarfile.TarError as error:
        raise UserError(f"{path}: {info.name} cannot be read ({error}); make the samples again") from None


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """manifest.csv, one row a picture."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Entry.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    write_text(path, buffer.getvalue())


def read_manifest(folder: Path) -> list[Entry]:
    """Rows of a samples folder's manifest.csv. Raises UserError if it is not one, or not what `meta.json` tells of."""
    path = Path(folder) / MANIFEST
    if (path.parent / META).is_file():
        checked(path.parent, MANIFEST)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        typed: list[dict[str, Any]] = [
            row | {key: int(row[key]) for key in ("case_number", "evaluation_seed")} for row in rows
        ]
        return [Entry(**row) for row in typed]
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST} there; give a folder that stage sample made") from None
    except (KeyError, TypeError, ValueError, csv.Error):
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
            self._tar = _opened(self.path)  # closed by __exit__
        except FileNotFoundError:
            raise UserError(f"{folder}: no {TAR} there; make the samples again") from None
        self._members = {info.name: info for info in _members(self.path, self._tar)}

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def check_complete(self) -> None:
        """Raises UserError unless the archive holds the manifest's pictures, no fewer and no more."""
        named = {entry.file for entry in self.entries}
        missing = [entry.file for entry in self.entries if entry.file not in self._members]
        more = [name for name in self._members if name not in named]
        for files, word in ((missing, "lacks {} of"), (more, "holds {} beside")):
            if files:
                raise UserError(
                    f"{self.path}: {word.format(len(files))} the {len(self.entries)} pictures of {MANIFEST}, such as "
                    f"{files[0]}; make the samples again"
                )

    def read(self, entry: Entry) -> bytes:
        if entry.file not in self._members:
            raise UserError(f"{self.path}: {entry.file} is missing; make the samples again")
        content = _content(self.path, self._tar, self._members[entry.file])
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise UserError(f"{self.path}: {entry.file} differs from its sha256 in {MANIFEST}; make the samples again")
        return content

    def picture(self, entry: Entry) -> "Image":
        return decode(self.read(entry))
