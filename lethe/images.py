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
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.errors import UserError
from lethe.io import write_text

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
