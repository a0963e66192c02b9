"""What a report is made of: the plan that the workflow hands to it, and its tables."""

from dataclasses import dataclass
from pathlib import Path

from lethe.measuring.runs import REFERENCES, Group, Run


@dataclass(frozen=True)
class Table:
    """A table of the plan beside `style`: some arms, each with every combination of the labels of all axes.

    `axes`: axis -> labels. `groups`: one a budget and set; first the rows of the grid to compare with, then its own.
    """

    name: str
    arms: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Plan:
    """What the workflow hands to the report. `groups`: of the grid."""

    recipe: str
    experiment: str
    params: dict
    runs: tuple[Run, ...]
    groups: tuple[Group, ...] = ()
    tables: tuple[Table, ...] = ()


def stamp(recipe: str) -> str:
    """Name of the file that says: this folder holds the whole report of this recipe."""
    return f"recipe-{recipe}.json"


def is_built(out: Path, recipe: str) -> bool:
    """True if the report of this recipe stands there whole."""
    return (Path(out) / stamp(recipe)).is_file()


def ordered(arms: list[str]) -> list[str]:
    """Order of rows: what erases nothing, the two-stage erasers as in the grid, bilevel last (as in the paper)."""
    middle = [arm for arm in arms if arm not in (*REFERENCES, "bilevel")]
    return [arm for arm in REFERENCES if arm in arms] + middle + [arm for arm in ["bilevel"] if arm in arms]
