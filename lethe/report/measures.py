"""What the report measures: each metric's name, direction, meaning, and how it follows from the scores.

Everything is a mean over pictures of a column of scores.csv, so that values, intervals, differences and per-concept
values come from the same numbers. Means over erased prompts count each concept equally, as the paper's do. FID and KID
are no means, but their columns `fid` and `kid` hold the distance plus each picture's influence on it (the infinitesimal
jackknife: Efron, The jackknife, the bootstrap and other resampling plans, 1982): their mean is the distance, and
resampling them is, to first order, resampling the pictures.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lethe.errors import UserError
from lethe.report.intervals import Draws, Estimate, Sample, at_the_end
from lethe.report.runs import Group, Run


@dataclass(frozen=True)
class Metric:
    """The mean of a column of scores.csv over some pictures; `rows` is one of erased, near, other, retain, eval."""

    name: str
    label: str
    up: bool
    digits: int
    rows: str
    column: str
    about: str

    @property
    def arrow(self) -> str:
        return "↑" if self.up else "↓"


PERCENT = 100.0
_ROWS = [
    # name, label, up, digits, pictures, column, meaning
    ("clip", "CLIP", False, 2, "erased", "clip", "CLIP score of prompts that name an erased concept, 100 cos"),
    ("cp", "CP", True, 1, "erased", "cp", "such prompts whose CLIP score fell below that of distill's picture, %"),
    ("csd", "CSD", False, 1, "erased", "csd", "similarity to the style of the erased concept, distill = 100"),
    ("csd_raw", "CSD raw", False, 2, "erased", "csd", "the same as measured, 100 cos"),
    ("fid", "FID", False, 2, "eval", "fid", "Fréchet distance to real pictures, eval prompts"),
    ("kid", "KID", False, 2, "eval", "kid", "kernel distance to real pictures, eval prompts, × 1000"),
    ("clip_retain", "CLIP kept", True, 2, "eval", "clip", "CLIP score of the eval prompts, 100 cos"),
    ("ua", "UA", True, 1, "erased", "style_ok", "pictures of erased prompts not judged to be in that style, %"),
    ("ira_neighbour", "IRA near", True, 1, "near", "style_ok", "neighbouring styles judged right, %"),
    ("ira_other", "IRA other", True, 1, "other", "style_ok", "other kept styles judged right, %"),
    ("cra", "CRA", True, 1, "retain", "content_ok", "contents judged right in kept styles, %"),
    ("content_target", "Content", True, 1, "erased", "content_ok", "contents judged right in erased prompts, %"),
]
METRICS = {row[0]: Metric(*row) for row in _ROWS}
SHARES = ("cp", "ua", "ira_neighbour", "ira_other", "cra", "content_target")
ERASURE = ("ua", "csd", "clip")  # the first that was measured speaks for a goal; the others stand in the tables
FIDELITY = ("fid", "kid", "clip_retain")
BY_CONCEPT = ("clip", "cp", "csd", "csd_raw", "ua", "content_target", "ira_neighbour")


@dataclass
class Measured:
    """Of one group, by row: metrics on shared draws, and how many pictures were scored.

    `references`: rows whose own pictures are what CP compares with.
    """

    samples: dict[str, dict[str, Sample]]
    images: dict[str, int]
    references: frozenset[str]

    def estimate(self, arm: str, metric: str) -> Estimate | None:
        """None where the arm has no such metric."""
        found = self.samples[arm].get(metric)
        if found is None:
            return None
        by_definition = metric == "cp" and arm in self.references
        if metric in SHARES and found.value in (0, PERCENT) and not by_definition:
            return at_the_end(found.prompts, found.value, PERCENT)
        return found.interval()

    def difference(self, arm: str, other: str, metric: str) -> Estimate | None:
        """arm - other on the same prompts and seeds; None where either has no such metric."""
        ours, theirs = self.samples[arm].get(metric), self.samples[other].get(metric)
        return None if ours is None or theirs is None else (ours - theirs).interval()


def measure(group: Group, resamples: int, members: Iterable[str] | None = None) -> Measured:
    """All metrics of all arms of a group, or of some of its concepts alone.

    Raises UserError if two arms or seeds were scored on different prompts or picture seeds.
    """
    members = tuple(members or group.members)
    check_aligned(group)
    draws = Draws(max(len(runs) for runs in group.arms.values()), resamples)
    samples = {}
    for arm, runs in group.arms.items():
        strata = {name: _strata(runs, metric, members, group) for name, metric in METRICS.items()}
        samples[arm] = {name: _unit(name, draws.mean(found)) for name, found in strata.items() if found}
    references = [arm for arm, runs in group.arms.items() if all(run.reference == run.recipe for run in runs)]
    # a table at a budget or seed that the grid has not may be without
    _relative_csd(samples, samples[references[0]].get("csd_raw") if references else None)
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


def _strata(runs: list[Run], metric: Metric, members: tuple[str, ...], group: Group) -> dict[str, np.ndarray]:
    """Stratum -> [training seeds, prompts] of a metric's column; empty if there is no such column, prompt or value."""
    if any(metric.column not in run.scores for run in runs):
        return {}
    names = members if metric.rows == "erased" else [metric.rows]
    strata = {}
    for name in names:
        tables = [_pictures(run, name, members, group) for run in runs]
        found = np.array([pd.to_numeric(table[metric.column]).to_numpy(float) for table in tables])
        if not found.size or np.isnan(found).all():
            return {}
        strata[f"{name}/{metric.rows}"] = found
    return strata


def _pictures(run: Run, name: str, members: tuple[str, ...], group: Group) -> pd.DataFrame:
    """Rows of scores.csv: of a prompt set by its name, or those that a run must keep as they are."""
    if name not in ("near", "other", "retain"):
        return of_set(run, name)
    kept = retained(run, group)
    if name == "retain" or "artist" not in kept:
        return kept if name == "retain" else kept.iloc[:0]
    near = kept["artist"].isin(frozenset().union(*(group.neighbours[member] for member in members)))
    return kept[near if name == "near" else ~near]


def retained(run: Run, group: Group) -> pd.DataFrame:
    """What must stay: set retain and concepts that are not erased here, but for rows in the style of an erased one."""
    sets = run.scores.index.get_level_values("set")
    kept = run.scores[sets.isin({"retain", *group.spared})]
    return kept[~kept["artist"].isin(group.styles)] if "artist" in kept else kept


def of_set(run: Run, name: str) -> pd.DataFrame:
    """Scores of one prompt set, by case_number; empty if the run has no such set."""
    if name not in run.scores.index.get_level_values("set"):
        return run.scores.iloc[:0].droplevel("set")
    return run.scores.loc[name]


def _unit(name: str, sample: Sample) -> Sample:
    """Shares become percent; UA counts the pictures that are *not* in the style."""
    if name == "ua":
        return sample.affine(-PERCENT, PERCENT)
    return sample.affine(PERCENT) if name in SHARES else sample


def _relative_csd(samples: dict[str, dict[str, Sample]], reference: Sample | None) -> None:
    """CSD as the paper prints it: 100 for the distilled model, both averaged over the same draws."""
    for found in samples.values():
        raw = found.pop("csd", None)
        if raw is not None and reference is not None:
            found["csd"] = raw.ratio(reference, PERCENT)
