"""What every table of the report shares: its columns, how they are shown, and differences of two rows."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pandas as pd

from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import Measured, Metric, measure, named, of_tables
from lethe.measuring.runs import Group, Run
from lethe.report import cost
from lethe.report.cost import Cost
from lethe.report.markup import DASH, Text, count, interval, number, share

Found = tuple[Group, Measured, dict[str, Cost]]
OURS = "this run"
PAIRED = ["set", "keep", "arm", "against", "metric", "difference", "lo", "hi", "better", "n_seeds"]
# column -> heading, how a value is shown, and what it means
SPENT: dict[str, tuple[str, Callable[[float], str], str]] = {
    "macs_kept": ("MACs kept", partial(share, digits=0), "of the dense model's"),
    "macs_released": ("as released", partial(share, digits=0), "the same, as the paper's code counts MACs"),
    "params_kept": ("params kept", partial(share, digits=0), "of the dense model's"),
    "weights_mb": ("MB", partial(number, digits=1), "the U-Net's parameters in the precision that drew, 2^20 bytes"),
    "latency_1_ms": ("ms at 1", partial(number, digits=1), "one forward pass of one picture, median milliseconds"),
    "latency_8_ms": ("ms at 8", partial(number, digits=1), "one forward pass of eight pictures, median milliseconds"),
    "latency_ratio": ("of float32's", partial(number, digits=2), "milliseconds at 8 over float32's, measured in turns"),
    "draw_passes": ("per picture", partial(number, digits=0), "samples through the U-Net for one picture"),
    "draw_mb": ("MB to draw", count, "peak memory of the process that drew, 2^20 bytes"),
    "zeroed": ("zeroed", partial(share, digits=2), "weights that the eraser set to zero"),
    "n_images": ("pictures", count, "scored, of all seeds"),
    "n_seeds": ("seeds", count, "training seeds"),
    "gpu_seconds": ("train s", count, "one training run, from the base model to these weights, seconds"),
    "budget": ("passes", count, "samples through a network in that run: student forward and backward, teacher forward"),
    "train_mb": ("MB to train", count, "peak memory of the most demanding of that run's stages, 2^20 bytes"),
}
# columns only where a row has a value; what concerns deployment is printed in tables of the plan, elsewhere in the CSV
DEPLOYMENT = (
    "macs_released",
    "params_kept",
    "weights_mb",
    "latency_1_ms",
    "latency_8_ms",
    "latency_ratio",
    "draw_passes",
    "draw_mb",
    "train_mb",
)
EXTRA = (*DEPLOYMENT, "zeroed", "not_run")
NOT_RUN = "not run"


def measured(groups: Iterable[Group], resamples: int, table: str | None = None) -> list[Found]:
    """Metrics and costs of every row; of a table's own concepts alone, where one is named: groups without such go."""
    return [
        (group, measure(group, resamples, members), {row: cost.of(runs) for row, runs in group.arms.items()})
        for group in groups
        if (members := group.members if table is None else group.of_table(table))
    ]


def columns_of(groups: Iterable[Found], tables: Sequence[str], published: pd.DataFrame | None = None) -> list[Metric]:
    """The metrics of some tables, each followed by what it is in the categories of prompts that a row has; headings
    name the network where they should."""
    groups, known = list(groups), [] if published is None else list(published.columns)
    found = []
    for metric in of_tables(*tables):
        names = [name for _, measured, _ in groups for name in measured.categories(metric.name)]
        if metric.by:
            names += [
                f"{metric.name}:{key.removeprefix(metric.key + '_')}"
                for key in known
                if key.startswith(f"{metric.key}_")
            ]
        found += [metric, *(named(name) for name in dict.fromkeys(names))]
    runs = [run for group, _, _ in groups for own in group.arms.values() for run in own]
    return [metric.told(run.records.get(metric.name, {}).get("protocol", {}) for run in runs) for metric in found]


def keep(group: Group, cost: Cost) -> float:
    """The budget of the pruning; 1 where no pruning led there."""
    return 1.0 if cost.dense else group.budget


def estimates(measured: Measured, row: str, metrics: Iterable[Metric]) -> dict[str, float | None]:
    """Columns `m`, `m_lo`, `m_hi` of some metrics; None where the row has no such metric."""
    columns: dict[str, float | None] = {}
    for metric in metrics:
        found = measured.estimate(row, metric.name)
        ends = (None, None, None) if found is None else (found.value, found.lo, found.hi)
        columns |= dict(zip((metric.key, f"{metric.key}_lo", f"{metric.key}_hi"), ends, strict=True))
    return columns


def not_run(runs: Iterable[Run], measured: Measured, row: str, metrics: Iterable[Metric]) -> str | None:
    """Columns of metrics that some run says it could not have."""
    absent = {name for run in runs for name in run.absent}
    found = [metric.key for metric in metrics if metric.name.partition(":")[0] in absent]
    return " ".join(key for key in found if key not in measured.samples[row]) or None


def spent(cost: Cost, images: int, seeds: int, dense: dict[str, float] | None = None) -> dict[str, float | None]:
    """The columns of SPENT. `dense`: batch size -> milliseconds of the dense model, if the stage prune measured it."""
    latency = cost.forward_ms(dense)
    values = (
        cost.macs_kept,
        cost.macs_released,
        cost.params_kept if latency else None,
        cost.weights_mb,
        *(latency.get(batch) for batch in ("1", "8")),
        cost.latency_ratio,
        cost.draw_passes,
        cost.draw_mb,
        cost.zeroed,
        images,
        seeds,
        cost.seconds,
        cost.passes,
        cost.train_mb,
    )
    return dict(zip(SPENT, values, strict=True))


