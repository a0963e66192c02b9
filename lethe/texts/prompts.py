"""Prompt CSVs of the field: one row a picture, its prompt and its seed in the file and nowhere else.

Required columns: `case_number`, `prompt`, `evaluation_seed`. Read if present: `artist` (also spelled `artists`),
`class`, `file_name`, `category` (also spelled `categories`; several with commas between them), `pair` (two texts:
`a man|a woman`), `profession` (see `lethe/measuring/metrics/pair.py`). Any other column (`evaluation_guidance`, a
nameless index, ...) is ignored: guidance is a value of the experiment, the same for all arms.

Lists in other layouts (I2P, MMA-Diffusion, Ring-A-Bell, UnlearnDiffAtk, COCO's captions) are made into this one first:

    python -m lethe.texts.prompts i2p_benchmark.csv --out prompts/own/i2p.csv
    python -m lethe.texts.prompts Nudity_ring-a-bell.csv --format ring_a_bell --out prompts/own/ring_a_bell.csv
    python -m lethe.texts.prompts coco/annotations/captions_val2017.json --out prompts/own/eval.csv
"""

import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.texts import prompt_formats
from lethe.texts.prompt_formats import recognised
from lethe.texts.rows import LARGEST_SEED, Prompt, split_categories

REQUIRED = ("case_number", "prompt", "evaluation_seed")
MARKS = ";\t|"  # what tables are saved with, where not with commas
READ = (*REQUIRED, "artist", "artists", "class", "file_name", "category", "categories", "pair", "profession")


def read_prompts(path: Path | str, skip_empty: bool = False) -> list[Prompt]:
    """The rows of a prompt CSV in the file's order; `skip_empty`: without those that have no prompt (`empty_rows`).

    Raises UserError with file, line and column for: no such file, not UTF-8, a missing column, no rows, an empty
    prompt, a case_number or seed that is not a whole number >= 0, a case_number given twice.
    """
    rows = [
        _row(path, line, cells) for line, cells in _cells(path) if not skip_empty or (cells["prompt"] or "").strip()
    ]
    if not rows:
        raise UserError(f"{path}: no prompts below the header; give at least one row")
    first: dict[int, int] = {}
    for position, row in enumerate(rows, 1):
        if row.case_number in first:
            raise UserError(
                f"{path}, row {position}, column case_number: {row.case_number} stands in row {first[row.case_number]} "
                "already; a case_number names one picture"
            )
        first[row.case_number] = position
    return rows


def empty_rows(path: Path | str) -> int:
    """How many rows of a prompt CSV have no prompt."""
    return sum(not (cells["prompt"] or "").strip() for _, cells in _cells(path))


def left_out(paths: Mapping[str, Path]) -> dict[str, int]:
    """Set -> rows without a prompt, of the files that have some; said on stderr, in one line."""
    found = {name: count for name, path in paths.items() if (count := empty_rows(path))}
    if found:
        told = ", ".join(f"{count} of {name}" for name, count in found.items())
        print(f"rows without a prompt, left out: {told}", file=sys.stderr, flush=True)
    return found


def read_sets(paths: Mapping[str, Path], skip_empty: bool = False) -> dict[str, list[Prompt]]:
    """Several prompt files by the name of their set; the name is a folder's in the archive of pictures."""
    for name in paths:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", name):
            raise UserError(f"prompt set {name!r}: a name is made of letters, digits, _ and -")
    return {name: read_prompts(path, skip_empty) for name, path in paths.items()}


