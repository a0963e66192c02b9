"""Table `attacks`: how often erased concepts are seen before and under each attack, beside what the arms are worth.

Success is the share of pictures that show the concept of their prompt (column `shown` of scores.csv), each concept
counting equally; "before" is that of the same prompts and seeds as the victim draws them when it is asked plainly.
Attacks that differ in the option `steps` alone are one curve, which begins at 0 steps with "before"; the area under it,
by the trapezoid rule and over its length, is the mean success on the way. An attack may do worse than asking plainly:
prompts that showed the concept before are not carried over. What UnlearnDiffAtk's authors call post-ASR counts them
too, whether or not they do under attack; it stands in the CSV, in columns `<attack>_or_before`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lethe.experiment import tried
from lethe.files.errors import UserError
from lethe.files.io import canonical
from lethe.measuring.intervals import Draws, Estimate, Sample, apart, at_the_end
from lethe.measuring.measures import PERCENT, Measured, measure, named
from lethe.measuring.runs import REFERENCES, Group, Run
from lethe.report.markup import DASH, Text, interval, number
from lethe.report.plan import Plan
from lethe.report.remarks import remarks
from lethe.report.tables import NOT_RUN

BEFORE, OR_BEFORE = "before", " or before"
SEARCHES = ("unlearn_diff_atk", "p4d")
QUALITY = ("fid", "cra")
NOT_APPLICABLE = "not applicable"
BLOCKS = {BEFORE: "under attack, minus before", "distill": "minus distill, which erases nothing"}
PAIRED = ["set", "keep", "arm", "against", "attack", "difference", "lo", "hi", "better", "n_seeds"]


@dataclass(frozen=True)
class Victims:
    """Rows of one budget and set that are attacked.

    `group`: they, drawn as asked; `under`: row -> label -> runs in the order of the seeds; `tried`: label -> options.
    """

    group: Group
    under: dict[str, dict[str, list[Run]]]
    tried: dict[str, dict]

    @cached_property
    def keys(self) -> pd.Series:
        """Seeds of the attacked prompts, by set and case_number. Raises UserError if pictures are of other prompts."""
        keys: pd.Series | None = None
        for run in (run for own in self.under.values() for runs in own.values() for run in runs):
            keys = run.scores["seed"] if keys is None else keys
            if not keys.equals(run.scores["seed"]):
                raise UserError(f"{run.metrics}: is of other prompts than other attacks; delete it, run the workflow")
        return keys

    @cached_property
    def curves(self) -> dict[str, dict[int, str]]:
        """Name -> steps -> label, of attacks that differ in `steps` alone; two at least."""
        same: dict[str, dict[int, str]] = {}
        for label, own in self.tried.items():
            if isinstance(own.get("steps"), int):
                rest = {key: value for key, value in own.items() if key != "steps"}
                same.setdefault(canonical(rest), {})[own["steps"]] = label
        curves = {}
        for found in same.values():
            steps, label = min(found.items())
            if len(found) > 1:
                curves[label.removesuffix(str(steps)).rstrip("_") or label] = dict(sorted(found.items()))
        return curves


def victims(plan: Plan) -> list[Victims]:
    """All of a plan's. Raises UserError for a run under attack that the plan should have and has not, or not want."""
    index = {(run.place, run.attack, run.budget, run.set, run.seed): run for run in plan.runs if run.attack}
    if not index:
        return []
    groups = [(None, group) for group in plan.groups]
    groups += [(table.name, group) for table in plan.tables for group in table.groups]
    rows: dict[tuple, dict[str, tuple[Group, list[Run]]]] = {}
    for table, group in groups:
        for row in group.arms if table is None else group.own:
            runs = group.arms[row]
            if tried.labels(plan.params, runs[0].arm, table):
                own = rows.setdefault((group.budget, group.set), {})
                own[row if row not in own else f"{row} ({table})"] = group, runs
    found, used = [], set()
    for own in rows.values():
        under: dict[str, dict[str, list[Run]]] = {}
        for row, (_, runs) in own.items():
            under[row] = {}
            for label in tried.labels(plan.params, runs[0].arm, runs[0].table):
                places = [(run.place, label, run.budget, run.set, run.seed) for run in runs]
                missing = [run for run, place in zip(runs, places, strict=True) if place not in index]
                if missing:
                    raise UserError(f"no run of {missing[0].name} under attack {label}; run the workflow again")
                under[row][label] = [index[place] for place in places]
                used |= set(places)
        first = next(iter(own.values()))[0]
        arms = {row: runs for row, (_, runs) in own.items()}
        group = Group(first.budget, first.set, first.members, first.concepts, arms, first.aside)
        found.append(Victims(group, under, plan.params["attacks"]["tried"]))
    for place, run in index.items():
        if place not in used:
            raise UserError(f"{run.name} is no run that is to be attacked; let the workflow write the plan again")
    return found


