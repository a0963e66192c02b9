"""Files that are either whole or absent: atomic writes, hashes, finished result folders.

A result folder is built beside its place and renamed; `meta.json` is written last. So a folder with a `meta.json` is
complete, whatever was killed, and a folder without one counts as absent (DESIGN rule 3).
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.files import kinds
from lethe.files.errors import UserError

META = "meta.json"
PARTS = re.compile(r"(.+)\.part-\d+")  # of a file or folder that is being made: its name, the process that makes it
# What stands at the top of results; a folder that holds something else was never one, and is not replaced.
OURS = {META, "unet", "text_encoder", "guidance.json", "log.csv", "latents.safetensors", "captions.safetensors"}
OURS |= {"index.json", "images.tar", "manifest.csv", "attack.csv", "scores.csv", "metrics.json", "features.safetensors"}
OURS |= {"detections.csv", "unsafe_conventions.csv", "sheet.jpg"}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: object) -> str:
    """JSON text that is equal for equal values, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object) -> str:
    """Ten hex characters over the canonical JSON of a value: the hash in addresses."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:10]


def check_place(path: Path) -> None:
    """Raises OSError, naming the folder, if a file or folder could not be made at a path: also if its name, with what
    is put behind it while it is being made, is too long for the file system."""
    place = next(folder for folder in Path(os.path.abspath(path)).parents if folder.exists() or folder.is_symlink())
    number = 0
    if not place.is_dir():
        number = errno.ELOOP if place.is_symlink() else errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
    if not number:
        longest = os.statvfs(place).f_namemax
        new = Path(os.path.abspath(path)).relative_to(place).parts
        if any(len(os.fsencode(f"{name}.part-{os.getpid()}")) > longest for name in new):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    if number:
        shown = os.path.relpath(place) if not Path(path).is_absolute() else str(place)
        raise OSError(number, os.strerror(number), shown)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError the file's name where the system has told none, as when a disk fills up amid a write."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes by temporary name and rename; the old file stands until the new one is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with naming(path), open(part, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Indented JSON with a final newline, written atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Raises UserError that names the file if it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def read_meta(folder: Path) -> dict:
    """The `meta.json` of a finished folder. Raises UserError if the folder was never finished."""
    path = Path(folder) / META
    if not path.is_file():
        link = kinds.dangling(folder)
        raise UserError(f"{folder}: {link or f'no finished result there (no {META}); run the stage that makes it'}")
    return read_json(path)


def checked(folder: Path, name: str) -> list[str]:
    """Names of the files of a finished folder that are called `name`, or lie in the folder called so ("unet/").

    Each is what `meta.json` tells of; nothing is known, hence [], of one that tells of no files. Raises UserError for a
    file that is missing, changed since (by its sha256), or was put there by somebody else.
    """
    folder, told = Path(folder), read_meta(folder).get("files")
    if told is None:
        return []
    files = {path: own for path, own in told.items() if path == name or (name[-1] == "/" and path.startswith(name))}
    for path in [folder / name, *(folder / name).rglob("*")]:
        if path.is_file() and not path.name.startswith(".") and str(path.relative_to(folder)) not in files:
            raise UserError(f"{path}: {META} does not list it: not of this result; delete it")
    for path, wanted in files.items():
        if not (folder / path).is_file():
            raise UserError(f"{folder / path}: missing, though {META} lists it; delete the folder and run again")
        if sha256(folder / path) != wanted:
            raise UserError(
                f"{folder / path}: sha256 is not the one in {META}: changed or damaged; delete the folder and run again"
            )
    return list(files)


def is_finished(folder: Path, recipe: str | None = None) -> bool:
    """True if the folder is complete and, where a recipe is given, was made by that recipe.

    Raises UserError when a finished folder stands there with another recipe, or one that no stage made: it is
    somebody's, not ours to overwrite.
    """
    if not (Path(folder) / META).is_file():
        check_ours(folder, OURS)
        return False
    found = read_meta(folder).get("recipe")
    if recipe is not None and found != recipe:
        raise UserError(f"{folder}: holds a result of recipe {found}, wanted {recipe}; give another --out or delete it")
    return True


def check_ours(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError if something stands there that is no folder, or one that holds more than these names."""
    folder = Path(folder)
    if folder.is_dir():
        hidden = [path.name for path in folder.iterdir() if path.name[0] == "." and path.is_file()]  # of DVC, Snakemake
        strange = sorted({path.name for path in folder.iterdir()} - {*names, *hidden})
        if not strange:
            return
        what = f"holds {strange[0]}, which no stage makes"
    elif folder.is_symlink() or folder.exists():
        what = "is no folder"
    else:
        return
    raise UserError(f"{folder}: {what}; it would be replaced: give another --out, or move it away")


def parts(path: Path) -> list[Path]:
    """What killed processes have left of making a file or folder of this name."""
    path = Path(path)
    found = [(PARTS.fullmatch(one.name), one) for one in path.parent.glob("*.part-*")]
    return sorted(one for name, one in found if name and name[1] == path.name)


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it, if it is there."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """Yields a scratch folder beside `out`; on success it becomes `out`, on any failure it is removed.

    The body writes all files and, last, `meta.json`. An unfinished folder in the way is replaced, and scratch folders
    of killed processes go: nobody else makes `out` (`lethe.stage.alone`).
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    for old in parts(out):
        remove(old)
    part.mkdir()
    try:
        yield part
        if not (part / META).is_file():
            raise RuntimeError(f"{out}: the stage wrote no {META}")
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
