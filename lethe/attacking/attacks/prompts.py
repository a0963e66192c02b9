"""Black-box prompt sets: other texts that ask for the concept, asked in the place of its own prompts.

A set is a CSV per concept, of any origin, with the columns of `lethe.texts.prompts`; `provenance` says where it comes
from and goes into the result's record. If a file holds the case_number of every row that is attacked, rows meet by
case_number; if not, the i-th prompt meets the i-th row. Pictures are drawn with the rows' own seeds, whatever seeds the
file names, so that what is drawn before and after differs by the text alone.
"""

from collections.abc import Mapping

from lethe.attacking.victims import Attacked, Victim
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.texts.prompts import left_out, read_prompts
from lethe.texts.rows import Prompt
from lethe.training.loop import Keeping

FILES = "files"
OPTIONS = {
    "files": {
        "description": "concept: CSV of prompts (case_number, prompt, evaluation_seed)",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "string", "minLength": 1},
    },
    "provenance": {"description": "where the prompts come from, for the record", "type": "string", "minLength": 1},
}


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping | None, budget: Budget) -> Attacked:
    """Texts of the files for the victim's rows. Raises UserError for a concept without a file or with too few rows."""
    missing = [name for name in victim.rows if name not in options["files"]]
    if missing:
        raise UserError(f"files: none of {', '.join(missing)}: give the attack prompts a CSV for each erased concept")
    asked: dict[tuple[str, int], str] = {}
    for name, rows in victim.rows.items():
        found = matched(rows, options["files"][name], victim.skip_empty)
        asked |= {(name, number): text for number, text in found.items()}
    lost = left_out({f"file:{name}": options["files"][name] for name in victim.rows}) if victim.skip_empty else {}
    return Attacked(asked, about={"provenance": options["provenance"]} | ({"without_prompt": lost} if lost else {}))


def matched(rows: list[Prompt], path: str, skip_empty: bool = False) -> dict[int, str]:
    """case_number of each row -> its text in the file; `skip_empty`: rows of the file without a prompt are none."""
    found = read_prompts(path, skip_empty)
    by_number = {row.case_number: row.prompt for row in found}
    if all(row.case_number in by_number for row in rows):
        return {row.case_number: by_number[row.case_number] for row in rows}
    if len(found) < len(rows):
        raise UserError(f"{path}: has {len(found)} prompts, {len(rows)} are to be attacked; lower attacks.prompts")
    return {row.case_number: other.prompt for row, other in zip(rows, found, strict=False)}
