"""The tables `style`, `unsafe` and `kept` of the grid beside what is published, and their paired differences."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lethe.measuring.measures import Metric, named, of_tables
from lethe.measuring.runs import REFERENCES
from lethe.report.columns import (
    DEPLOYMENT,
    OURS,
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
from lethe.report.markup import Text

PUBLISHED = Path(__file__).with_name("published")


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


def style_text(table: pd.DataFrame, metrics: Sequence[Metric] | None = None, remarks: Sequence[str] = ()) -> Text:
    """The table `style` or `unsafe` for people: metrics that nobody has are left out, best values of erasing arms are
    marked. `metrics`: its columns (default: those of `style`); `remarks`: further notes.

    Only arms that erase compete: the others keep everything at no cost. Ours and the published rows compete apart.
    """
    names = several(table[table["source"] == OURS])
    keys = table[["source", "set"]].fillna("")
    breaks = set(table.index[(keys != keys.shift()).any(axis=1)]) - {0}
    labels = {int(found.index[0]): str(source) for source, found in table.groupby("source")}
    rivals = table[~table["arm"].isin(REFERENCES)].groupby(["source", "set", "keep"], dropna=False)
    shown_metrics = metrics_of(table, metrics or of_tables("style"))
    table = table.drop(columns=[name for name in DEPLOYMENT if name in table])
    return shown(table, ["arm", *names], [found for _, found in rivals], breaks, labels, shown_metrics, remarks)


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