def trimmed(table: pd.DataFrame) -> pd.DataFrame:
    """Without the extra columns that no row has a value for."""
    return table.drop(columns=[name for name in EXTRA if name in table and table[name].isna().all()])


def differences(
    group: Group, measured: Measured, row: str, other: str, names: dict, metrics: Iterable[Metric]
) -> list[dict]:
    """row - other, a line a metric that both have."""
    lines = []
    for metric in metrics:
        found = measured.difference(row, other, metric.name)
        if found is not None:
            ends = {"difference": found.value, "lo": found.lo, "hi": found.hi, "better": sense(found, metric)}
            lines.append(names | {"metric": metric.name} | ends | {"n_seeds": len(group.arms[row])})
    return lines


def sense(found: Estimate, metric: Metric) -> str:
    """Is a difference an improvement? "yes", "no", or "" where its interval holds zero."""
    if found.lo <= 0 <= found.hi:
        return ""
    return "yes" if (found.lo > 0) == metric.up else "no"


def several(table: pd.DataFrame) -> list[str]:
    """Which of the columns set and keep tell rows apart; that of the base model always has another keep."""
    varies = {"set": table["set"].nunique() > 1, "keep": table.loc[table["arm"] != "base", "keep"].nunique() > 1}
    return [name for name, more in varies.items() if more]


def shown(
    table: pd.DataFrame,
    names: Sequence[str],
    rivals: Iterable[pd.DataFrame],
    breaks: set[int],
    labels: dict[int, str],
    metrics: Sequence[Metric],
    remarks: Sequence[str] = (),
) -> Text:
    """A table for people: columns `names`, the metrics, what was spent.

    `rivals`: groups of rows among which the best value is marked, if two or more have one. A value that a run could not
    have (column `not_run`) is "not run", one that there is not by nature a dash.
    """
    costs = [name for name in SPENT if name in table]
    header = [*names, *(metric.header for metric in metrics), *(SPENT[name][0] for name in costs)]
    rows = []
    for _, row in table.iterrows():
        cells = [(DASH if pd.isna(row[name]) else str(row[name]), "") for name in names]
        cells += [_cell(row, metric) for metric in metrics]
        rows.append(cells + [(SPENT[name][1](row[name]), "") for name in costs])
    best = set()
    for found in rivals:
        for column, metric in enumerate(metrics):
            best |= {(row, len(names) + column) for row in _best(found[metric.key].dropna(), metric)}
    notes = [f"{metric.header}: {metric.about}" for metric in metrics]
    notes += [f"{SPENT[name][0]}: {SPENT[name][2]}" for name in costs]
    return Text(header, rows, best, set(), breaks, labels, [*notes, *remarks])


def metrics_of(table: pd.DataFrame, metrics: Iterable[Metric]) -> list[Metric]:
    """Metrics that any row has. The CSV has all; left out here is one that is hidden, unless a row lacks the one that
    shows the same column; a share that is told by category; and a ratio by category that no published row has."""
    metrics = list(metrics)
    found = [metric for metric in metrics if table[metric.key].notna().any()]
    told = {metric.name.partition(":")[0] for metric in found if metric.category}
    published = table[table["source"] != OURS] if "source" in table else table.iloc[:0]
    made = []
    for metric in found:
        if metric.hidden:
            twins = [one for one in metrics if (one.column, one.rows) == (metric.column, metric.rows) and one != metric]
            if not any((table[metric.key].notna() & table[one.key].isna()).any() for one in twins):
                continue
        if metric.over and metric.category and not published[metric.key].notna().any():
            continue
        if not metric.over and metric.category is None and metric.name in told:
            continue
        made.append(metric)
    return made


def _cell(row: pd.Series, metric: Metric) -> tuple[str, str]:
    if pd.isna(row[metric.key]) and metric.key in str(row.get("not_run")).split():
        return NOT_RUN, ""
    ends = interval(row[f"{metric.key}_lo"], row[f"{metric.key}_hi"], metric.digits)
    return number(row[metric.key], metric.digits), ends


def _best(values: pd.Series, metric: Metric) -> list[int]:
    """Rows with the best value as it is printed; none where fewer than two compete."""
    values = values.round(metric.digits)
    return list(values.index[values == (values.max() if metric.up else values.min())]) if len(values) > 1 else []


def add_differences(
    text: Text, cells: list[tuple[str, str]], found: Iterable[pd.DataFrame], digits: int | None = None
) -> None:
    """Adds a row: `cells`, then a difference each with its verdict.

    `found`: frames of one line, or none; `digits`: of all differences (default: those of each one's metric).
    """
    for line in found:
        if line.empty:
            cells.append((DASH, ""))
            continue
        row = line.iloc[0]
        shown_digits = named(row["metric"]).digits if digits is None else digits
        word = {"yes": " better", "no": " worse"}.get(row["better"], "")
        if word:
            (text.best if row["better"] == "yes" else text.worst).add((len(text.rows), len(cells)))
        value, ends = number(row["difference"], shown_digits), interval(row["lo"], row["hi"], shown_digits) + word
        cells.append(("+" + value if row["difference"] > 0 and float(value) else value, ends))
    text.rows.append(cells)
