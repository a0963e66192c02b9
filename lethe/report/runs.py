"""The plan of a report, checked: every run of the grid once, each folder finished and of one lineage."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from lethe.errors import UserError
from lethe.io import read_json, read_meta

UNSEEDED = ("base", "pruned")  # their weights come from no training
REFERENCES = ("base", "pruned", "distill")  # arms that erase nothing
KEYS = ("set", "case_number", "seed", "file")


@dataclass(frozen=True)
class Run:
    """One arm with one training seed: folders of its metrics, its samples and the chain of its weights."""

    arm: str
    budget: float | None
    set: str | None
    seed: int | None
    metrics: Path
    samples: Path
    weights: tuple[Path, ...]

    @property
    def name(self) -> str:
        words = [self.arm, self.budget and f"budget {self.budget:g}", self.set and f"set {self.set}"]
        return ", ".join([*filter(None, words), *([] if self.seed is None else [f"seed {self.seed}"])])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """scores.csv; index (set, case_number), sorted. Raises UserError for a missing column or a doubled row."""
        path = self.metrics / "scores.csv"
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


@dataclass(frozen=True)
class Group:
    """All arms of one budget and one set of concepts, each with its runs in the order of the training seeds.

    `neighbours`: member -> labels in column artist that are easily confused with it; `styles`: labels of the members;
    `spared`: concepts of the experiment that this set does not erase; `aside`: arms that back no
    claim: variants of another, and erasers that do not work on the distilled model.
    """

    budget: float
    set: str
    members: tuple[str, ...]
    neighbours: dict[str, frozenset[str]]
    styles: frozenset[str]
    spared: frozenset[str]
    arms: dict[str, list[Run]]
    aside: frozenset[str] = frozenset()

    @property
    def tag(self) -> str:
        return f"b{round(self.budget * 100):03d}-{self.set}"

    @property
    def erasing(self) -> list[str]:
        """Arms that erase, two-stage erasers first."""
        return [arm for arm in self.arms if arm not in REFERENCES]

    @property
    def two_stage(self) -> list[str]:
        """Arms that fine-tune first and erase afterwards."""
        return [arm for arm in self.erasing if arm != "bilevel" and arm not in self.aside]


@dataclass(frozen=True)
class Plan:
    """What the workflow hands to the report."""

    recipe: str
    experiment: str
    params: dict
    runs: tuple[Run, ...]
    groups: tuple[Group, ...] = field(default=())


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


def read_plan(path: Path, experiment: str | None = None) -> Plan:
    """Reads the plan and checks it against the grid and the folders it names.

    Raises UserError for: a plan that lacks a key or is of another experiment, a run that the grid wants and the plan
    has not (a gap), a run given twice, one that the grid does not want, an unfinished folder, and a folder whose
    meta.json tells of other parents than the plan.
    """
    found = read_json(path)
    try:
        runs = tuple(
            Run(
                arm=row["arm"],
                budget=row["budget"],
                set=row["set"],
                seed=row["seed"],
                metrics=Path(row["metrics"]),
                samples=Path(row["samples"]),
                weights=tuple(map(Path, row["weights"])),
            )
            for row in found["rows"]
        )
        plan = Plan(found["recipe"], found["experiment"], found["params"], runs)
        grid, concepts = plan.params["grid"], plan.params["concepts"]
        variants = tuple(plan.params["variants"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a report plan (missing {error}); let the workflow write it again") from None
    if experiment is not None and plan.experiment != experiment:
        raise UserError(f"{path}: is the plan of experiment {plan.experiment!r}, wanted {experiment!r}")
    _check_doubles(path, runs)
    groups = tuple(
        _group(path, runs, budget, name, members, grid, concepts, variants)
        for budget in grid["budgets"]
        for name, members in grid["sets"].items()
    )
    for group in groups:
        _check_references(group)
    used = {id(run) for group in groups for found_runs in group.arms.values() for run in found_runs}
    for run in runs:
        if id(run) not in used:
            raise UserError(f"{path}: {run.name} is no run of the grid; let the workflow write the plan again")
        _check_lineage(run)
    return Plan(plan.recipe, plan.experiment, plan.params, runs, groups)


def _check_doubles(path: Path, runs: tuple[Run, ...]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (run.arm, run.budget, run.set, run.seed)
        if key in seen:
            raise UserError(f"{path}: {run.name} stands there twice ({seen[key].metrics} and {run.metrics})")
        seen[key] = run


def _group(
    path: Path,
    runs: tuple[Run, ...],
    budget: float,
    name: str,
    members: list[str],
    grid: dict,
    concepts: dict,
    variants: tuple[str, ...],
) -> Group:
    """An arm that knows no set or budget (null in the plan) takes part in every group."""
    arms = {}
    for arm in [*ordered(grid["arms"]), *variants]:
        seeds = [None] if arm in UNSEEDED else grid["seeds"]
        mine = [run for run in runs if run.arm == arm and run.budget in (budget, None) and run.set in (name, None)]
        by_seed = {}
        for run in mine:
            if run.seed in by_seed:
                raise UserError(f"{path}: {run.name} stands there twice for budget {budget:g}, set {name}")
            by_seed[run.seed] = run
        gaps = [seed for seed in seeds if seed not in by_seed]
        if gaps:
            where = "" if gaps == [None] else f", seed {', '.join(map(str, gaps))}"
            raise UserError(f"{path}: no run of {arm} for budget {budget:g}, set {name}{where}; run the workflow again")
        arms[arm] = [by_seed[seed] for seed in seeds]
    neighbours = {member: frozenset(concepts[member]["neighbours"]) for member in members}
    styles = frozenset(concepts[member]["style"] for member in members) - {None}
    spared = frozenset(concepts) - set(members)
    other = [arm for arm in grid["arms"] if arm not in (*REFERENCES, "bilevel") and grid["erase_from"] != "distill"]
    return Group(budget, name, tuple(members), neighbours, styles, spared, arms, frozenset([*variants, *other]))


def _check_lineage(run: Run) -> None:
    """Address, metrics, samples and weights must name each other."""
    metas = {folder: read_meta(folder) for folder in (run.metrics, run.samples, *run.weights)}
    for folder, meta in metas.items():
        _, dash, tail = folder.name.rpartition("-")  # <key>-<recipe>
        if dash and len(tail) == len(meta["recipe"]) and tail != meta["recipe"]:
            raise UserError(
                f"{folder}: holds a result of recipe {meta['recipe']}; delete it and run the workflow again"
            )
    links = [(run.metrics, "samples", run.samples)]
    links += [(run.samples, "model", run.weights[-1])] if run.weights else []
    for child, role, parent in links:
        told = metas[child].get("parents", {}).get(role, {}).get("recipe")
        if told != metas[parent]["recipe"]:
            raise UserError(
                f"{child}: was made from {role} of recipe {told}, {parent} holds {metas[parent]['recipe']}; "
                "delete it and run the workflow again"
            )


def _check_references(group: Group) -> None:
    """CP and CSD compare with the arm `distill`: every run must have been scored against the one in this table.

    The base model, the same for all budgets, was scored once, against that of the first.
    """
    distilled = {run.seed: read_meta(run.metrics)["recipe"] for run in group.arms["distill"]}
    for arm, runs in group.arms.items():
        for run in runs if arm not in ("base", "distill") else []:
            told = read_meta(run.metrics).get("parents", {}).get("reference", {}).get("recipe")
            if told not in ([distilled[run.seed]] if run.seed is not None else distilled.values()):
                raise UserError(
                    f"{run.metrics}: was scored against {told}, distill is {', '.join(distilled.values())}; "
                    "delete it and run the workflow again"
                )
