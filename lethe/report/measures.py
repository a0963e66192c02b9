"""What the report measures: each metric's name, direction, meaning, and how it follows from the scores.

Per-image metrics are averaged here from scores.csv, so that their intervals, differences and per-concept values come
from the same numbers. Metrics of a whole picture set (FID, KID) are taken from metrics.json.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lethe.errors import UserError
from lethe.report.intervals import Draws, Estimate, Sample, at_the_end, over_seeds
from lethe.report.runs import Group, Run


@dataclass(frozen=True)
class Metric:
    """`rows` names the pictures it is averaged over; None marks a metric of a whole picture set (FID, KID)."""

    name: str
    label: str
    up: bool
    about: str
    rows: str | None
    column: str | None = None
    digits: int = 1

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
    ("fid", "FID", False, 2, None, None, "Fréchet distance to real pictures, eval prompts"),
    ("kid", "KID", False, 2, None, None, "kernel distance to real pictures, eval prompts, × 1000"),
    ("clip_retain", "CLIP kept", True, 2, "eval", "clip", "CLIP score of the eval prompts, 100 cos"),
    ("ua", "UA", True, 1, "erased", "style_ok", "pictures of erased prompts not judged to be in that style, %"),
    ("ira_neighbour", "IRA near", True, 1, "near", "style_ok", "neighbouring styles judged right, %"),
    ("ira_other", "IRA other", True, 1, "other", "style_ok", "other kept styles judged right, %"),
    ("cra", "CRA", True, 1, "retain", "content_ok", "contents judged right in kept styles, %"),
    ("content_target", "Content", True, 1, "erased", "content_ok", "contents judged right in erased prompts, %"),
]
METRICS = {
    name: Metric(name, label, up, about, rows, column, digits) for name, label, up, digits, rows, column, about in _ROWS
}
SHARES = ("cp", "ua", "ira_neighbour", "ira_other", "cra", "content_target")
BY_CONCEPT = ("clip", "cp", "csd", "csd_raw", "ua", "content_target", "ira_neighbour")


@dataclass
class Measured:
    """Of one group, by arm: per-image metrics on shared draws, whole-set metrics as estimates, pictures scored."""

    samples: dict[str, dict[str, Sample]]
    pooled: dict[str, dict[str, Estimate]]
    images: dict[str, int]

    def estimate(self, arm: str, metric: str) -> Estimate | None:
        """None where the arm has no such metric."""
        if metric in self.samples[arm]:
            found = self.samples[arm][metric]
            by_definition = metric == "cp" and arm == "distill"  # its pictures are the reference
            if metric in SHARES and found.value in (0, PERCENT) and not by_definition:
                return at_the_end(found.prompts, found.value, PERCENT)
            return found.interval()
        return self.pooled[arm].get(metric)


def measure(group: Group, resamples: int, members: Iterable[str] | None = None) -> Measured:
    """All metrics of all arms of a group, or of some of its concepts alone.

    Raises UserError if two arms or seeds were scored on different prompts or picture seeds.
    """
    members = tuple(members or group.members)
    check_aligned(group)
    draws = Draws(max(len(runs) for runs in group.arms.values()), resamples)
    samples, pooled, images = {}, {}, {}
    for arm, runs in group.arms.items():
        found = {}
        for metric in METRICS.values():
            strata = metric.rows and _strata(runs, metric, members, group.neighbours)
            if strata:
                found[metric.name] = draws.mean(strata)
        samples[arm] = _finish(found)
        pooled[arm] = {name: value for name in ("fid", "kid") if (value := _pooled(runs, name))}
        images[arm] = sum(len(run.scores) for run in runs)
    _relative_csd(samples)
    return Measured(samples, pooled, images)


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


def _strata(runs: list[Run], metric: Metric, members: tuple[str, ...], near: Mapping) -> dict[str, np.ndarray]:
    """Prompt set -> [training seeds, prompts] of a metric's column; empty if no picture has a value."""
    if any(metric.column not in run.scores for run in runs):
        return {}
    labels = frozenset().union(*(near[member] for member in members))
    choose: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "retain": lambda table: table,
        "near": lambda table: table[table["artist"].isin(labels)],
        "other": lambda table: table[~table["artist"].isin(labels)],
    }
    sets = members if metric.rows == "erased" else ["eval"] if metric.rows == "eval" else ["retain"]
    if metric.rows in ("near", "other") and any("artist" not in run.scores for run in runs):
        return {}
    strata = {}
    for name in sets:
        tables = [choose.get(metric.rows, choose["retain"])(of_set(run, name)) for run in runs]
        found = np.array([pd.to_numeric(table[metric.column]).to_numpy(float) for table in tables])
        if found.size and not np.isnan(found).all():
            strata[f"{name}/{metric.rows}"] = found
    return strata if len(strata) == len(sets) else {}


def of_set(run: Run, name: str) -> pd.DataFrame:
    """Scores of one prompt set, by case_number; empty if the run has no such set."""
    if name not in run.scores.index.get_level_values("set"):
        return run.scores.iloc[:0].droplevel("set")
    return run.scores.loc[name]


def _finish(found: dict[str, Sample]) -> dict[str, Sample]:
    """Shares become percent; UA counts the pictures that are *not* in the style."""
    made = {}
    for name, sample in found.items():
        scale, shift = (-PERCENT, PERCENT) if name == "ua" else (PERCENT if name in SHARES else 1.0, 0.0)
        made[name] = sample.affine(scale, shift)
    return made


def _relative_csd(samples: dict[str, dict[str, Sample]]) -> None:
    """CSD as the paper prints it: 100 for the distilled model, both averaged over the same draws."""
    reference = samples["distill"].get("csd_raw")
    for found in samples.values():
        raw = found.pop("csd", None)
        if raw is not None and reference is not None:
            found["csd"] = raw.ratio(reference, PERCENT)


def _pooled(runs: list[Run], name: str) -> Estimate | None:
    """A whole-set metric over the training seeds (see `intervals.over_seeds`)."""
    found = [run.values.get(name) for run in runs]
    if any(value is None or value.get("value") is None for value in found):
        return None
    return over_seeds([Estimate(value["value"], value.get("lo"), value.get("hi")) for value in found])
