"""The paper's released upper sets (columns image, caption, style) as imagefolders, one a style.

Pictures are written as their bytes are, captions with one space for any blanks and line ends; a set without styles
becomes one folder. Parquet is read with pyarrow, which lethe needs nowhere else and does not bring: `pip install
pyarrow`.

    hf download --repo-type dataset rezashkv/controlled_distillation --local-dir data/paper/controlled_distillation
    python -m lethe.training.upper_set data/paper/controlled_distillation --out data/paper/upper
    python -m lethe.training.upper_set data/paper/controlled_distillation_nudity --out data/paper/upper --name nudity
"""

import argparse
import importlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lethe.files.decoding import decoded
from lethe.files.errors import UserError
from lethe.stage import cli

ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}  # by what a picture's first bytes tell
MARKS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP"}
LIST = "metadata.jsonl"


def rows(folder: Path) -> Iterator[Mapping]:
    """Rows of all parquet files in a folder and below it, files by name.

    Raises UserError without pyarrow, without such a file, and for one without the columns.
    """
    files = sorted(Path(folder).rglob("*.parquet"))
    if not files:
        raise UserError(
            f"{folder}: no *.parquet there or below; fetch the released set (hf download --repo-type dataset)"
        )
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise UserError(f"{files[0]}: parquet is read with pyarrow, which is not there: pip install pyarrow") from None
    for file in files:
        try:
            table = parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            if missing := [name for name in ("image", "caption") if name not in columns]:
                raise UserError(f"{file}: no column {', '.join(missing)}; found {', '.join(columns)}")
            for batch in table.iter_batches(64):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
            raise UserError(
                f"{file}: no parquet file, or a damaged one ({str(error).splitlines()[0]}); fetch it again"
            ) from None


def by_style(found: Iterable[Mapping], name: str | None) -> dict[str, list[tuple[str, bytes, str]]]:
    """Folder -> (file name, bytes, caption) of each row. `name`: the one folder of all; None: the style, as a name.

    Raises UserError, naming the row, for one without picture, caption or style, or whose picture cannot be decoded.
    """
    folders: dict[str, list[tuple[str, bytes, str]]] = {}
    for number, row in enumerate(found):
        image, caption, style = row["image"], row["caption"], row.get("style")
        content = image.get("bytes") if isinstance(image, Mapping) else image
        if not isinstance(content, bytes):
            raise UserError(f"row {number}: its image has no bytes; fetch the set again")
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"row {number}: caption {caption!r} is no text")
        if name is None and not (isinstance(style, str) and style.strip()):
            raise UserError(f"row {number}: style {style!r} is no text; --name NAME puts all rows into one folder")
        decoded(f"row {number}", content)
        kind = next((kind for mark, kind in MARKS.items() if content.startswith(mark)), None)
        if kind is None:
            raise UserError(f"row {number}: its image is none of {', '.join(ENDINGS)}")
        own = folders.setdefault(name or re.sub(r"\W+", "_", str(style).strip().lower()), [])
        own.append((f"{len(own):05d}{ENDINGS[kind]}", content, " ".join(caption.split())))
    return folders


def write(folders: Mapping[str, list[tuple[str, bytes, str]]], out: Path) -> None:
    """An imagefolder each, whole or not at all. Raises UserError, before any is written, for one that is there."""
    for name in folders:
        if (out / name).exists():
            raise UserError(f"{out / name}: is there already; remove it, or give another --out")
    for name, own in folders.items():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
            part = Path(scratch) / name
            part.mkdir()
            for file, content, _ in own:
                (part / file).write_bytes(content)
            lines = (json.dumps({"file_name": file, "text": text}, ensure_ascii=False) for file, _, text in own)
            (part / LIST).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            part.rename(out / name)


def main() -> None:
    made = argparse.ArgumentParser(
        prog=cli.prog("lethe.training.upper_set"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("folder", type=Path, help="the released set: a folder with parquet files")
    made.add_argument("--out", type=Path, required=True, help="where the imagefolders go, one a style")
    made.add_argument("--name", help="one folder of this name for all rows, whatever their style")
    args = made.parse_args()
    if args.name is not None and not re.fullmatch(r"\w+", args.name):
        raise UserError(f"--name: {args.name!r} is not made of letters, digits and _")
    folders = by_style(rows(args.folder), args.name)
    if not folders:
        raise UserError(f"{args.folder}: holds no rows")
    write(folders, args.out)
    for name, own in folders.items():
        print(f"{args.out / name}: {len(own)} pictures")


if __name__ == "__main__":
    cli.run(main)
