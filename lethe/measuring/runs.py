"""Results that are measured and compared: runs, and groups of rows of runs."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from lethe.files.errors import UserError
from lethe.files.io import checked, read_json, read_meta

UNSEEDED = ("base", "pruned")  # their weights come from no training
REFERENCES = ("base", "pruned", "distill")  # arms that erase nothing
KEPT = "kept"  # the table of what must stay
KEYS = ("set", "case_number", "seed", "file")


# Reasons of stage score that tell of no lack: a reference does not drift from itself, and what nobody asked for is not
# missed. Their cells are dashes.
BY_NATURE = (
    *("these are the ", "no object is erased", "no pair of texts", "no concept of kind unsafe"),
    *("no neighbour's prompt", "no other prompt that must stay"),
)


@dataclass(frozen=True)
class Run:
    """One row of a table with one training seed: folders of its metrics, its samples and the chain of its weights.

    `table`: null for the grid; `labels`: axis -> label, in a table's row. `attack`: label of the one that its pictures
    were drawn under, null for those drawn as asked.
    """

    arm: str
    budget: float | None
    set: str | None
    seed: int | None
    metrics: Path
    samples: Path
    weights: tuple[Path, ...]
    table: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    attack: str | None = None

    @property
    def row(self) -> str:
        """Name of its row: the arm and, in a table, its labels."""
        return " ".join([self.arm, *self.labels.values()])

    @property
    def place(self) -> tuple:
        """What tells its row from all others of the plan."""
        return self.table, self.arm, tuple(self.labels.items())

    @property
    def name(self) -> str:
        row = self.row if self.table is None else f"{self.row} of table {self.table}"
        words = [
            row,
            f"attack {self.attack}" if self.attack else "",
            f"budget {self.budget:g}" if self.budget else "",
            f"set {self.set}" if self.set else "",
            "" if self.seed is None else f"seed {self.seed}",
        ]
        return ", ".join(filter(None, words))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """scores.csv; index (set, case_number), sorted. Raises UserError for a missing column, a doubled row, or a file
        that is not what meta.json tells of."""
        path = self.metrics / "scores.csv"
        checked(self.metrics, path.name)
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"set": str})
        except (FileNotFoundError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise UserError(f"{path}: no readable scores ({error}); delete the folder and score again") from None
        missing = [name for name in KEYS if name not in table]
        if missing:
            raise UserError(f"{path}: missing column {', '.join(missing)}; score again")
        doubled = table.duplicated(["set", "case_number"])
        if doubled.any():
            row = table[doubled].iloc[0]
            raise UserError(f"{path}: prompt {row['set']}/{row['case_number']} stands there twice; score again")
        return table.set_index(["set", "case_number"]).sort_index()

    @cached_property
    def chain(self) -> list[dict]:
        """meta.json of each link of the weights, first to last; empty for the base model."""
        return [read_meta(folder) for folder in self.weights]

    @cached_property
    def recipe(self) -> str:
        """Of its metrics."""
        return read_meta(self.metrics)["recipe"]

    @cached_property
    def records(self) -> dict[str, dict]:
        """metrics.json: a metric's protocol and warning stand there; {} if there is none."""
        return read_json(self.metrics / "metrics.json") if checked(self.metrics, "metrics.json") else {}

    @cached_property
    def absent(self) -> dict[str, str]:
        """Metric -> why it was not measured, but for those that this run has not by nature (BY_NATURE)."""
        found = read_meta(self.metrics).get("absent", {})
        nature = (*BY_NATURE, "no pictures of the dense base") if self.arm == "base" else BY_NATURE
        return {name: reason for name, reason in found.items() if not reason.startswith(nature)}

    @cached_property
    def reference(self) -> str:
        """Recipe of the metrics it was scored against: its own if its pictures are the reference."""
        return read_meta(self.metrics).get("parents", {}).get("reference", {}).get("recipe", self.recipe)


@dataclass(frozen=True)
class Group:
    """All rows of one budget and one set of concepts, each with its runs in the order of the training seeds.

    `arms`: row -> runs; in the grid a row is called as its arm. `concepts`: all of the experiment, with kind, style and
    neighbours; `members` are those erased here; `aside`: arms that back no claim: erasers that do not work on the
    distilled model.
    """

    budget: float
    set: str
    members: tuple[str, ...]
    concepts: dict[str, dict]
    arms: dict[str, list[Run]]
    aside: frozenset[str] = frozenset()

    @property
    def neighbours(self) -> dict[str, frozenset[str]]:
        """Member -> labels that are easily confused with its own."""
        return {name: frozenset(self.concepts[name]["neighbours"]) for name in self.members}

    def of_table(self, table: str) -> tuple[str, ...]:
        """Members that table `unsafe` speaks of, or table `style`; `kept` speaks of what all of them must leave."""
        if table == KEPT:
            return self.members
        return tuple(name for name in self.members if (self.concepts[name]["kind"] == "unsafe") == (table == "unsafe"))

    @property
    def tag(self) -> str:
        """Of files and keys: 0.8 is b080, and 0.804, which must not be taken for it, b0804."""
        decimals = f"{self.budget:.10f}".partition(".")[2].rstrip("0")
        return f"b0{decimals:0<2}-{self.set}"

    @property
    def own(self) -> list[str]:
        """Rows of a table that do not come from the grid."""
        return [row for row, runs in self.arms.items() if runs[0].table is not None]

    @property
    def erasing(self) -> list[str]:
        """Arms that erase, two-stage erasers first."""
        return [arm for arm in self.arms if arm not in REFERENCES]

    @property
    def two_stage(self) -> list[str]:
        """Arms that fine-tune first and erase afterwards."""
        return [arm for arm in self.erasing if arm != "bilevel" and arm not in self.aside]
