"""Hashes of all bytes of the files in a folder, each computed once and kept until the file changes.

What is kept goes by the file system's word on a file: device, inode, size, and the times of its last change of content
and of record, in nanoseconds. The last one is set by the system alone, so an edit in place that keeps the size and puts
the old time back is seen all the same. A file that changed within the last `SETTLED` seconds is not kept: a second
change may come within the same tick of the file system's clock. The hashes that hubs and DVC have of their files are
not taken over: they tell what was fetched, not what lies there now.
"""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import digest, read_json, sha256, write_json

KEPT = Path("state/hashes")  # a file a folder: its path; name -> what the file system said, and the hash
SETTLED = 3.0  # seconds; the coarsest clock of a file system in use ticks every two
TOLD = 2**30  # bytes from which on it is said that hashing goes on


def files(folder: Path) -> dict[str, Path]:
    """Name below the folder -> file, sorted by name, links followed; files whose name begins with a dot are left out.

    Raises UserError for a link that leads nowhere, or back into a folder that it lies in.
    """
    found = dict(_walk(str(folder), "", ()))
    return {name: Path(found[name]) for name in sorted(found, key=lambda name: name.split(os.sep))}


def _walk(folder: str, before: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    """(name, path). A folder of 100,000 pictures is listed at every start, so what the system tells of an entry without
    being asked again is enough, but for links."""
    told = os.stat(folder)
    here = (told.st_dev, told.st_ino)
    if here in above:
        raise UserError(f"{folder}: broken link: it leads back to a folder that it lies in; remove it")
    with os.scandir(folder) as entries:
        for entry in entries:
            link = Path(entry.path) if entry.is_symlink() else None
            if link.is_dir() if link else entry.is_dir():
                yield from _walk(entry.path, f"{before}{entry.name}{os.sep}", (*above, here))
            elif entry.name.startswith("."):
                continue
            elif link.is_file() if link else entry.is_file():
                yield before + entry.name, entry.path
            elif link:
                raise UserError(f"{link}: broken link: {os.readlink(link)} is not there; mend or remove it")


def of_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> (size, sha256 of all bytes) of what `files` finds; equal files are equal wherever they lie.

    Raises UserError as `files` does, and for a file that cannot be read or changes while it is read.
    """
    named, place = files(folder), _place(folder)
    stats, known = _known(named, place)
    missing = sorted(named.keys() - known.keys(), key=lambda name: -stats[name][2])
    if missing:
        _tell(folder, sum(stats[name][2] for name in missing))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            made = list(pool.map(_hash, (named[name] for name in missing)))
        for name, own in zip(missing, made, strict=True):
            if _stat(named[name]) != stats[name]:
                raise UserError(f"{named[name]}: changed while it was read; run again when nothing writes there")
            known[name] = own
        now = time.time_ns()
        settled = {name: [*told, known[name]] for name, told in stats.items() if now - max(told[3:]) > SETTLED * 1e9}
        if settled:
            with suppress(OSError):  # a place that cannot be written: hashed again next time
                write_json(place, {"folder": str(Path(folder).resolve()), "files": settled})
    return {name: (stats[name][2], known[name]) for name in named}


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of what `files` finds, and of those the ones that `of_files` would have to read, since no hash is kept.
    Raises UserError as `files` does."""
    stats, known = _known(files(folder), _place(folder))
    return sum(told[2] for told in stats.values()), sum(told[2] for name, told in stats.items() if name not in known)


def _place(folder: Path) -> Path:
    return KEPT / f"{digest(str(Path(folder).resolve()))}.json"


def _known(named: dict[str, Path], place: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """What the file system says of each file, and the hashes that are kept and still good."""
    kept = _read(place)
    stats = {name: _stat(path) for name, path in named.items()}
    return stats, {name: kept[name][-1] for name, told in stats.items() if name in kept and kept[name][:-1] == told}


def _stat(path: Path) -> list[int]:
    told = path.stat()
    return [told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns]


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read(place: Path) -> dict[str, list]:
    """What was kept, {} if nothing was or it is damaged."""
    try:
        return {name: list(own) for name, own in read_json(place)["files"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}


def forsaken() -> list[Path]:
    """What is kept of folders that are not there any more, or is damaged."""
    return [place for place in sorted(KEPT.glob("*.json")) if not _folder(place)]


def _folder(place: Path) -> bool:
    try:
        return Path(read_json(place)["folder"]).is_dir()
    except (UserError, KeyError, TypeError):
        return False


def _tell(folder: Path, size: int) -> None:
    if size >= TOLD:
        print(f"{folder}: hashing {size / 2**30:.1f} GiB, once", file=sys.stderr, flush=True)