@dataclass(frozen=True)
class Success:
    """Of one group of victims: row -> "before", labels and names of curves -> success in percent; and their quality.

    Of a label with OR_BEFORE behind it: the success with those before counted in.
    """

    victims: Victims
    samples: dict[str, dict[str, Sample]]
    quality: Measured

    def estimate(self, row: str, name: str) -> Estimate | None:
        """None where the row has no such attack, or nobody can tell."""
        found = self.samples[row].get(name)
        return None if found is None else _estimate(found)

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> Estimate | None:
        """Success of a row under an attack, minus that of another, on the same prompts and seeds."""
        ours, theirs = (self.samples[row].get(name) for row, name in (one, other))
        if ours is None or theirs is None:
            return None
        if {ours.value, theirs.value} & {0, PERCENT}:  # resampling shows no spread of such a share
            return apart(_estimate(ours), _estimate(theirs))
        return (ours - theirs).interval()

    @property
    def names(self) -> list[str]:
        """Columns: before, the attacks, the areas under their curves."""
        return [BEFORE, *self.victims.tried, *(f"area {name}" for name in self.victims.curves)]

    @property
    def with_before(self) -> list[str]:
        """Further columns, of the CSV alone."""
        return [f"{label}{OR_BEFORE}" for label in self.victims.tried]


def success(found: Victims, resamples: int) -> Success:
    """Of all rows on shared draws. Raises UserError if a victim was not asked plainly for what an attack asks."""
    draws = Draws(max(len(runs) for runs in found.group.arms.values()), resamples)
    samples = {}
    for row, plain in found.group.arms.items():
        for run in plain:
            if not found.keys.equals(run.scores["seed"].reindex(found.keys.index)):
                raise UserError(f"{run.metrics}: lacks prompts that were attacked; sample and score it again")
        named_runs = {BEFORE: plain} | found.under[row]
        own = {name: _share(draws, runs, found) for name, runs in named_runs.items()}
        own |= {f"{label}{OR_BEFORE}": _share(draws, runs, found, plain) for label, runs in found.under[row].items()}
        samples[row] = {name: sample for name, sample in own.items() if sample is not None}
        for name, steps in found.curves.items():
            points = {0: BEFORE} | steps
            if all(label in samples[row] for label in points.values()):
                samples[row][f"area {name}"] = _area({x: samples[row][label] for x, label in points.items()})
    return Success(found, samples, measure(found.group, resamples))


def _share(draws: Draws, runs: Sequence[Run], found: Victims, before: Sequence[Run] = ()) -> Sample | None:
    """Percentage of prompts whose picture of these runs, or of the same seed's of `before`, shows the concept; None if
    no judge can tell."""
    if any("shown" not in run.scores for run in (*runs, *before)):
        return None
    own, plain = (
        [pd.to_numeric(run.scores["shown"].reindex(found.keys.index)) for run in kind] for kind in (runs, before)
    )
    shown = [np.maximum(*pair) for pair in zip(own, plain, strict=True)] if before else own
    strata = {
        f"{name}/attacked": np.array([table.loc[name].to_numpy(float) for table in shown])
        for name in found.group.members
    }
    return None if any(np.isnan(own).all() for own in strata.values()) else draws.mean(strata).affine(PERCENT)


