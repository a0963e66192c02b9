"""Reads the plan of a report and checks it: every run once, each folder finished and of one lineage."""

from collections import defaultdict
from itertools import product
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import read_json, read_meta
from lethe.measuring.runs import REFERENCES, UNSEEDED, Group, Run
from lethe.params.variation import TABLES, TAKEN
from lethe.report.plan import Plan, Table, ordered

TWO_STAGES = "distill_erase"  # the order of the steps in which erasers are the paper's two-stage arms
Rows = dict[tuple, list[Run]]  # Run.place -> its runs of all budgets, sets and seeds


def read_plan(path: Path, experiment: str | None = None) -> Plan:
    """Reads the plan and checks it against the grid, its tables and the folders it names.

    Raises UserError for: a plan that lacks a key or is of another experiment, a table or axis with a name that is
    taken, a run that the grid or a table wants and the plan has not (a gap), a run given twice, one that neither
    wants, an unfinished folder, and a folder whose meta.json tells of other parents than the plan.
    """
    found = read_json(path)
    try:
        runs = tuple(_run(row) for row in found["rows"])
        plan = Plan(found["recipe"], found["experiment"], found["params"], runs)
        grid, concepts = plan.params["grid"], plan.params["concepts"]
        aside = frozenset(grid["arms"]) - {*REFERENCES, "bilevel"} if grid["order"] != TWO_STAGES else frozenset()
        tables = {name: _filled(own, grid) for name, own in plan.params["tables"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a report plan (missing {error}); let the workflow write it again") from None
    if experiment is not None and plan.experiment != experiment:
        raise UserError(f"{path}: is the plan of experiment {plan.experiment!r}, wanted {experiment!r}")
    _check_names(tables, grid["arms"])
    _check_doubles(path, runs)
    rows: Rows = defaultdict(list)
    for run in runs:
        if run.attack is None:
            rows[run.place].append(run)
    groups = {
        (budget, name): _group(
            budget,
            name,
            concepts,
            members,
            {arm: _seeded(path, rows[None, arm, ()], arm, budget, name, grid) for arm in ordered(grid["arms"])},
            aside,
        )
        for budget in grid["budgets"]
        for name, members in grid["sets"].items()
    }
    for group in groups.values():
        _check_references(group)
    made = tuple(_table(path, name, own, rows, groups, grid, concepts) for name, own in tables.items())
    wanted = [*groups.values(), *(group for table in made for group in table.groups)]
    used = {id(run) for group in wanted for found_runs in group.arms.values() for run in found_runs}
    for run in runs:
        if id(run) not in used and run.attack is None:
            of = "the grid" if run.table is None else f"table {run.table}"
            raise UserError(f"{path}: {run.name} is no run of {of}; let the workflow write the plan again")
        _check_lineage(run)
    return Plan(plan.recipe, plan.experiment, plan.params, runs, tuple(groups.values()), made)


def _run(row: dict) -> Run:
    return Run(
        arm=row["arm"],
        budget=row["budget"],
        set=row["set"],
        seed=row["seed"],
        metrics=Path(row["metrics"]),
        samples=Path(row["samples"]),
        weights=tuple(dict.fromkeys(map(Path, row["weights"]))),  # a link that two others share counts once
        table=row["table"],
        labels={axis: str(label) for axis, label in row["labels"].items()},
        attack=row.get("attack"),
    )


def _filled(own: dict, grid: dict) -> dict:
    """A table of the params: its budgets and seeds (null takes the grid's), its axes with their labels alone."""
    axes = {axis: tuple(map(str, labels)) for axis, labels in own["vary"].items()}
    budgets = grid["budgets"] if own["budgets"] is None else own["budgets"]
    return {
        "arms": tuple(own["of"]),
        "against": tuple(own.get("against", [])),
        "axes": axes,
        "budgets": budgets,
        "seeds": grid["seeds"] if own["seeds"] is None else own["seeds"],
    }


def _check_names(tables: dict[str, dict], arms: list[str]) -> None:
    """Tables are files (name, name_paired, name_matrix) and keys of summary.json beside the arms; axes are columns."""
    taken = {f"{table}{end}" for table in TABLES for end in ("", "_paired")} | set(arms)
    for name, own in tables.items():
        files = {name, f"{name}_paired", f"{name}_matrix"}
        if files & taken:
            raise UserError(
                f"tables: {name!r} is the name of an arm or of another table's file; call it something else"
            )
        taken |= files
        for axis in own["axes"]:
            if axis in TAKEN:
                raise UserError(f"tables.{name}.vary: {axis!r} is the name of a column; call the axis something else")


def _check_doubles(path: Path, runs: tuple[Run, ...]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (run.place, run.attack, run.budget, run.set, run.seed)
        if key in seen:
            raise UserError(f"{path}: {run.name} stands there twice ({seen[key].metrics} and {run.metrics})")
        seen[key] = run


def _group(
    budget: float,
    name: str,
    concepts: dict,
    members: list[str],
    arms: dict[str, list[Run]],
    aside: frozenset[str] = frozenset(),
) -> Group:
    return Group(budget, name, tuple(members), concepts, arms, aside)


def _seeded(path: Path, runs: list[Run], row: str, budget: float, name: str, grid: dict) -> list[Run]:
    """A row's runs of one budget and set in the order of the seeds.

    A run that knows no set or budget (null in the plan) takes part in every group.
    """
    by_seed = {}
    for run in runs:
        if run.budget in (budget, None) and run.set in (name, None):
            if run.seed in by_seed:
                raise UserError(f"{path}: {run.name} stands there twice for budget {budget:g}, set {name}")
            by_seed[run.seed] = run
    seeds = [None] if row.split()[0] in UNSEEDED else grid["seeds"]
    gaps = [seed for seed in seeds if seed not in by_seed]
    if gaps:
        where = "" if gaps == [None] else f", seed {', '.join(map(str, gaps))}"
        raise UserError(f"{path}: no run of {row} for budget {budget:g}, set {name}{where}; run the workflow again")
    return [by_seed[seed] for seed in seeds]


def _table(path: Path, name: str, own: dict, rows: Rows, grid_groups: dict, grid: dict, concepts: dict) -> Table:
    """One table with its groups; below the grid's rows each arm with each combination of labels, last axis fastest."""
    combinations = [dict(zip(own["axes"], labels, strict=True)) for labels in product(*own["axes"].values())]
    groups = []
    for budget in own["budgets"]:
        for set_name, members in grid["sets"].items():
            arms = _compared(grid_groups, budget, set_name, own["seeds"], own["against"])
            for arm in own["arms"]:
                for labels in combinations:
                    row = " ".join([arm, *labels.values()])
                    if row in arms:
                        raise UserError(f"tables.{name}.vary: two rows are called {row!r}; rename a label")
                    runs = rows[name, arm, tuple(labels.items())]
                    try:
                        arms[row] = _seeded(path, runs, row, budget, set_name, own)
                    except UserError as error:
                        raise UserError(f"{error} (table {name})") from None
            group = _group(budget, set_name, concepts, members, arms)
            _check_references(group, grid_groups.get((budget, set_name)), own["seeds"][0])
            groups.append(group)
    return Table(name, own["arms"], own["axes"], tuple(groups))


def _compared(
    grid_groups: dict, budget: float, name: str, seeds: list[int], rivals: tuple[str, ...]
) -> dict[str, list[Run]]:
    """Rows of the grid to compare with, of the same budget, set and seeds; the base model is of every budget."""
    found = {}
    same = grid_groups.get((budget, name))
    for arm in (*REFERENCES, *rivals):
        group = same or next(own for (_, set_name), own in grid_groups.items() if set_name == name)
        if arm not in group.arms or (same is None and arm != "base"):
            continue
        runs = {run.seed: run for run in group.arms[arm]}
        wanted = [None] if arm in UNSEEDED else seeds
        if all(seed in runs for seed in wanted):
            found[arm] = [runs[seed] for seed in wanted]
    return found


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


def _check_references(group: Group, grid: Group | None = None, first: int | None = None) -> None:
    """CP and CSD compare with the arm `distill` of the grid: all runs of a seed must have been scored against the same.

    The base model, the same for all budgets, was scored once, against that of the first. `grid`: the grid's group of a
    table's; where there is none, the rows of the table must agree among themselves. `first`: the table's first seed,
    whose distilled model stands in for rows without one.
    """
    distilled = {run.seed: run.recipe for run in (grid or group).arms.get("distill", [])}
    rows = [row for row in group.arms if row not in ("base", "distill")] if grid is None else group.own
    seeded = [run for row in rows for run in group.arms[row] if run.seed is not None]
    for run in seeded:
        distilled.setdefault(run.seed, run.reference)
    unseeded = [run for row in rows for run in group.arms[row] if run.seed is None]
    for run in [*seeded, *(unseeded if first is None or first in distilled else [])]:
        legal = list(distilled.values()) if run.seed is None else [distilled[run.seed]]
        if legal and run.reference not in legal:
            raise UserError(
                f"{run.metrics}: was scored against {run.reference}, distill is {', '.join(legal)}; "
                "delete it and run the workflow again"
            )
