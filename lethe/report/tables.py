"""Tables: one frame per table, written as .csv, .md and .tex.

A cell without a measured value is empty in CSV and a dash elsewhere, never zero.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lethe.io import write_text
from lethe.report.cost import Cost
from lethe.report.intervals import Estimate
from lethe.report.measures import METRICS, Measured, Metric
from lethe.report.runs import Group

DASH, MINUS, THIN = "–", "−", "\u202f"
OURS = "this run"
PAIRED = ["set", "keep", "arm", "against", "metric", "difference", "lo", "hi", "better", "n_seeds"]


@dataclass(frozen=True)
class Text:
    """A table as text, ready for any markup.

    `rows`: cells (value, interval or ""); `best`, `worst`: places (row, column) of marked cells; `breaks`: rows with a
    rule above; `labels`: row -> heading above it; `notes`: "column: meaning".
    """

    header: list[str]
    rows: list[list[tuple[str, str]]]
    best: set[tuple[int, int]]
    worst: set[tuple[int, int]]
    breaks: set[int]
    labels: dict[int, str]
    notes: list[str]


def style(groups: list[tuple[Group, Measured, dict[str, Cost]]], published: Path) -> pd.DataFrame:
    """Paper Table 1: a row an arm, budget and set; then the published rows.

    Columns `m`, `m_lo`, `m_hi` for each metric of `measures.METRICS`; `keep` is the budget of the pruning, `macs_kept`
    the fraction of the dense model's MACs that is left, `gpu_seconds` and `budget` the mean cost of one training run
    (see `cost.of`), `n_images` the pictures scored over all seeds.
    """
    rows = []
    for group, measured, costs in groups:
        for arm, runs in group.arms.items():
            cost = costs[arm]
            keep = 1.0 if cost.macs_kept == 1.0 else group.budget  # no pruning led there
            row = {"source": OURS, "arm": arm, "set": group.set, "keep": keep}
            for name in METRICS:
                row |= _columns(name, measured.estimate(arm, name))
            row |= {"macs_kept": cost.macs_kept, "n_images": measured.images[arm], "n_seeds": len(runs)}
            rows.append(row | {"gpu_seconds": cost.seconds, "budget": cost.passes})
    ours = pd.DataFrame(rows)
    return pd.concat([ours, pd.read_csv(published)], ignore_index=True).reindex(columns=ours.columns)


def _columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    ends = (None, None, None) if found is None else (found.value, found.lo, found.hi)
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))


def paired(groups: list[tuple[Group, Measured, dict[str, Cost]]]) -> pd.DataFrame:
    """Bilevel minus distill and minus each two-stage arm, in every metric, on the same prompts and seeds.

    `better`: "yes" or "no" where the interval excludes zero, else empty.
    """
    rows = []
    for group, measured, _ in groups:
        if "bilevel" not in group.arms:
            continue
        for other in ["distill", *group.two_stage]:
            for metric in METRICS.values():
                found = measured.difference("bilevel", other, metric.name)
                if found is None:
                    continue
                names = {"set": group.set, "keep": group.budget, "arm": "bilevel", "against": other}
                ends = {"difference": found.value, "lo": found.lo, "hi": found.hi, "better": sense(found, metric)}
                rows.append(names | {"metric": metric.name} | ends | {"n_seeds": len(group.arms["bilevel"])})
    return pd.DataFrame(rows, columns=PAIRED)


def sense(found: Estimate, metric: Metric) -> str:
    """Is a difference an improvement? "yes", "no", or "" where its interval holds zero."""
    if found.lo <= 0 <= found.hi:
        return ""
    return "yes" if (found.lo > 0) == metric.up else "no"


def number(value: float | None, digits: int) -> str:
    """Fixed digits; a dash for a missing value; no negative zero."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def interval(lo: float | None, hi: float | None, digits: int) -> str:
    """ "[1.0, 2.0]", or nothing where there is none."""
    if lo is None or hi is None or math.isnan(lo) or math.isnan(hi):
        return ""
    return f"[{number(lo, digits)}, {number(hi, digits)}]"


def style_text(table: pd.DataFrame) -> Text:
    """The style table for people: metrics that nobody has are left out, best values of erasing arms are marked.

    Only arms that erase compete: the others keep everything at no cost. Ours and the published rows compete apart.
    """
    hidden = "csd_raw" if table["csd"].notna().any() else ""  # it stands in the CSV
    metrics = [metric for name, metric in METRICS.items() if name != hidden and table[name].notna().any()]
    several = {name: table.loc[table["source"] == OURS, name].nunique() > 1 for name in ("set", "keep")}
    several["keep"] = table.loc[(table["source"] == OURS) & (table["arm"] != "base"), "keep"].nunique() > 1
    names = [name for name in ("set", "keep") if several[name]]
    header = ["arm", *names, *(f"{metric.label} {metric.arrow}" for metric in metrics)]
    header += ["MACs kept", "pictures", "seeds", "train s", "passes"]
    rows = []
    for _, row in table.iterrows():
        cells = [(str(row["arm"]), "")]
        cells += [(str(row[name]) if pd.notna(row[name]) else DASH, "") for name in names]
        cells += [_cell(row, metric) for metric in metrics]
        cells += [(number(100 * row["macs_kept"], 0) + ("" if pd.isna(row["macs_kept"]) else " %"), "")]
        cells += [(_count(row[name]), "") for name in ("n_images", "n_seeds", "gpu_seconds", "budget")]
        rows.append(cells)
    first = 1 + len(names)
    best = {(row, first + column) for column, metric in enumerate(metrics) for row in _best(table, metric)}
    notes = [f"{metric.label} {metric.arrow}: {metric.about}" for metric in metrics]
    keys = table[["source", "set"]].fillna("")
    breaks = set(table.index[(keys != keys.shift()).any(axis=1)]) - {0}
    labels = {int(found.index[0]): source for source, found in table.groupby("source")}
    return Text(header, rows, best, set(), breaks, labels, notes)


