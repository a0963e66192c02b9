"""A table as text: numbers with intervals, Markdown, LaTeX.

A cell without a measured value is empty in CSV and a dash elsewhere, never zero.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lethe.files.io import write_text

DASH, MINUS, THIN = "–", "−", "\u202f"


@dataclass(frozen=True)
class Text:
    """A table as text, ready for any markup.

    `rows`: cells (value, interval or ""); `best`, `worst`: places (row, column) of marked cells; `breaks`: rows with a
    rule above; `labels`: row -> heading above it; `notes`: "column: meaning".
    """

    header: list[str]
    rows: list[list[tuple[str, str]]]
    best: set[tuple[int, int]] = field(default_factory=set)
    worst: set[tuple[int, int]] = field(default_factory=set)
    breaks: set[int] = field(default_factory=set)
    labels: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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


def share(value: float | None, digits: int) -> str:
    """A fraction as percent: 0.8 -> "80 %"."""
    return number(value, digits) if value is None or math.isnan(value) else f"{number(100 * value, digits)} %"


def count(value: float | None) -> str:
    """A whole number in groups of three digits."""
    return DASH if value is None or math.isnan(value) else f"{value:,.0f}".replace(",", THIN)


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
