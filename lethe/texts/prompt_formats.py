"""Prompt lists as others publish them, made into ours: one format for experiments, each row with where it comes from.

| format | lists | recognised by these columns, the first being the prompt |
|---|---|---|
| `i2p` | I2P (2211.05105), as published | `prompt`, `categories`, `sd_seed` |
| `unlearn_diff_atk` | UnlearnDiffAtk's (2310.11868), also ESD's and UCE's | `prompt`, `evaluation_seed` |
| `mma_diffusion` | MMA-Diffusion (2311.17516), without seeds | `adv_prompt` |
| `ring_a_bell_pairs` | RECE's rewriting of Ring-A-Bell, without seeds | `sensitive prompt` |
| `ring_a_bell` | Ring-A-Bell (2310.10012), a prompt a line, without header and seeds | none: has to be named |
| `coco` | captions_NAME.json of COCO: one caption a picture (`--caption`), without seeds | its ending, .json |

A file that fits none of them, or several, is refused. What comes out has case_number, prompt and evaluation_seed, then
category, artist, class, pair, profession, evaluation_guidance, width and height where the list has them, and `source`
(file:row). Beside it stands a JSON file of the same name: the hash of what was read, and what was left out or could not
be read. Several lists become one, whose rows are numbered anew; `--category NAME`, given for each alone before, tells
them apart.

- Seeds: each row's own, where the list has them; else the row's number, counted from 0. `--seeds 0` (or another number)
  gives all rows that seed, as the literature does with 0: its scripts ignore I2P's.
- Guidance and size of a row are kept in the file and used by nothing: an experiment draws all rows with sample.guidance
  and base.resolution, so that arms and prompt sets compare.
- Of COCO's captions of a picture the first is taken, that of the lowest annotation id, as our reader of COCO's folders
  does. `--caption last` takes the highest: the paper's release writes one caption a picture over the other, so its CLIP
  score is of the last. Pictures come in the order of their ids, which are the case_numbers.
- Ring-A-Bell's lines are read by the published scripts with the quotes that CSV put around some of them. Here they go;
  `--quotes keep` leaves them. Bytes that are no UTF-8 become U+FFFD, which stays in the prompt and is counted.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from lethe.files.errors import UserError
from lethe.files.io import write_json, write_text
from lethe.stage import cli
from lethe.texts import coco
from lethe.texts.rows import LARGEST_SEED, split_categories

RAW, COCO = "ring_a_bell", "coco"
UNREADABLE = "\ufffd"


@dataclass(frozen=True)
class Format:
    """Columns that tell a layout, the prompt's first, and the column of seeds (None: it has none)."""

    columns: tuple[str, ...]
    seed: str | None
    about: str

    @property
    def prompt(self) -> str:
        return self.columns[0] if self.columns else ""


