"""The table `style` and its paired differences; and what every table shares: its columns, and how they are shown."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from lethe.report.cost import Cost
from lethe.report.intervals import Estimate
from lethe.report.markup import DASH, Text, count, interval, number, share
from lethe.report.measures import METRICS, Measured, Metric
from lethe.report.runs import REFERENCES, Group

Found = tuple[Group, Measured, dict[str, Cost]]
OURS = "this run"
PAIRED = ["set", "keep", "arm", "against", "metric", "difference", "lo", "hi", "better", "n_seeds"]
# column -> heading, how a value is shown, and what it means
SPENT: dict[str, tuple[str, Callable[[float], str], str]] = {
    "macs_kept": ("MACs kept", partial(share, digits=0), "of the dense model's"),
    "params_kept": ("params kept", partial(share, digits=0), "of the dense model's"),
    "latency_1_ms": ("ms at 1", partial(number, digits=1), "one forward pass of one picture, milliseconds"),
    "latency_8_ms": ("ms at 8", partial(number, digits=1), "one forward pass of eight pictures, milliseconds"),
    "zeroed": ("zeroed", partial(share, digits=2), "weights that the eraser set to zero"),
    "n_images": ("pictures", count, "scored, of all seeds"),
    "n_seeds": ("seeds", count, "training seeds"),
    "gpu_seconds": ("train s", count, "one training run, from the base model to these weights, seconds"),
    "budget": ("passes", count, "samples through a network in that run: student forward and backward, teacher forward"),
}
EXTRA = ("params_kept", "latency_1_ms", "latency_8_ms", "zeroed")  # columns only where a row has a value


def style(groups: list[Found], published: Path) -> pd.DataFrame:
    """Paper Table 1: a row an arm, budget and set; then the published rows.

    Columns `m`, `m_lo`, `m_hi` for each metric of `measures.METRICS`; `keep` is the budget of the pruning, `macs_kept`
    the fraction of the dense model's MACs that is left, `gpu_seconds` and `budget` the mean cost of one training run
    (see `cost.of`), `n_images` the pictures scored over all seeds; `zeroed` the share of weights that an eraser set to
    zero, where one says so.
    """
    rows = []
    for group, measured, costs in groups:
        for arm, runs in group.arms.items():
            row = {"source": OURS, "arm": arm, "set": group.set, "keep": keep(group, costs[arm])}
            row |= estimates(measured, arm)
            rows.append(row | spent(costs[arm], measured.images[arm], len(runs)))
    ours = trimmed(pd.DataFrame(rows).drop(columns=[name for name in EXTRA if name != "zeroed"]))
    return pd.concat([ours, pd.read_csv(published)], ignore_index=True).reindex(columns=ours.columns)


def keep(group: Group, cost: Cost) -> float:
    """The budget of the pruning; 1 where no pruning led there."""
    return 1.0 if cost.dense else group.budget


def estimates(measured: Measured, row: str) -> dict[str, float | None]:
    """Columns `m`, `m_lo`, `m_hi` of every metric; None where the row has no such metric."""
    columns = {}
    for name in METRICS:
        found = measured.estimate(row, name)
        ends = (None, None, None) if found is None else (found.value, found.lo, found.hi)
        columns |= dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
    return columns


def spent(cost: Cost, images: int, seeds: int, latency: dict[str, float] | None = None) -> dict[str, float | None]:
    """The columns of SPENT. `latency`: batch size -> milliseconds."""
    values = (
        cost.macs_kept,
        cost.params_kept if latency else None,
        *((latency or {}).get(batch) for batch in ("1", "8")),
        cost.zeroed,
        images,
        seeds,
        cost.seconds,
        cost.passes,
    )
    return dict(zip(SPENT, values, strict=True))


def trimmed(table: pd.DataFrame) -> pd.DataFrame:
    """Without the extra columns that no row has a value for."""
    return table.drop(columns=[name for name in EXTRA if name in table and table[name].isna().all()])


def paired(groups: list[Found]) -> pd.DataFrame:
    """Bilevel minus distill and minus each two-stage arm, in every metric, on the same prompts and seeds.

    `better`: "yes" or "no" where the interval excludes zero, else empty.
    """
    rows = []
    for group, measured, _ in groups:
        if "bilevel" in group.arms:
            names = {"set": group.set, "keep": group.budget, "arm": "bilevel"}
            for other in ["distill", *group.two_stage]:
                rows += differences(group, measured, "bilevel", other, names | {"against": other})
    return pd.DataFrame(rows, columns=PAIRED)


def differences(group: Group, measured: Measured, row: str, other: str, names: dict) -> list[dict]:
    """row - other, a line a metric that both have."""
    lines = []
    for metric in METRICS.values():
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


def style_text(table: pd.DataFrame) -> Text:
    """The style table for people: metrics that nobody has are left out, best values of erasing arms are marked.

    Only arms that erase compete: the others keep everything at no cost. Ours and the published rows compete apart.
    """
    names = several(table[table["source"] == OURS])
    keys = table[["source", "set"]].fillna("")
    breaks = set(table.index[(keys != keys.shift()).any(axis=1)]) - {0}
    labels = {int(found.index[0]): source for source, found in table.groupby("source")}
    rivals = table[~table["arm"].isin(REFERENCES)].groupby(["source", "set", "keep"], dropna=False)
    return shown(table, ["arm", *names], [found for _, found in rivals], breaks, labels)


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
) -> Text:
    """A table for people: columns `names`, the metrics that any row has, what was spent.

    `rivals`: groups of rows among which the best value is marked, if two or more have one.
    """
    metrics = metrics_of(table)
    costs = [name for name in SPENT if name in table]
    header = [*names, *(f"{metric.label} {metric.arrow}" for metric in metrics), *(SPENT[name][0] for name in costs)]
    rows = []
    for _, row in table.iterrows():
        cells = [(DASH if pd.isna(row[name]) else str(row[name]), "") for name in names]
        cells += [_cell(row, metric) for metric in metrics]
        rows.append(cells + [(SPENT[name][1](row[name]), "") for name in costs])
    best = set()
    for found in rivals:
        for column, metric in enumerate(metrics):
            best |= {(row, len(names) + column) for row in _best(found[metric.name].dropna(), metric)}
    notes = [f"{metric.label} {metric.arrow}: {metric.about}" for metric in metrics]
    notes += [f"{SPENT[name][0]}: {SPENT[name][2]}" for name in costs]
    return Text(header, rows, best, set(), breaks, labels, notes)


def metrics_of(table: pd.DataFrame) -> list[Metric]:
    """Metrics that any row has; CSD as measured only where a row lacks the relative one. The CSV has all."""
    plain = "" if (table["csd_raw"].notna() & table["csd"].isna()).any() else "csd_raw"
    return [metric for name, metric in METRICS.items() if name != plain and table[name].notna().any()]


def _cell(row: pd.Series, metric: Metric) -> tuple[str, str]:
    ends = interval(row[f"{metric.name}_lo"], row[f"{metric.name}_hi"], metric.digits)
    return number(row[metric.name], metric.digits), ends


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
        for name, found in group[group["metric"] != "csd_raw"].groupby("metric", sort=False):
            cells = [(str(found.iloc[0][key]), "") for key in names]
            cells.append((f"{METRICS[name].label} {METRICS[name].arrow}", ""))
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
        digits, word = METRICS[row["metric"]].digits, {"yes": " better", "no": " worse"}.get(row["better"], "")
        if word:
            (text.best if row["better"] == "yes" else text.worst).add((len(text.rows), len(cells)))
        value, ends = number(row["difference"], digits), interval(row["lo"], row["hi"], digits) + word
        cells.append(("+" + value if row["difference"] > 0 and float(value) else value, ends))
    text.rows.append(cells)
