"""The tables `style` and `unsafe` and their paired differences; and what every table shares: its columns, and how they
are shown."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import Measured, Metric, named, of_tables
from lethe.measuring.runs import REFERENCES, Group, Run
from lethe.report.cost import Cost, dense_latency
from lethe.report.markup import DASH, Text, count, interval, number, share

Found = tuple[Group, Measured, dict[str, Cost]]
OURS = "this run"
PAIRED = ["set", "keep", "arm", "against", "metric", "difference", "lo", "hi", "better", "n_seeds"]
# column -> heading, how a value is shown, and what it means
SPENT: dict[str, tuple[str, Callable[[float], str], str]] = {
    "macs_kept": ("MACs kept", partial(share, digits=0), "of the dense model's"),
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


def style(groups: list[Found], published: Path) -> pd.DataFrame:
    """Paper Table 1 (see `of_kind`)."""
    return of_kind(groups, published, "style")


def of_kind(groups: list[Found], published: Path, table: str) -> pd.DataFrame:
    """Paper Table 1 (`style`: styles and objects) or 2 (`unsafe`), or `kept`, what must stay: a row an arm, budget and
    set; then published rows, where there is such a file.

    Columns `m`, `m_lo`, `m_hi` for each metric of the table; `not_run` the names of those that a run could not have;
    `keep` is the budget of the pruning, `macs_kept` the fraction of the dense model's MACs that is left, `gpu_seconds`
    and `budget` the mean cost of one training run (see `cost.of`), `n_images` the pictures scored over all seeds;
    `zeroed` the share of weights that an eraser set to zero, where one says so.
    """
    known = published_rows(published)
    metrics, rows = columns_of(groups, (table,), known), []
    for group, measured, costs in groups:
        for arm, runs in group.arms.items():
            row = {"source": OURS, "arm": arm, "set": group.set, "keep": keep(group, costs[arm])}
            row |= estimates(measured, arm, metrics) | {"not_run": not_run(runs, measured, arm, metrics)}
            dense = dense_latency(costs.values())
            rows.append(row | spent(costs[arm], measured.images[arm], len(runs), dense))
    ours = trimmed(pd.DataFrame(rows))
    return ours if known is None else pd.concat([ours, known], ignore_index=True).reindex(columns=ours.columns)


def published_rows(path: Path) -> pd.DataFrame | None:
    """What papers report in such a table; None if there is no such file."""
    return pd.read_csv(path) if path.is_file() else None


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
    columns = {}
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


def paired(groups: list[Found], table: str = "style") -> pd.DataFrame:
    """Bilevel minus distill and minus each two-stage arm, in every metric of a table, on the same prompts and seeds.

    `better`: "yes" or "no" where the interval excludes zero, else empty.
    """
    rows, metrics = [], columns_of(groups, (table,))
    for group, measured, _ in groups:
        if "bilevel" in group.arms:
            names = {"set": group.set, "keep": group.budget, "arm": "bilevel"}
            for other in ["distill", *group.two_stage]:
                rows += differences(group, measured, "bilevel", other, names | {"against": other}, metrics)
    return pd.DataFrame(rows, columns=PAIRED)


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


def style_text(table: pd.DataFrame, metrics: Sequence[Metric] | None = None, remarks: Sequence[str] = ()) -> Text:
    """The table `style` or `unsafe` for people: metrics that nobody has are left out, best values of erasing arms are
    marked. `metrics`: its columns (default: those of `style`); `remarks`: further notes.

    Only arms that erase compete: the others keep everything at no cost. Ours and the published rows compete apart.
    """
    names = several(table[table["source"] == OURS])
    keys = table[["source", "set"]].fillna("")
    breaks = set(table.index[(keys != keys.shift()).any(axis=1)]) - {0}
    labels = {int(found.index[0]): source for source, found in table.groupby("source")}
    rivals = table[~table["arm"].isin(REFERENCES)].groupby(["source", "set", "keep"], dropna=False)
    shown_metrics = metrics_of(table, metrics or of_tables("style"))
    table = table.drop(columns=[name for name in DEPLOYMENT if name in table])
    return shown(table, ["arm", *names], [found for _, found in rivals], breaks, labels, shown_metrics, remarks)


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


def paired_text(table: pd.DataFrame) -> Text:
    """The paired differences for people: a row a metric, a column an arm; what is settled says better or worse."""
    names = [name for name in ("set", "keep") if table[name].nunique() > 1]
    others = list(dict.fromkeys(table["against"]))
    text = Text([*names, "bilevel minus", *others], [])
    for _, group in table.groupby(["set", "keep"], sort=False):
        text.breaks.add(len(text.rows))
        for name, found in group.groupby("metric", sort=False):
            if named(name).hidden:
                continue
            cells = [(str(found.iloc[0][key]), "") for key in names]
            cells.append((named(name).header, ""))
            add_differences(text, cells, [found[found["against"] == other] for other in others])
    text.breaks.discard(0)
    return text


def add_differences(text: Text, cells: list[tuple[str, str]], found: Iterable[pd.DataFrame]) -> None:
    """Adds a row: `cells`, then a difference each with its verdict; `found`: frames of one line, or none."""
    for line in found:
        if line.empty:
            cells.append((DASH, ""))
            continue
        row = line.iloc[0]
        digits, word = named(row["metric"]).digits, {"yes": " better", "no": " worse"}.get(row["better"], "")
        if word:
            (text.best if row["better"] == "yes" else text.worst).add((len(text.rows), len(cells)))
        value, ends = number(row["difference"], digits), interval(row["lo"], row["hi"], digits) + word
        cells.append(("+" + value if row["difference"] > 0 and float(value) else value, ends))
    text.rows.append(cells)
