"""What the report measures: each metric's name, direction, meaning, and how it follows from the scores.

The list is that of the modules of `lethe.measuring.metrics`: their literals METRICS say which column of scores.csv,
over which pictures (see there). Everything is a mean over pictures of a column, or a ratio of two such means, so that
values, intervals, differences and per-concept values come from the same numbers. Means over erased prompts count each
concept equally, as the paper's do. FID and KID are no means, but their columns `fid` and `kid` hold the distance plus
each picture's influence on it (the infinitesimal jackknife: Efron, The jackknife, the bootstrap and other resampling
plans, 1982): their mean is the distance, and resampling them is, to first order, resampling the pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.files.errors import UserError
from lethe.measuring.intervals import Draws, Estimate, Sample, apart, at_the_end
from lethe.measuring.keeping import is_near, is_retained
from lethe.measuring.runs import KEPT, Group, Run
from lethe.params import registry

PERCENT = 100.0


@dataclass(frozen=True)
class Metric:
    """The mean of a column of scores.csv over some pictures; `rows` is one of erased, near, other, retain, eval.

    `share`, `over`, `tables`, `hidden`, `by`, `names`: see `lethe.measuring.metrics`; `given`: the reference's own
    value is so by definition; `category`: of these prompts alone.
    """

    name: str
    label: str
    up: bool
    digits: int
    rows: str
    column: str
    about: str
    share: int | None = None
    over: str | None = None
    tables: tuple[str, ...] | None = None
    hidden: bool = False
    given: bool = False
    by: str | None = None
    category: str | None = None
    names: str | None = None

    @property
    def arrow(self) -> str:
        return "↑" if self.up else "↓"

    @property
    def header(self) -> str:
        return f"{self.label} {self.arrow}"

    @property
    def key(self) -> str:
        """Its column in tables."""
        return self.name.replace(":", "_").replace(" ", "_")

    def told(self, protocols: Iterable[Mapping]) -> "Metric":
        """The same, called with the network that its heading names, as protocols tell it."""
        found = dict.fromkeys(_short(own[self.names]) for own in protocols if self.names in own)
        return replace(self, label=f"{self.label} ({', '.join(found)})") if found else self

    def of(self, category: str) -> "Metric":
        """The same over prompts of one category."""
        about = f"{self.about}, prompts of category {category}"
        name, label = f"{self.name}:{category}", f"{self.label}: {category}"
        return replace(self, name=name, label=label, about=about, category=category)


def _short(network: str) -> str:
    """A network's name in a heading: of a folder, its end."""
    path = network.removeprefix("local-dir:")
    return network if path == network else "/".join(Path(path).parts[-2:])


def _metrics() -> dict[str, Metric]:
    found: dict[str, dict] = {}
    for family in registry.literals("metrics", "METRICS").values():
        found |= {name: own for name, own in family.items() if own["rows"]}
    return {name: _metric(name, own) for name, own in sorted(found.items(), key=lambda item: item[1]["place"])}


def _metric(name: str, own: dict) -> Metric:
    return Metric(
        name=name,
        label=own["label"],
        up=own["direction"] == "up",
        digits=own["digits"],
        rows=own["rows"],
        column=own["column"],
        about=f"{own['meaning']}, {own['unit']}" if own["unit"] else own["meaning"],
        share=own.get("share"),
        over=own.get("over"),
        tables=tuple(own["table"]) if "table" in own else None,
        hidden=own.get("hidden", False),
        given="of_reference" in own,
        by=own.get("by"),
        names=own.get("names"),
    )


METRICS = _metrics()
ERASURE = ("ua", "csd", "clip")  # the first that was measured speaks for a goal; the others stand in the tables
FIDELITY = ("fid", "kid", "clip_retain")
BY_CONCEPT = tuple(name for name, metric in METRICS.items() if metric.rows in ("erased", "near"))


def of_tables(*tables: str) -> list[Metric]:
    """The metrics that some of these tables show, in the order of columns; table `kept` has those that name it, and all
    that every table shows of what must stay."""
    found = [metric for metric in METRICS.values() if set(metric.tables or tables) & set(tables)]
    return [metric for metric in found if tables != (KEPT,) or metric.rows in ("near", "other", "retain")]


@cache
def named(name: str) -> Metric:
    """A metric by its name, which may be "name:category"."""
    own, _, category = name.partition(":")
    return METRICS[own].of(category) if category else METRICS[own]


@dataclass
class Measured:
    """Of one group, by row: metrics on shared draws, and how many pictures were scored.

    `references`: rows whose own pictures are what CP and ratios over "reference" compare with. Names of `samples` may
    be "metric:category".
    """

    samples: dict[str, dict[str, Sample]]
    images: dict[str, int]
    references: frozenset[str]

    def estimate(self, arm: str, metric: str) -> Estimate | None:
        """None where the arm has no such metric."""
        found = self.samples[arm].get(metric)
        return None if found is None else self._estimate(arm, metric, found)

    def difference(self, arm: str, other: str, metric: str) -> Estimate | None:
        """arm - other on the same prompts and seeds; None where either has no such metric.

        Where one of two shares is at an end, resampling shows no spread of it: both intervals are put together.
        """
        ours, theirs = self.samples[arm].get(metric), self.samples[other].get(metric)
        if ours is None or theirs is None:
            return None
        if self._at_end(arm, metric) or self._at_end(other, metric):
            return apart(self._estimate(arm, metric, ours), self._estimate(other, metric, theirs))
        return (ours - theirs).interval()

    def categories(self, metric: str) -> list[str]:
        """Names "metric:category" that any row has."""
        found = {name: None for own in self.samples.values() for name in own if name.startswith(f"{metric}:")}
        return list(found)

    def _estimate(self, arm: str, metric: str, found: Sample) -> Estimate:
        return at_the_end(found.prompts, found.value, PERCENT) if self._at_end(arm, metric) else found.interval()

    def _at_end(self, arm: str, name: str) -> bool:
        """A share of 0 or 100 % that is not so by definition. A removal of 0 % is no end: it may be negative."""
        metric, found = named(name), self.samples[arm][name]
        known = arm in self.references and (metric.given or metric.over == "reference")
        if metric.share is None or known or (arm == "base" and metric.over == "base"):
            return False
        return found.value == PERCENT or (found.value == 0 and metric.over is None)