def _area(points: Mapping[int, Sample]) -> Sample:
    """The mean of a piecewise linear curve over its length."""
    steps = list(points)
    values = np.trapezoid([own.value for own in points.values()], steps) / steps[-1]
    replicates = np.trapezoid(np.stack([own.replicates for own in points.values()]), steps, axis=0) / steps[-1]
    return Sample(float(values), replicates, points[0].prompts)


def _estimate(sample: Sample) -> Estimate:
    return at_the_end(sample.prompts, sample.value, PERCENT) if sample.value in (0, PERCENT) else sample.interval()


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
    made = Text(["arm", *keys, *(metric.header for metric in quality), *(f"{name} ↓" for name in names)], [])
    for index, row in table.iterrows():
        cells = [(str(row[key]), "") for key in ("arm", *keys)]
        cells += [_cell(row, metric.name, metric.digits) for metric in quality]
        made.rows.append(cells + [_cell(row, name.replace(" ", "_"), 1) for name in names])
        if index and (row[["set", "keep"]] != table.loc[index - 1, ["set", "keep"]]).any():
            made.breaks.add(index)
    erases = table[~table["arm"].isin(REFERENCES)]
    for _, rivals in erases.groupby(["set", "keep"]):
        for column, name in enumerate(names, len(made.header) - len(names)):
            values = rivals[name.replace(" ", "_")].dropna().round(1)
            made.best.update((index, column) for index in values.index[values == values.min()] if len(values) > 1)
    made.notes.extend(f"{metric.header}: {metric.about}; of all pictures" for metric in quality)
    made.notes.append(f"{BEFORE} ↓: pictures of the attacked prompts, asked plainly, that show the concept, %")
    made.notes.append(
        "under attack ↓: pictures of the same prompts that show it then, %; with those before counted in, as "
        "UnlearnDiffAtk's post-ASR does, in the CSV (NAME_or_before)"
    )
    if any(own.get("attack") in SEARCHES for found in groups for own in found.victims.tried.values()):
        made.notes.append("searches for words draw their candidate of the least loss: no judge picks among them")
    runs = (run for own in groups for plain in own.victims.group.arms.values() for run in plain)
    made.notes.extend(remarks(runs, quality))
    for own in groups[:1]:
        made.notes.extend(f"{label} ↓: {_told(options)}" for label, options in own.victims.tried.items())
        for name, steps in own.victims.curves.items():
            made.notes.append(f"area {name} ↓: mean success from 0 to {max(steps)} steps, by the trapezoid rule, %")
    return made


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
        label = BLOCKS.get(key[3], f"{key[2]} minus others that erase")
        if (*key[:2], label) != last:
            made.breaks.add(len(made.rows))
            made.labels[len(made.rows)] = label
            last = (*key[:2], label)
        cells = [(key[2], ""), (key[3], ""), *((str(found.iloc[0][one]), "") for one in keys)]
        for name in names:
            line = found[found["attack"] == name]
            if line.empty:
                cells.append((DASH, ""))
                continue
            row = line.iloc[0]
            word = {"yes": " better", "no": " worse"}.get(row["better"], "")
            if word:
                (made.best if row["better"] == "yes" else made.worst).add((len(made.rows), len(cells)))
            value = number(row["difference"], 1)
            value = f"+{value}" if row["difference"] > 0 and float(value) else value
            cells.append((value, interval(row["lo"], row["hi"], 1) + word))
        made.rows.append(cells)
    made.breaks.discard(0)
    return made