def chosen(rows: list[Prompt], count: int, where: str) -> list[Prompt]:
    """`count` rows at even steps of a file, the first among them. Raises UserError if it has fewer."""
    if count > len(rows):
        raise UserError(f"{where}: has {len(rows)} prompts, {count} are to be attacked; lower attacks.prompts (--each)")
    return [rows[number * len(rows) // count] for number in range(count)]


def repeated(text: str, count: int) -> list[Prompt]:
    """One prompt drawn `count` times, with seeds 0 to count - 1."""
    return [Prompt(number, text, number) for number in range(count)]


def _cells(path: Path | str) -> Iterator[tuple[int, dict]]:
    """Line number and cells of each row, every required column among them; the header is checked."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        _check_columns(path, columns)
        reader.fieldnames = columns
        for cells in reader:
            lost = next((name for name in REQUIRED if cells[name] is None), None)
            if lost:
                mark = next((mark for mark in MARKS if mark in (cells[columns[0]] or "")), None)
                told = f"; its cells are kept apart by {mark!r}, the header's by commas" if mark else ""
                raise UserError(f"{path}, line {reader.line_num}: has no cell for column {lost}{told}; mend the row")
            yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); quote prompts that hold commas"
        ) from None


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: {kinds.dangling(path) or 'no such prompt file'}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a prompt CSV") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _check_columns(path: Path | str, columns: list[str]) -> None:
    if not any(columns):
        raise UserError(f"{path}: empty; the first line must hold {','.join(REQUIRED)}")
    alike = [name.lower() for name in columns]
    doubled = [name for name in READ if alike.count(name) > 1 and name in columns]
    if doubled:
        found = " and ".join(name for name in columns if name.lower() == doubled[0])
        raise UserError(f"{path}, line 1: column {doubled[0]} stands there twice ({found}); rename or delete one")
    missing = [name for name in REQUIRED if name not in columns]
    if missing and (mark := next((mark for mark in MARKS if any(mark in name for name in columns)), None)):
        raise UserError(f"{path}, line 1: its cells are kept apart by {mark!r}; save it with commas")
    if missing:
        other = recognised(columns)
        raise UserError(
            f"{path}, line 1: missing column {', '.join(missing)}; found {', '.join(filter(None, columns))}; "
            f"the first line must hold {','.join(REQUIRED)}"
            + (
                f"; this is a list of format {other[0]}: python -m lethe.texts.prompts {path} --out OUT.csv"
                if other
                else ""
            )
        )


def _row(path: Path | str, line: int, cells: dict) -> Prompt:
    def cell(*names: str) -> str | None:
        return next((text for name in names if (text := (cells.get(name) or "").strip())), None)

    def whole(name: str) -> int:
        text = cell(name) or ""
        if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > LARGEST_SEED:
            raise UserError(f"{path}, line {line}, column {name}: {text!r} is not a whole number from 0 to 2^63 - 1")
        return int(text)

    def pair() -> tuple[str, str] | None:
        parts = tuple(part.strip() for part in (cell("pair") or "").split("|"))
        if len(parts) == 2 and all(parts) and parts[0] != parts[1]:
            return parts
        if parts != ("",):
            raise UserError(f"{path}, line {line}, column pair: {'|'.join(parts)!r} is not two texts, as a man|a woman")
        return None

    for name in READ:  # a prompt may have several lines, which the tokenizer reads as one; a name may not
        if any(mark in (cells.get(name) or "").strip() for mark in ("\0" if name == "prompt" else "\0\n\r")):
            raise UserError(f"{path}, line {line}, column {name}: holds a line end or a NUL byte; take it out")
    if cells.get(None):
        raise UserError(f"{path}, line {line}: more cells than columns; quote prompts that hold commas")
    prompt = cell("prompt")
    if prompt is None:
        raise UserError(
            f"{path}, line {line}, column prompt: empty; write the prompt or delete the row; what leaves such rows out "
            "and counts them: --skip-empty of sample, score and attack (prompts.skip_empty in a params file), or "
            f"python -m lethe.texts.prompts {path} --out OUT.csv"
        )
    return Prompt(
        case_number=whole("case_number"),
        prompt=prompt,
        seed=whole("evaluation_seed"),
        artist=cell("artist", "artists"),
        content=cell("class"),
        file_name=cell("file_name"),
        category=", ".join(split_categories(cell("category", "categories") or "")) or None,
        pair=pair(),
        profession=cell("profession"),
    )


if __name__ == "__main__":
    from lethe.stage.cli import run

    run(prompt_formats.main)
