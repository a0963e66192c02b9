"""Tables of the plan: arms with some values changed, differences to each arm's first row, and the arms side by side."""

from collections.abc import Sequence

import pandas as pd

from lethe.measuring.measures import ERASURE, FIDELITY, METRICS, Metric, first_measured, named
from lethe.measuring.runs import KEPT, REFERENCES, Group
from lethe.report.columns import (
    DEPLOYMENT,
    PAIRED,
    Found,
    add_differences,
    columns_of,
    differences,
    estimates,
    keep,
    metrics_of,
    not_run,
    several,
    shown,
    spent,
    trimmed,
)
from lethe.report.cost import dense_latency
from lethe.report.markup import DASH, Text, interval, number
from lethe.report.plan import Table

TITLES = {
    "distillation": "Losses of the fine-tuning",
    "initialisation": "Pruned weights against random ones",
    "solvers": "Solvers of the bilevel problem",
    "schedules": "Schedules towards one target",
    "plugins": "Pruners and ways to erase",
    "erasers": "Erasers on the dense model",
    "orders": "Order of pruning, healing and erasing",
    "deployment": "Deployment: other precisions, fewer steps",
}
CAPTIONS = {
    "distillation": "Figure 4 of the paper: the pruned model healed by the diffusion loss, by distillation, by both,"
    " for several lengths of training.",
    "initialisation": "Figure 5 of the paper: fine-tuning from the weights that pruning left, against the same"
    " architecture with random weights: are the kept weights worth keeping?",
    "solvers": "The same two losses, solved in several ways; the weighted sum of both, without levels, is the control.",
    "schedules": "One way to forget, its steps taken as ours takes them, as released, and in one weighted sum without"
    " levels: what is the solver's merit, and what the target's?",
    "plugins": "Any pruner with any way to erase, all else equal: does the method depend on the pair?",
    "erasers": "Each eraser on the dense base model, where it was made to work: what it does before pruning comes in.",
    "orders": "Pruning, healing and erasing in other orders, from the same base model.",
    "deployment": "The same weights drawn in other precisions and with other samplers: what is left of erasure and"
    " quality. Metrics that compare with distill's pictures, as CP does, compare with the grid's, in float32. int8 and"
    " int4 are weights alone, multiplied out again to draw: MB is what they take packed, milliseconds are float32's.",
}


def title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def frame(table: Table, found: Sequence[Found], kept: bool = False) -> pd.DataFrame:
    """A row a combination of arm, labels, budget and set; in each group first the grid's, with reference "grid".

    Columns: `arm`, one an axis, `set`, `keep`, `reference`, then as in `tables.of_kind`.
    """
    rows, metrics = [], columns(found, kept)
    for group, measured, costs in found:
        dense = dense_latency(costs.values())
        for name, runs in group.arms.items():
            cost, run = costs[name], runs[0]
            row: dict[str, float | str | None] = {"arm": run.arm}
            row |= {axis: run.labels.get(axis) for axis in table.axes}
            row |= {"set": group.set, "keep": keep(group, cost), "reference": None if run.table else "grid"}
            row |= estimates(measured, name, metrics) | {"not_run": not_run(runs, measured, name, metrics)}
            row |= spent(cost, measured.images[name], len(runs), dense)
            rows.append(row)
    return trimmed(pd.DataFrame(rows))


def columns(found: Sequence[Found], kept: bool = False) -> list[Metric]:
    """Those of the tables, style or unsafe, whose concepts some group erases; if `kept`, those of what must stay."""
    if kept:
        return columns_of(found, (KEPT,))
    tables = [kind for kind in ("style", "unsafe") if any(group.of_table(kind) for group, _, _ in found)]
    return columns_of(found, tables)


def every(found: Sequence[Found]) -> list[Metric]:
    """Both, each metric once."""
    both = [*columns(found), *columns(found, kept=True)]
    return list({metric.name: metric for metric in both}.values())


def text(
    table: Table, rows: pd.DataFrame, found: Sequence[Found], remarks: Sequence[str] = (), kept: bool = False
) -> Text:
    """The table for people. Best values: among its own rows of one budget and set that erase; of the others an arm
    competes with itself, for it keeps everything at no cost."""
    if kept:  # what it costs stands in the table itself
        rows = rows.drop(columns=[name for name in DEPLOYMENT if name in rows])
    own = rows["reference"].isna()
    first = set(rows.index[own != own.shift()])
    labels = {int(row): "this table" if own[row] else "from the grid, to compare with" for row in first}
    arms = set(rows.index[own & (rows["arm"] != rows["arm"].shift())])
    breaks = {int(row) for row in first | arms} - {0}
    kind = rows["arm"].where(rows["arm"].isin(REFERENCES), "erases")
    rivals = [rival for _, rival in rows[own].groupby([kind[own], "set", "keep"])]
    metrics = metrics_of(rows, columns(found, kept))
    return shown(rows, ["arm", *table.axes, *several(rows)], rivals, breaks, labels, metrics, remarks)