def measure(group: Group, resamples: int, members: Iterable[str] | None = None) -> Measured:
    """All metrics of all arms of a group, or of some of its concepts alone.

    Raises UserError if two arms or seeds were scored on different prompts or picture seeds.
    """
    members = tuple(members or group.members)
    check_aligned(group)
    draws = Draws(max(len(runs) for runs in group.arms.values()), resamples)
    wanted = list(METRICS.values())
    for metric in METRICS.values():
        wanted += [metric.of(name) for name in _categories(group, members)] if metric.by == "category" else []
    means: dict[str, dict[str, Sample]] = {}
    for arm, runs in group.arms.items():
        strata = {metric.name: _strata(runs, metric, members, group) for metric in wanted}
        means[arm] = {name: draws.mean(found) for name, found in strata.items() if found}
    references = [arm for arm, runs in group.arms.items() if all(run.reference == run.recipe for run in runs)]
    # a table at a budget or seed that the grid has not may be without
    before = {"reference": means[references[0]] if references else {}, "base": means.get("base", {})}
    samples = {
        arm: {name: made for name, found in own.items() if (made := _unit(named(name), found, before)) is not None}
        for arm, own in means.items()
    }
    images = {arm: sum(len(run.scores) for run in runs) for arm, runs in group.arms.items()}
    return Measured(samples, images, frozenset(references))


def first_measured(measured: Iterable[Measured], names: Iterable[str]) -> str | None:
    """The first of some metrics that any row has."""
    found = {name for one in measured for samples in one.samples.values() for name in samples}
    return next((name for name in names if name in found), None)


def check_aligned(group: Group) -> None:
    """All runs of a group must hold the same prompts with the same picture seeds, or no difference is paired."""
    first: Run | None = None
    for run in (run for runs in group.arms.values() for run in runs):
        first = first or run
        if not first.scores["seed"].equals(run.scores["seed"]):
            raise UserError(
                f"{run.metrics}: scored on other prompts or picture seeds than {first.metrics}; "
                "sample and score both again with the same prompt files"
            )


def _categories(group: Group, members: Sequence[str]) -> list[str]:
    """Categories of the members' prompts, in the order of the files."""
    run = next(iter(group.arms.values()))[0]
    if "category" not in run.scores:
        return []
    told = [parts for name in members for parts in of_set(run, name)["category"].map(_parts)]
    return list(dict.fromkeys(name for parts in told for name in parts))


def _parts(text: object) -> list[str]:
    """A cell of column category: comma separated."""
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else []


def _strata(runs: list[Run], metric: Metric, members: tuple[str, ...], group: Group) -> dict[str, np.ndarray]:
    """Stratum -> [training seeds, prompts] of a metric's column; empty if there is no such column, prompt or value."""
    if any(metric.column not in run.scores for run in runs):
        return {}
    names = members if metric.rows == "erased" else [metric.rows]
    strata = {}
    for name in names:
        tables = [_pictures(run, name, members, group) for run in runs]
        if metric.category is not None:
            tables = [table[[metric.category in _parts(text) for text in table["category"]]] for table in tables]
            if tables[0].empty:
                continue
        found = np.array([pd.to_numeric(table[metric.column]).to_numpy(float) for table in tables])
        if not found.size or np.isnan(found).all():
            return {}
        strata[f"{name}/{metric.category or metric.rows}"] = found
    return strata


def _pictures(run: Run, name: str, members: tuple[str, ...], group: Group) -> pd.DataFrame:
    """Rows of scores.csv: of a prompt set by its name, or those that a run must keep as they are."""
    if name not in ("near", "other", "retain"):
        return of_set(run, name)
    kept = retained(run, group)
    if name == "retain":
        return kept
    near = is_near(kept.reset_index(), group.concepts, members)
    known = kept.columns.isin(["artist", "class"]).any()
    return kept[near if name == "near" else ~near] if known else kept.iloc[:0]


def retained(run: Run, group: Group) -> pd.DataFrame:
    """What must stay (see `lethe.measuring.keeping`)."""
    return run.scores[is_retained(run.scores.reset_index(), group.concepts, group.members)]


def of_set(run: Run, name: str) -> pd.DataFrame:
    """Scores of one prompt set, by case_number; empty if the run has no such set."""
    return run.scores[run.scores.index.get_level_values("set") == name].droplevel("set")


def _unit(metric: Metric, sample: Sample, before: dict[str, dict[str, Sample]]) -> Sample | None:
    """The mean in the metric's unit: a share in percent, a ratio over another model's; None where that is lacking."""
    if metric.over is not None:
        other = before[metric.over].get(metric.name)
        if other is None or other.value <= 0:
            return None
        ratio = sample.ratio(other, PERCENT)
        if metric.share is None:
            return ratio
        showed = replace(ratio, prompts=max(1, round(other.prompts * other.value)))  # those that could go
        return showed.affine(-1, PERCENT) if metric.share == 0 else showed
    if metric.share is None:
        return sample
    return sample.affine(PERCENT) if metric.share == 1 else sample.affine(-PERCENT, PERCENT)
