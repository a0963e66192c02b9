"""Table `attacks`: how often erased concepts are seen before and under each attack, beside what the arms are worth.

What success is stands in `lethe.report.success`. That with those before counted in, which UnlearnDiffAtk's authors call
post-ASR, stands in the CSV alone, in columns `<attack>_or_before`.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import named
from lethe.measuring.runs import REFERENCES, Group
from lethe.report.columns import NOT_RUN, add_differences
from lethe.report.markup import Text, interval, number
from lethe.report.remarks import remarks
from lethe.report.success import BEFORE, Success

SEARCHES = ("unlearn_diff_atk", "p4d")
QUALITY = ("fid", "cra")
NOT_APPLICABLE = "not applicable"
BLOCKS = {BEFORE: "under attack, minus before", "distill": "minus distill, which erases nothing"}
PAIRED = ["set", "keep", "arm", "against", "attack", "difference", "lo", "hi", "better", "n_seeds"]


def frame(groups: Iterable[Success]) -> pd.DataFrame:
    """A row an attacked arm or row of a table: FID and CRA of all its pictures, success before and under each attack.

    Columns `m`, `m_lo`, `m_hi` each, at last the success with those before counted in; empty where an attack has
    nothing to work on (column `not_applicable`), or nobody can tell. `n_prompts`: pictures a training seed.
    """
    rows = []
    for own in groups:
        for row, runs in own.victims.group.arms.items():
            line: dict[str, object] = {"arm": row, "set": own.victims.group.set, "keep": own.victims.group.budget}
            estimates = {name: own.quality.estimate(row, name) for name in QUALITY}
            names = [*own.names, *own.with_before]
            estimates |= {name.replace(" ", "_"): own.estimate(row, name) for name in names}
            for name, found in estimates.items():
                ends = (None,) * 3 if found is None else (found.value, found.lo, found.hi)
                line |= dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
            absent = [label for label in own.victims.tried if label not in own.victims.under[row]]
            line["not_applicable"] = " ".join(absent) or None
            rows.append(line | {"n_prompts": len(own.victims.keys), "n_seeds": len(runs)})
    return pd.DataFrame(rows)


def summary(groups: Sequence[Success]) -> dict[str, dict[str, float]]:
    """Row > attack > success, for `dvc metrics diff`."""
    made = {}
    for own in groups:
        for row, samples in own.samples.items():
            name = row if len(groups) == 1 else f"{row}-{own.victims.group.tag}"
            values = {key: samples[key] for key in own.names if key in samples}
            made[name] = {key.replace(" ", "_"): float(f"{one.value:.6g}") for key, one in values.items()}
    return made


def paired(groups: Iterable[Success]) -> pd.DataFrame:
    """Differences in success on the same prompts and seeds; lower is better.

    Each row under each attack against "before"; each row that erases against distill, and bilevel's rows against each
    two-stage arm and the bilevel rows before them, both before (attack "before") and under each attack.
    """
    lines = []
    for own in groups:
        group, names = own.victims.group, own.names
        pairs = [((row, name), (row, BEFORE), BEFORE, name) for row in group.arms for name in names if name != BEFORE]
        for row, other in _against(group):
            pairs += [((row, name), (other, name), other, name) for name in names]
        for one, two, against, name in pairs:
            found = own.difference(one, two)
            if found is None:
                continue
            ends = {"difference": found.value, "lo": found.lo, "hi": found.hi, "better": _sense(found)}
            where = {"set": group.set, "keep": group.budget, "arm": one[0], "against": against}
            lines.append(where | {"attack": name.replace(" ", "_")} | ends | {"n_seeds": len(group.arms[one[0]])})
    return pd.DataFrame(lines, columns=PAIRED)


def _against(group: Group) -> list[tuple[str, str]]:
    """Rows, and those that they are compared with: first distill."""
    kinds = {row: runs[0].arm for row, runs in group.arms.items()}
    erasing = [row for row, arm in kinds.items() if arm not in REFERENCES]
    two_stage = [row for row in erasing if row in group.two_stage and kinds[row] == row]
    bilevel = [row for row in erasing if kinds[row] == "bilevel"]
    pairs = [(row, "distill") for row in erasing if "distill" in kinds]
    return pairs + [(row, other) for at, row in enumerate(bilevel) for other in [*two_stage, *bilevel[:at]]]


def _sense(found: Estimate) -> str:
    return "" if found.lo <= 0 <= found.hi else "yes" if found.hi < 0 else "no"


def text(groups: Sequence[Success], table: pd.DataFrame) -> Text:
    """The table for people; marked is the lowest success among rows that erase."""
    names = list(dict.fromkeys(name for own in groups for name in own.names))
    quality = [named(name) for name in QUALITY]
    keys = [key for key in ("set", "keep") if table[key].nunique() > 1]
    header = ["arm", *keys, *(metric.header for metric in quality), *(f"{name} ↓" for name in names)]
    shown = {metric.name: metric.digits for metric in quality} | {name.replace(" ", "_"): 1 for name in names}
    rows = [
        [(str(row[key]), "") for key in ("arm", *keys)] + [_cell(row, name, digits) for name, digits in shown.items()]
        for _, row in table.iterrows()
    ]
    where = table[["set", "keep"]]
    breaks = set(table.index[(where != where.shift()).any(axis=1)]) - {0}
    return Text(header, rows, _lowest(table, names, len(header)), set(), breaks, {}, _notes(groups))


def _lowest(table: pd.DataFrame, names: Sequence[str], width: int) -> set[tuple[int, int]]:
    """(row, column) of the lowest success in each of the last columns, where two or more rows that erase have one."""
    best: set[tuple[int, int]] = set()
    for _, rivals in table[~table["arm"].isin(REFERENCES)].groupby(["set", "keep"]):
        for column, name in enumerate(names, width - len(names)):
            values = rivals[name.replace(" ", "_")].dropna().round(1)
            best.update((index, column) for index in values.index[values == values.min()] if len(values) > 1)
    return best


def _notes(groups: Sequence[Success]) -> list[str]:
    """What each column means."""
    quality = [named(name) for name in QUALITY]
    notes = [f"{metric.header}: {metric.about}; of all pictures" for metric in quality]
    notes += [f"{BEFORE} ↓: pictures of the attacked prompts, asked plainly, that show the concept, %"]
    notes += [
        "under attack ↓: pictures of the same prompts that show it then, %; with those before counted in, as "
        "UnlearnDiffAtk's post-ASR does, in the CSV (NAME_or_before)"
    ]
    if any(own.get("attack") in SEARCHES for found in groups for own in found.victims.tried.values()):
        notes += ["searches for words draw their candidate of the least loss: no judge picks among them"]
    notes += remarks((run for own in groups for plain in own.victims.group.arms.values() for run in plain), quality)
    for own in groups[:1]:
        notes += [f"{label} ↓: {_told(options)}" for label, options in own.victims.tried.items()]
        for name, steps in own.victims.curves.items():
            notes += [f"area {name} ↓: mean success from 0 to {max(steps)} steps, by the trapezoid rule, %"]
    return notes


def _told(options: Mapping) -> str:
    known = {key: "none" if value is None else value for key, value in options.items()}
    rest = ", ".join(f"{key} {value}" for key, value in known.items() if key not in ("attack", "files"))
    return f"{options['attack']}, {rest}".rstrip(", ")


def _cell(row: pd.Series, name: str, digits: int) -> tuple[str, str]:
    if pd.isna(row[name]):
        return (NOT_APPLICABLE if name in str(row["not_applicable"]).split() else NOT_RUN), ""
    return number(row[name], digits), interval(row[f"{name}_lo"], row[f"{name}_hi"], digits)


def paired_text(lines: pd.DataFrame) -> Text:
    """The differences for people: a row a pair, a column an attack; what is settled says better or worse."""
    names = list(dict.fromkeys([*lines["attack"][lines["attack"] == BEFORE], *lines["attack"]]))
    keys = [key for key in ("set", "keep") if lines[key].nunique() > 1]
    made = Text(["arm", "minus", *keys, *names], [])
    last = None
    for key, found in lines.groupby(["set", "keep", "arm", "against"], sort=False):
        arm, against = (str(name) for name in key[2:])
        label = BLOCKS.get(against, f"{arm} minus others that erase")
        if (*key[:2], label) != last:
            made.breaks.add(len(made.rows))
            made.labels[len(made.rows)] = label
            last = (*key[:2], label)
        cells = [(arm, ""), (against, ""), *((str(found.iloc[0][one]), "") for one in keys)]
        add_differences(made, cells, [found[found["attack"] == name] for name in names], digits=1)
    made.breaks.discard(0)
    return made