def paired(table: Table, found: Sequence[Found]) -> pd.DataFrame:
    """Each row minus the first row of its arm, and minus each erasing row of the grid that the table names, in every
    metric, on the same prompts and seeds. Empty where there is nothing to compare with."""
    lines, metrics = [], every(found)
    for group, measured, _ in found:
        for name, first in _pairs(group):
            run = group.arms[name][0]
            names = {"set": group.set, "keep": group.budget, "arm": run.arm} | run.labels
            names["against"] = " ".join(group.arms[first][0].labels.values()) or first
            lines += differences(group, measured, name, first, names, metrics)
    return pd.DataFrame(lines, columns=[*PAIRED[:3], *table.axes, *PAIRED[3:]])


def _pairs(group: Group) -> list[tuple[str, str]]:
    """What is compared with what."""
    firsts: dict[str, str] = {}
    own = [(name, firsts.setdefault(group.arms[name][0].arm, name)) for name in group.own]
    rivals = [name for name in group.erasing if name not in group.own]
    pairs = [(name, first) for name, first in own if name != first]
    return pairs + [(name, rival) for rival in rivals for name in group.own]


def paired_text(table: Table, lines: pd.DataFrame) -> Text:
    """The differences for people: a row each of the table's, a column a metric, but for those of table `kept` alone."""
    names = [name for name in ("set", "keep") if lines[name].nunique() > 1]
    metrics = [named(name) for name in dict.fromkeys(lines["metric"])]
    metrics = [metric for metric in metrics if metric.tables != (KEPT,)]
    columns = {metric.column for metric in metrics if not metric.hidden}
    metrics = sorted(
        (metric for metric in metrics if not metric.hidden or metric.column not in columns),
        key=lambda metric: list(METRICS).index(metric.name.partition(":")[0]),
    )
    made = Text(["arm", *table.axes, *names, *(metric.header for metric in metrics)], [])
    place = None
    for key, found in lines.groupby(["against", "set", "keep", "arm", *table.axes], sort=False):
        first = found.iloc[0]
        if key[:4] != place:
            place = key[:4]
            made.breaks.add(len(made.rows))
            made.labels[len(made.rows)] = f"{first['arm']}: minus {first['against']}"
        cells = [(str(first[name]), "") for name in ("arm", *table.axes, *names)]
        add_differences(made, cells, [found[found["metric"] == metric.name] for metric in metrics])
    made.breaks.discard(0)
    return made


def pair_of_metrics(found: Sequence[Found]) -> list[Metric]:
    """What speaks for erasure and for fidelity: UA and FID, or the next that were measured."""
    measured = [one for _, one, _ in found]
    names = [first_measured(measured, wanted) for wanted in (ERASURE, FIDELITY)]
    return [METRICS[name] for name in names if name]


def matrix(table: Table, found: Sequence[Found]) -> pd.DataFrame | None:
    """Labels down, arms across: columns `<arm>_<metric>`, `_lo`, `_hi`. None but for one axis and several arms."""
    metrics = pair_of_metrics(found)
    if len(table.axes) != 1 or len(table.arms) < 2 or not metrics:
        return None
    ((axis, labels),) = table.axes.items()
    ends = [f"{metric.name}{end}" for metric in metrics for end in ("", "_lo", "_hi")]
    rows = []
    for group, measured, _ in found:
        for label in labels:
            row = {axis: label, "set": group.set, "keep": group.budget}
            for arm in table.arms:
                values = estimates(measured, f"{arm} {label}", metrics)
                row |= {f"{arm}_{end}": values[end] for end in ends}
            rows.append(row)
    return pd.DataFrame(rows)


def matrix_text(table: Table, cells: pd.DataFrame, metrics: Sequence[Metric]) -> Text:
    """The matrix for people: "UA / FID" of each pair, with both intervals."""
    (axis,) = table.axes
    names = [axis, *(name for name in ("set", "keep") if cells[name].nunique() > 1)]
    words = " / ".join(metric.header for metric in metrics)
    rows = []
    for _, row in cells.iterrows():
        line = [(str(row[name]), "") for name in names]
        rows.append(line + [_pair([(row, f"{arm}_{m.name}", m.digits) for m in metrics]) for arm in table.arms])
    notes = [f"{metric.header}: {metric.about}" for metric in metrics]
    return Text([*names, *(f"{arm}: {words}" for arm in table.arms)], rows, notes=notes)


def _pair(parts: list[tuple[pd.Series, str, int]]) -> tuple[str, str]:
    values = [number(row[name], digits) for row, name, digits in parts]
    ends = [interval(row[f"{name}_lo"], row[f"{name}_hi"], digits) or DASH for row, name, digits in parts]
    return " / ".join(values), " / ".join(ends)
