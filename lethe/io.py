"""Files that are either whole or absent: atomic writes, hashes, finished result folders.

A result folder is built beside its place and renamed; `meta.json` is written last. So a folder with a `meta.json` is
complete, whatever was killed, and a folder without one counts as absent (DESIGN rule 3).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe.errors import UserError

META = "meta.json"


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


def write_text(path: Path, text: str) -> None:
    """Writes by temporary name and rename; the old file stands until the new one is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
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
        raise UserError(f"{folder}: no finished result there (no {META}); run the stage that makes it")
    return read_json(path)


def is_finished(folder: Path, recipe: str | None = None) -> bool:
    """True if the folder is complete and, where a recipe is given, was made by that recipe.

    Raises UserError when a finished folder stands there with another recipe: it is somebody's result, not ours to
    overwrite.
    """
    if not (Path(folder) / META).is_file():
        return False
    found = read_meta(folder).get("recipe")
    if recipe is not None and found != recipe:
        raise UserError(f"{folder}: holds a result of recipe {found}, wanted {recipe}; give another --out or delete it")
    return True


@contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """Yields a scratch folder beside `out`; on success it becomes `out`, on any failure it is removed.

    The body writes all files and, last, `meta.json`. An unfinished folder in the way is replaced.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
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