def _cell(row: pd.Series, metric: Metric) -> tuple[str, str]:
    ends = interval(row[f"{metric.name}_lo"], row[f"{metric.name}_hi"], metric.digits)
    return number(row[metric.name], metric.digits), ends


def _count(value: float | None) -> str:
    return DASH if value is None or math.isnan(value) else f"{value:,.0f}".replace(",", THIN)


def _best(table: pd.DataFrame, metric: Metric) -> Iterable[int]:
    """Rows with the best value among the erasing arms of one source, set and budget, where two or more compete."""
    competing = table[~table["arm"].isin(("base", "pruned", "distill")) & table[metric.name].notna()]
    for _, rivals in competing.groupby(["source", "set", "keep"], dropna=False):
        if len(rivals) > 1:
            values = rivals[metric.name].round(metric.digits)
            yield from values.index[values == (values.max() if metric.up else values.min())]


def paired_text(table: pd.DataFrame) -> Text:
    """The paired differences for people: a row a metric, a column an arm; what is settled says better or worse."""
    several = [name for name in ("set", "keep") if table[name].nunique() > 1]
    others = list(dict.fromkeys(table["against"]))
    header = [*several, "bilevel minus", *others]
    rows, best, worst, breaks = [], set(), set(), set()
    for _, group in table.groupby(["set", "keep"], sort=False):
        breaks.add(len(rows))
        for name, found in group[group["metric"] != "csd_raw"].groupby("metric", sort=False):
            metric = METRICS[name]
            cells = [(str(found.iloc[0][key]), "") for key in several] + [(f"{metric.label} {metric.arrow}", "")]
            for other in others:
                of = found[found["against"] == other]
                word = "" if of.empty else {"yes": " better", "no": " worse"}.get(of.iloc[0]["better"], "")
                (best if word == " better" else worst if word else set()).add((len(rows), len(cells)))
                cells.append((DASH, "") if of.empty else _difference(of.iloc[0], metric.digits, word))
            rows.append(cells)
    return Text(header, rows, best, worst, breaks - {0}, {}, [])


def _difference(row: pd.Series, digits: int, word: str) -> tuple[str, str]:
    sign = "+" if row["difference"] > 0 else ""
    return sign + number(row["difference"], digits), interval(row["lo"], row["hi"], digits) + word


def to_md(text: Text) -> str:
    """Markdown (GitHub)."""
    lines = ["| " + " | ".join(text.header) + " |", "|" + "---|" * len(text.header)]
    for row, cells in enumerate(text.rows):
        if row in text.labels:
            lines.append(f"| *{text.labels[row]}* |" + " |" * (len(text.header) - 1))
        shown = []
        for column, (value, ends) in enumerate(cells):
            value = f"**{value}**" if (row, column) in text.best else value
            shown.append(f"{value} {ends}".strip().replace("|", "\\|"))
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines + [""] + [f"- {note}" for note in text.notes]).rstrip() + "\n"


def to_tex(text: Text) -> str:
    r"""A `tabular` for \usepackage{booktabs}; intervals in small print."""
    columns = "l" + "r" * (len(text.header) - 1)
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines += [" & ".join(map(_tex, text.header)) + " \\\\", "\\midrule"]
    for row, cells in enumerate(text.rows):
        if row in text.breaks:
            lines.append("\\midrule")
        if row in text.labels:
            lines.append(f"\\multicolumn{{{len(text.header)}}}{{l}}{{\\emph{{{_tex(text.labels[row])}}}}} \\\\")
        shown = []
        for column, (value, ends) in enumerate(cells):
            value = f"\\textbf{{{_tex(value)}}}" if (row, column) in text.best else _tex(value)
            shown.append(f"{value} {{\\scriptsize {_tex(ends)}}}" if ends else value)
        lines.append(" & ".join(shown) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in text.notes)]) + "\n"


TEX = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", DASH: "--", MINUS: "$-$", THIN: r"\,"}
TEX |= {sign: "\\" + sign for sign in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text)


def write(table: pd.DataFrame, text: Text, folder: Path, name: str) -> None:
    """name.csv, name.md and name.tex."""
    write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(folder / f"{name}.md", to_md(text))
    write_text(folder / f"{name}.tex", to_tex(text))