FORMATS = {
    "i2p": Format(("prompt", "categories", "sd_seed"), "sd_seed", "I2P (2211.05105)"),
    "unlearn_diff_atk": Format(
        ("prompt", "evaluation_seed"), "evaluation_seed", "prompt and seed, as ESD, UCE and UnlearnDiffAtk"
    ),
    "mma_diffusion": Format(("adv_prompt",), None, "MMA-Diffusion (2311.17516)"),
    "ring_a_bell_pairs": Format(("sensitive prompt",), None, "Ring-A-Bell's, as RECE rewrote them"),
    RAW: Format((), None, "Ring-A-Bell (2310.10012): a prompt a line, no header"),
    COCO: Format((), None, "COCO's captions, one a picture"),
}
ALSO = {  # our column: theirs, the first that is there
    "category": ("category", "categories"),
    "artist": ("artist", "artists"),
    "class": ("class",),
    "pair": ("pair",),
    "profession": ("profession",),
    "evaluation_guidance": ("evaluation_guidance", "sd_guidance_scale"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
}
UNUSED = ("evaluation_guidance", "width", "height")


@dataclass
class Converted:
    """Rows of our format, and what there is to tell of how they came about."""

    rows: list[dict[str, str | int]] = field(default_factory=list)
    facts: dict = field(default_factory=dict)


def recognised(columns: list[str]) -> list[str]:
    """Formats whose columns are all there."""
    return [name for name, own in FORMATS.items() if own.columns and set(own.columns) <= set(columns)]


def convert(
    path: Path,
    wanted: str | None = None,
    seeds: int | None = None,
    only: str | None = None,
    quotes: str = "drop",
    caption: str = coco.FIRST,
    category: str | None = None,
) -> Converted:
    """The prompts of a published list.

    `wanted`: its format; None: the one that its columns tell. `seeds`: one for all rows; None: see the module's text.
    `only`: rows of this category alone. `quotes`: of lines of `ring_a_bell`, drop or keep. `caption`: which of COCO's,
    first or last. `category`: what all rows are said to be of, in place of the list's own.
    Raises UserError, naming file and row, for an unknown layout, a seed that is none, a case_number given twice, and if
    no row is left.
    """
    path = Path(path)
    content, text = _text(path)
    name, columns = _format(path, text, wanted)
    own, found, empty, other = FORMATS[name], Converted(), 0, 0
    extra = [key for key, theirs in ALSO.items() if set(theirs) & set(columns)]
    if only is not None and "category" not in extra:
        raise UserError(f"--only {only}: {path} has no column category or categories to choose by")
    for number, cells in enumerate(_rows(path, name, text, quotes, caption)):
        prompt = (cells.get(own.prompt) or "").strip()
        row: dict[str, str | int] = {
            "case_number": _whole(path, number, "case_number", cells.get("case_number") or str(number)),
            "prompt": prompt,
            "evaluation_seed": number if seeds is None else seeds,
        }
        if own.seed and seeds is None:
            row["evaluation_seed"] = _whole(path, number, own.seed, cells.get(own.seed) or "")
        told = {key: next((cells[their] for their in ALSO[key] if cells.get(their)), "").strip() for key in extra}
        if "category" in told:
            told["category"] = ", ".join(split_categories(told["category"]))
        row |= told
        if category is not None:
            row["category"] = category
        empty += not prompt
        left_out = only is not None and only not in split_categories(told["category"])  # as the list has it
        other += bool(prompt) and left_out
        if prompt and not left_out:
            found.rows.append(row | {"source": f"{path.name}:{number}"})
    _check(path, found.rows, only)
    found.facts = {
        "source": path.name,
        "sha256": sha256(content).hexdigest(),
        "format": name,
        "about": own.about,
        "rows": len(found.rows),
        "left_out": {"empty": empty, "of_other_categories": other},
        "seeds": f"column {own.seed}" if own.seed and seeds is None else "row number" if seeds is None else seeds,
        "unreadable_characters": sum(str(row["prompt"]).count(UNREADABLE) for row in found.rows),
        "not_used": {key: dict(Counter(row[key] for row in found.rows)) for key in UNUSED if key in extra},
    } | ({"caption": caption} if name == COCO else {})
    return found


def joined(lists: Sequence[Converted]) -> Converted:
    """Several lists as one: rows in the order of the lists, numbered anew from 0; a column that some lack is empty
    there."""
    if len(lists) == 1:
        return lists[0]
    columns = dict.fromkeys(column for own in lists for column in own.rows[0])
    rows = [{column: row.get(column, "") for column in columns} for own in lists for row in own.rows]
    rows = [row | {"case_number": number} for number, row in enumerate(rows)]
    return Converted(rows, {"rows": len(rows), "lists": [own.facts for own in lists]})


def write(found: Converted, out: Path) -> None:
    """The CSV, and beside it the JSON file of the same name."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows)
    write_text(out, text.getvalue())
    write_json(Path(out).with_suffix(".json"), found.facts)


def known_formats() -> str:
    """For messages: each format with the columns that tell it."""
    bare = {RAW: "no header; only by --format", COCO: "a .json"}
    told = (f"{name} ({', '.join(own.columns) or bare[name]})" for name, own in FORMATS.items())
    return "; ".join(told)


def _text(path: Path) -> tuple[bytes, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such prompt file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        raise UserError(
            f"{path}: holds zero bytes, so it is no UTF-8 text (UTF-16, or not text at all); save it as UTF-8"
        )
    if not text.strip():
        raise UserError(f"{path}: empty")
    return content, text


def _rows(path: Path, name: str, text: str, quotes: str, caption: str) -> Iterator[Mapping[str, str]]:
    """A list's rows by its columns; of a list without a header the prompt alone, under ""."""
    if name == COCO:
        return coco.rows(path, text, caption)
    return _lines(text, quotes) if name == RAW else _cells(path, text)


def _format(path: Path, text: str, wanted: str | None) -> tuple[str, list[str]]:
    """The format's name and the file's columns."""
    if wanted == COCO or (wanted is None and path.suffix == ".json"):
        return COCO, []
    columns = [name.strip() for name in next(csv.reader(io.StringIO(text, newline="")))]
    if wanted is not None and wanted not in FORMATS:
        raise UserError(f"--format: {wanted!r} is not one of {known_formats()}")
    fitting = recognised(columns)
    if wanted == RAW:
        if fitting:
            raise UserError(
                f"{path}: has a header, that of {fitting[0]}, which would become a prompt; leave out --format"
            )
        return RAW, []
    if wanted is not None:
        missing = sorted(set(FORMATS[wanted].columns) - set(columns))
        if missing:
            raise UserError(f"{path}: is not {wanted}: no column {', '.join(missing)}; found {_named(columns)}")
        return wanted, columns
    if len(fitting) > 1:
        raise UserError(f"{path}: could be {' or '.join(fitting)}; say which with --format")
    if not fitting:
        raise UserError(f"{path}: unknown layout, its first line is {_named(columns)}; known: {known_formats()}")
    return fitting[0], columns


def _named(columns: list[str]) -> str:
    text = ", ".join(filter(None, columns))
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _cells(path: Path, text: str) -> Iterator[Mapping[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    try:
        for cells in reader:
            if cells.get(None):
                raise UserError(
                    f"{path}, line {reader.line_num}: more cells than columns; quote prompts that hold commas"
                )
            yield cells
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _lines(text: str, quotes: str) -> Iterator[Mapping[str, str]]:
    for line in io.StringIO(text, newline=None):  # str.splitlines would split at characters that prompts may hold
        line = line.strip()
        if quotes == "drop" and len(line) > 1 and line[0] == line[-1] == '"':
            line = line[1:-1].replace('""', '"')
        yield {"": line}


def _whole(path: Path, number: int, column: str, text: str) -> int:
    """Tables that went through pandas have 12.0 for 12."""
    text = text.strip().removesuffix(".0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > LARGEST_SEED:
        raise UserError(
            f"{path}, row {number}, column {column}: {text!r} is not a whole number from 0 to 2^63 - 1; mend it, "
            "or give all rows one seed (--seeds 0)"
        )
    return int(text)


def _check(path: Path, rows: list[dict], only: str | None) -> None:
    if not rows:
        raise UserError(f"{path}: no prompt left" + (f" of category {only}" if only is not None else ""))
    twice = [number for number, count in Counter(row["case_number"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path}, column case_number: {twice[0]} stands there twice; a case_number names one picture")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main() -> None:
    """python -m lethe.texts.prompts FILE ... --out OUT.csv [--format NAME]"""
    parser = _Parser(
        prog=cli.prog("lethe.texts.prompts"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, nargs="+", help="the published list; several of one format become one")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write; its JSON file stands beside it")
    parser.add_argument("--format", help=f"its layout, if its columns do not tell: {', '.join(FORMATS)}")
    parser.add_argument(
        "--seeds", type=int, help="one seed for all rows (default: the list's own, or the row's number)"
    )
    parser.add_argument("--only", metavar="CATEGORY", help="rows of this category alone, such as sexual")
    parser.add_argument("--category", help="of all rows, in place of the list's own, such as mma")
    parser.add_argument("--quotes", choices=["drop", "keep"], default="drop", help="of ring_a_bell's lines")
    parser.add_argument("--caption", choices=coco.RULES, default=coco.FIRST, help="of a picture's in coco")
    args = parser.parse_args()
    if args.out.suffix != ".csv":
        raise UserError(f"--out: {args.out} does not end in .csv")
    if args.seeds is not None and not 0 <= args.seeds <= LARGEST_SEED:
        raise UserError(f"--seeds: {args.seeds} is not a whole number from 0 to 2^63 - 1")
    for path in args.file:
        for written in (args.out, args.out.with_suffix(".json")):
            if written.exists() and path.exists() and written.samefile(path):
                raise UserError(f"--out: {written}, which would be written, is the list itself; give another name")
    own = (args.format, args.seeds, args.only, args.quotes, args.caption, args.category)
    lists = [convert(path, *own) for path in args.file]
    found = joined(lists)
    write(found, args.out)
    if len(lists) > 1:
        print(f"{args.out}: {len(found.rows)} prompts of {len(lists)} lists, numbered anew")
    for converted in lists:
        _tell(args.out if len(lists) == 1 else converted.facts["source"], converted.facts)


def _tell(where: object, told: Mapping) -> None:
    """What became of a list, for people."""
    dropped, which = told["left_out"], f", the {told['caption']} of each" if "caption" in told else ""
    print(f"{where}: {told['rows']} prompts of {told['about']}{which}; seeds: {told['seeds']}")
    for count, what in (
        (dropped["empty"], "rows without a prompt left out"),
        (dropped["of_other_categories"], "rows of other categories left out"),
        (told["unreadable_characters"], "characters that are no UTF-8, left as U+FFFD"),
    ):
        if count:
            print(f"  {count} {what}")
    for key, values in told["not_used"].items():
        print(f"  {key}: {len(values)} different values, kept in the file and not used for drawing")
