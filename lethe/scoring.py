"""Scores of one model's pictures: a table with a row a picture, and metrics with their uncertainty.

A metric family is one module of `lethe/metrics` with

    VERSION = 1                     # to be raised when its numbers change
    NEEDS = ("clip",)               # columns of other families that it reads
    METRICS = {"cp": {"unit": "%", "direction": "up", "meaning": "..."}}
    def measure(work: Work, table: DataFrame) -> tuple[columns, metrics]

where columns are per-image values in the table's order (NaN where a picture has none) and metrics hold, for each name
in METRICS, a Value, or the reason (a sentence) why this run cannot have it. Adding a family is adding its file.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL.Image import Image

from lethe import judges, pictures, registry
from lethe.errors import UserError
from lethe.images import Entry, Images
from lethe.prompts import Prompt

KEYS = ["set", "case_number"]
RESAMPLES = 1000
DIGITS = 4  # of scores in files: noise of float32 stays below, so that equal pictures compare equal


@dataclass(frozen=True)
class Value:
    """A metric's value over `n` pictures, with its 95 % interval under resampling of the pictures."""

    value: float
    n: int
    lo: float
    hi: float


@dataclass(frozen=True)
class Work:
    """What is to be scored, and with what."""

    images: Images
    rows: dict[str, list[Prompt]]
    concepts: dict[str, dict]
    erased: list[str]
    reference: Path | None
    eval_pictures: Path
    options: Mapping
    device: torch.device

    def drawn(self, entries: Sequence[Entry] | None = None) -> "Pictures":
        """The pictures of some manifest rows, or of all."""
        entries = self.images.entries if entries is None else entries
        return Pictures(len(entries), lambda i: self.images.picture(entries[i]))

    def entries(self, name: str) -> list[Entry]:
        """Manifest rows of a prompt set."""
        return [entry for entry in self.images.entries if entry.set == name]

    @functools.cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Features [N, D] of the eval prompts' pictures and of the real ones; None without such prompts."""
        if not self.rows.get("eval"):
            return None
        network = judges.features(self.options["features"], self.device)
        both = self.drawn(self.entries("eval")), pictures_of(self.eval_pictures)
        return tuple(judges.stacked(found.batches(), network) for found in both)

    @functools.cached_property
    def compared(self) -> pd.DataFrame | None:
        """scores.csv of the reference, by set and case_number; None if these samples are the reference."""
        if self.reference is None:
            return None
        table = pd.read_csv(self.reference / "scores.csv", keep_default_na=False, na_values=[""])
        return table.set_index(KEYS)

    def reference_of(self, table: pd.DataFrame, column: str) -> np.ndarray:
        """The reference's values for the same prompts. Raises UserError if it lacks one."""
        if self.compared is None:
            return table[column].to_numpy(float)
        if column not in self.compared:
            raise UserError(f"{self.reference}: its scores have no column {column}; score the reference again with it")
        found = self.compared[column].reindex(pd.MultiIndex.from_frame(table[KEYS])).to_numpy(float)
        if np.isnan(found).any():
            lost = table[np.isnan(found)].iloc[0]
            raise UserError(
                f"{self.reference}: has no {column} of {lost['set']}/{lost['case_number']}; score the reference with "
                "the same prompts"
            )
        return found

    def is_erased(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that ask for an erased concept."""
        return table["set"].isin(self.erased).to_numpy()

    def is_retained(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that must stay as they are: set retain and concepts that this run does not erase, but for rows in the
        style of an erased concept."""
        styles = {self.concepts[name]["style"] for name in self.erased} - {None}
        kept = table["set"].isin({"retain", *self.concepts} - set(self.erased))
        return (kept & ~table["artist"].isin(styles)).to_numpy()

    def neighbours(self) -> set[str]:
        """Labels that are easily confused with an erased concept's style."""
        return {label for name in self.erased for label in self.concepts[name]["neighbours"]}


@dataclass(frozen=True)
class Pictures:
    """RGB pictures read one by one."""

    count: int
    read: Callable[[int], Image]

    def batches(self, size: int = 64) -> Iterator[list[Image]]:
        """Lists of up to `size` pictures."""
        for start in range(0, self.count, size):
            yield [self.read(i) for i in range(start, min(start + size, self.count))]


def pictures_of(folder: Path) -> Pictures:
    """The pictures of an imagefolder or of a samples folder."""
    found = pictures.read(folder, prompt="")
    return Pictures(len(found), lambda i: found.decode(i, found.read(i)))


def table_of(work: Work) -> pd.DataFrame:
    """The table before any metric: set, case_number, seed, file, prompt, artist, class.

    A concept's prompts without an artist have the concept's style as artist. Raises UserError if the samples were drawn
    from other prompts or seeds than those given.
    """
    asked = {(name, row.case_number): row for name, rows in work.rows.items() for row in rows}
    drawn = {(entry.set, entry.case_number): entry for entry in work.images.entries}
    for key in [*asked, *drawn]:
        row, entry = asked.get(key), drawn.get(key)
        if row is None or entry is None or (row.prompt, row.seed) != (entry.prompt, entry.evaluation_seed):
            raise UserError(
                f"{work.images.path.parent}: was not drawn from these prompt files (first difference: set {key[0]}, "
                f"case_number {key[1]}); give the files it was drawn from, or sample again"
            )
    return pd.DataFrame(
        [
            {
                "set": entry.set,
                "case_number": entry.case_number,
                "seed": entry.evaluation_seed,
                "file": entry.file,
                "prompt": entry.prompt,
                "artist": asked[key].artist or work.concepts.get(entry.set, {}).get("style"),
                "class": asked[key].content,
            }
            for key, entry in drawn.items()
        ]
    )


def score(work: Work) -> tuple[pd.DataFrame, dict[str, dict], dict[str, str]]:
    """The table with every family's columns, the metrics as metrics.json holds them, and why others are absent."""
    table, metrics, absent = table_of(work), {}, {}
    for name in order():
        family = registry.get("metrics", name)
        columns, found = family.measure(work, table.copy())
        table = table.assign(**{key: rounded(values) for key, values in columns.items()})
        if set(found) != set(family.METRICS):
            raise RuntimeError(f"lethe/metrics/{name}.py measured {sorted(found)}, declares {sorted(family.METRICS)}")
        for key, about in family.METRICS.items():
            if isinstance(found[key], str):
                absent[key] = found[key]
            else:
                own = {"unit": about["unit"], "direction": about["direction"], "version": family.VERSION}
                metrics[key] = vars(found[key]) | own
    return table, metrics, absent


def order() -> list[str]:
    """Families so that each comes after those whose columns it needs (a column is named like its family)."""
    needs = {name: registry.literal("metrics", name, "NEEDS") for name in registry.names("metrics")}
    return list(TopologicalSorter(needs).static_order())


def rounded(values: Sequence) -> Sequence:
    """Numbers to DIGITS decimals; anything else as it is."""
    found = np.asarray(values)
    return found.astype(np.float64).round(DIGITS) if found.dtype.kind == "f" else values


def judged(work: Work, path: str, truth: pd.Series, column: str) -> dict[str, np.ndarray]:
    """A classifier on every picture: `pred` its label, `prob` that label's probability, `ok` 1 if it is the true one,
    0 if not, NaN where there is none. Raises UserError if a true label is none of the classifier's."""
    labels, network = judges.classifier(path, work.device)
    known = truth.notna().to_numpy()
    judges.check_labels(path, labels, truth[known], column)
    found = np.concatenate([network(batch)[0].numpy() for batch in work.drawn().batches()])
    pred = np.array(labels, dtype=object)[found.argmax(1)]
    return {"pred": pred, "prob": found.max(1), "ok": np.where(known, pred == truth.to_numpy(), np.nan)}


def known_mean(values: np.ndarray, otherwise: str) -> "Value | str":
    """Mean of the values that are not NaN; if there is none, the reason given."""
    known = values[~np.isnan(values)]
    return mean(known) if len(known) else otherwise


def mean(values: np.ndarray) -> Value:
    """Mean with its bootstrap interval."""
    return bootstrapped(lambda index: values[index].mean(-1), len(values))


def bootstrapped(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> Value:
    """A statistic of `n` pictures with its percentile interval under resampling with replacement, seeded.

    `statistic` maps indices [..., n] to values [...].
    """
    again = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    lo, hi = np.quantile(statistic(again), [0.025, 0.975])
    return Value(float(statistic(np.arange(n))), n, float(lo), float(hi))
