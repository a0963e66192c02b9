"""Scores of one model's pictures: a table with a row a picture, and metrics with their uncertainty.

A metric family is one module of `lethe/measuring/metrics`, and adding a metric is adding that file:

    VERSION = 2                     # to be raised when its numbers change
    NEEDS = ("clip",)               # families whose columns it reads
    METRICS = {"cp": {"label": "CP", "unit": "%", "direction": "up", "digits": 1, "rows": "erased", "column": "cp",
                      "share": 1, "place": 20, "meaning": "prompts whose CLIP similarity fell below the reference's"}}
    def looks(work) -> dict[str, Look]                      # if any: networks that look at every drawn picture
    def measure(work, table) -> tuple[columns, metrics]
    def protocol(work) -> dict                              # if any: how its numbers came about; of each network of
                                                            # section score that it names, `weights` is added
    def files(work, table) -> dict[str, str]                # if any: name -> text, to stand beside scores.csv

`looks` names networks to be run in the one pass over the pictures; their output is `work.seen[name]`. `columns` are
per-image values in the table's order (NaN where a picture has none); `metrics` hold, for each name in METRICS, a Value,
or the reason (a sentence) why this run cannot have it, and may hold "name:category" beside a declared name.

METRICS is a literal, read without importing the module: report and planning take their lists from it. The report makes
its number anew from the column, with the training seeds in its interval:

    rows      erased | near | other | retain | eval: pictures whose column is averaged; "": no column of the tables
    column    the column of scores.csv
    share     1: percentage of these rows whose column is 1; 0: percentage whose column is not; absent: the mean itself
    over      reference | base: divided by the mean of the distilled (the dense) model's same rows, * 100; with share 0
              what is missing of that to 100
    label, unit, digits, direction, meaning     how it is shown, and which way is better
    of_reference    the value of the reference itself, where that is so by definition
    place     order of columns
    table     tables that show it, such as ["unsafe"]; absent: all of them (`kept` has none of erased or eval rows)
    by        "category": also over the prompts of each category that the prompt files tell
    hidden    true: in the CSV, not in the printed table
    names     a key of its protocol that tells the network: the heading of its column names that too
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.files.io import META, checked, read_json, read_meta
from lethe.measuring import judges, looking, weights
from lethe.measuring.intervals import at_the_end
from lethe.measuring.keeping import is_near, is_retained
from lethe.measuring.looking import Look, Real
from lethe.params import registry
from lethe.texts.rows import Prompt
from lethe.training import pictures

__all__ = ["Look", "Real", "Value", "Work", "score"]
KEYS = ["set", "case_number"]
RESAMPLES = 1000
DIGITS = 4  # of scores in files: noise of float32 stays below, so that equal pictures compare equal
NO_PART = {  # ending of a metric's name (see `Work.parts`) -> why it is absent where there is no such row
    "": "no picture of an erased concept",
    "_near": "no neighbour's prompt",
    "_other": "no other prompt that must stay",
}
SAMPLING = ("sampler", "steps", "guidance", "resolution")


@dataclass(frozen=True)
class Value:
    """A metric's value over `n` pictures, with its 95 % interval under resampling of the pictures.

    `protocol`: what the family's own `protocol` does not tell; `warning`: why it says little, a sentence.
    """

    value: float
    n: int
    lo: float
    hi: float
    protocol: Mapping = field(default_factory=dict)
    warning: str | None = None


@dataclass(frozen=True)
class Work:
    """What is to be scored, and with what.

    `reference`: metrics folder of the distilled model, None if these samples are its; `eval_pictures`: folder of real
    pictures, None if there are none to compare with; `originals`: samples folder of
    the dense base, None if unknown; `identities`: role -> hash of a network, picture folder or result (roles as in the
    recipe of stage score); `cache`: folder of features of real pictures; `seen`: name of a look -> array over the
    manifest's rows (see `lethe.measuring.looking`); `standalone`: without a `reference`, these samples are not it
    either: nothing is compared with one; `lacking`: key of section score -> why what it names is null in `options`
    (`lethe.experiment.absent`); `converted`, filled on the way: folder -> modes of pictures made RGB.
    """

    images: Images
    rows: dict[str, list[Prompt]]
    concepts: dict[str, dict]
    erased: list[str]
    reference: Path | None
    eval_pictures: Path | None
    options: Mapping
    device: torch.device
    originals: Path | None = None
    identities: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    seen: Mapping[str, np.ndarray] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    standalone: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    converted: dict[str, dict[str, int]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a prompt set has pictures here."""
        return bool(self.rows.get(name))

    @property
    def without_real(self) -> str | None:
        """Why nothing is compared with real pictures, if nothing is."""
        if not self.has("eval"):
            return "no prompt set eval"
        return None if self.eval_pictures else "no real pictures to compare with (--eval-pictures, or --reference)"

    def reference_features(self, folder: Path, network_name: str, network: Callable) -> Real:
        """What a network says of a folder of pictures (real ones, or another model's samples), in the folder's order.

        `network_name` finds the network's hash in `identities`; a name that is not there counts as it is, so it must
        tell the weights. The cache answers where the same bytes of pictures and network were met before.
        """
        folder = Path(folder)
        if folder not in self._contents:
            self._contents[folder] = pictures.contents(folder)
        key = (network_name, self.identities.get(network_name, network_name), self._contents[folder])
        found = looking.real(folder, key, network, self.cache)
        if found.converted:
            self.converted[str(folder)] = found.converted
        return found

    @functools.cached_property
    def _contents(self) -> dict[Path, str]:
        """Hashes of folders that were asked for: each is read once."""
        return {}

    @functools.cached_property
    def features_network(self) -> Callable | str:
        """Pictures -> features [B, D] for FID and KID, or why there are none."""
        return self.without_real or self.any_features

    @property
    def any_features(self) -> Callable | str:
        """The same where nothing real is needed."""
        if self.options["features"] is None:
            return self.lacking.get("features", "no features (score.features)")
        return judges.features_or_reason(self.options["features"], self.device, self.options["features_weights"])

    @functools.cached_property
    def features(self) -> tuple[np.ndarray, Real] | str:
        """Features [N, D] of the eval prompts' pictures (the look `features`) and of the real ones, or why not."""
        if isinstance(self.features_network, str):
            return self.features_network
        drawn = self.seen["features"][[entry.set == "eval" for entry in self.images.entries]].astype(np.float64)
        real = self.reference_features(self.eval_pictures, "features", self.features_network)
        return (drawn, real) if min(len(drawn), len(real.features)) > 1 else "fewer than two pictures"

    def features_look(self) -> dict[str, Look]:
        """The look `features`."""
        return {} if isinstance(self.features_network, str) else {"features": Look(self.features_network, ("eval",))}

    def features_protocol(self) -> dict:
        """What a distance between features must be told with."""
        if isinstance(self.features, str):
            return {}
        drawn, real = self.features
        counts = {"n_drawn": len(drawn), "n_real": len(real.features), "reference_sha": real.sha256}
        return judges.features_protocol(self.options["features"]) | counts

    @functools.cached_property
    def clip(self) -> tuple[Callable, Callable] | str:
        """(pictures -> [B, D], texts -> [B, D]), both of length 1, or why there is no CLIP."""
        if self.options["clip"] is None:
            return self.lacking.get("clip", "no network (score.clip)")
        return judges.clip_or_reason(self.options["clip"], self.device)

    def clip_look(self, sets: tuple[str, ...] | None = None) -> dict[str, Look]:
        """The look `clip`: embeddings."""
        return {} if isinstance(self.clip, str) else {"clip": Look(self.clip[0], sets)}

    def clip_protocol(self) -> dict:
        """What a number that CLIP made must be told with."""
        return {} if isinstance(self.clip, str) else judges.clip_protocol(self.options["clip"], self.device)

    @functools.cached_property
    def compared(self) -> pd.DataFrame | None:
        """scores.csv of the reference, by set and case_number; None if these samples are the reference."""
        if self.reference is None:
            return None
        checked(self.reference, "scores.csv")
        table = pd.read_csv(self.reference / "scores.csv", keep_default_na=False, na_values=[""])
        return table.set_index(KEYS)

    @property
    def without_reference(self) -> str | None:
        """Why nothing is compared with the reference, if nothing is."""
        alone = self.standalone and self.reference is None
        return "no scores of another model to compare with (--reference)" if alone else None

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

    @functools.cached_property
    def reference_samples(self) -> Path | None:
        """Samples folder of the reference, as its meta.json tells; None if these samples are the reference."""
        return None if self.reference is None else Path(read_meta(self.reference)["parents"]["samples"]["folder"])

    @functools.cached_property
    def sampling(self) -> dict:
        """How the pictures were drawn, as far as their meta.json tells: SAMPLING; `resolution` is theirs in pixels."""
        path = self.images.path.parent / META
        options = read_json(path).get("options", {}) if path.is_file() else {}
        width, height = self.size
        own = {key: options.get(key) for key in SAMPLING}
        return own | ({"resolution": width if width == height else f"{width} x {height}"} if width else {})

    def is_erased(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that ask for an erased concept."""
        return table["set"].isin(self.erased).to_numpy()

    def is_retained(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that must stay as they are (see `lethe.measuring.keeping`)."""
        return is_retained(table, self.concepts, self.erased)

    def parts(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Rows by the ending of a metric's name: "" of erased concepts, "_near" and "_other" of what must stay."""
        kept, near = self.is_retained(table), is_near(table, self.concepts, self.erased)
        return {"": self.is_erased(table), "_near": kept & near, "_other": kept & ~near}


def table_of(work: Work) -> pd.DataFrame:
    """The table before any metric: set, case_number, seed, file, prompt, artist, class, category.

    A concept's prompts without a label in its kind's column (artist, class) have the concept's own. Raises UserError if
    the samples were drawn from other prompts or seeds than those given; those of an attack may be fewer.
    """
    asked = {(name, row.case_number): row for name, rows in work.rows.items() for row in rows}
    drawn = {(entry.set, entry.case_number): entry for entry in work.images.entries}
    for key in drawn if _is_attack(work.images) else [*asked, *drawn]:
        row, entry = asked.get(key), drawn.get(key)
        if row is None or entry is None or (row.prompt, row.seed) != (entry.prompt, entry.evaluation_seed):
            raise UserError(
                f"{work.images.path.parent}: was not drawn from these prompt files (first difference: set {key[0]}, "
                f"case_number {key[1]}); give the files it was drawn from, or sample again"
            )
    return pd.DataFrame([_row(entry, asked[key], work.concepts.get(entry.set)) for key, entry in drawn.items()])


def _row(entry, asked: Prompt, concept: dict | None) -> dict:
    label = {concept["kind"]: concept["style"]} if concept else {}
    return {
        "set": entry.set,
        "case_number": entry.case_number,
        "seed": entry.evaluation_seed,
        "file": entry.file,
        "prompt": entry.prompt,
        "artist": asked.artist or label.get("style"),
        "class": asked.content or label.get("object"),
        "category": asked.category,
    }


def _is_attack(images: Images) -> bool:
    path = images.path.parent / META
    return path.is_file() and read_json(path).get("stage") == "attack"


def score(work: Work) -> "Scored":
    """Looks at every picture once, then lets every family measure."""
    table, metrics, absent = table_of(work), {}, {}
    drawn = set(table["set"])
    work = dataclasses.replace(work, rows={name: rows for name, rows in work.rows.items() if name in drawn})
    seen = looking.look(work.images, wanted(work))
    converted = {str(work.images.path.parent): seen.converted} if seen.converted else {}
    work, files = dataclasses.replace(work, seen=seen.looks, size=seen.size, converted=converted), {}
    for name in order():
        family = registry.get("metrics", name)
        columns, found = family.measure(work, table.copy())
        table = table.assign(**{key: rounded(values) for key, values in columns.items()})
        if {key.partition(":")[0] for key in found} != set(family.METRICS):
            raise RuntimeError(
                f"lethe/measuring/metrics/{name}.py measured {sorted(found)}, declares {sorted(family.METRICS)}"
            )
        own = work.sampling | (family.protocol(work) if hasattr(family, "protocol") else {})
        for key, value in found.items():
            if isinstance(value, str):
                absent[key] = value
            else:
                about = own | dict(value.protocol)
                about |= {"weights": files_of} if (files_of := weights.behind(about, work.options)) else {}
                metrics[key] = _record(value, family.METRICS[key.partition(":")[0]], family.VERSION, about)
        files |= family.files(work, table) if hasattr(family, "files") else {}
    return Scored(table, metrics, absent, work, files)


@dataclass(frozen=True)
class Scored:
    """The table with every family's columns, the metrics as metrics.json holds them, why others are absent; the work
    with what was seen; and further files by name."""

    table: pd.DataFrame
    metrics: dict[str, dict]
    absent: dict[str, str]
    work: Work
    files: dict[str, str]


def _record(value: Value, about: Mapping, version: int, protocol: Mapping) -> dict:
    own = {"value": value.value, "n": value.n, "lo": value.lo, "hi": value.hi}
    own |= {"unit": about["unit"], "direction": about["direction"], "version": version}
    own |= {"protocol": dict(protocol)}
    return own | ({"warning": value.warning} if value.warning else {})


def wanted(work: Work) -> dict[str, Look]:
    """The looks of all families."""
    found: dict[str, Look] = {}
    for name in order():
        family = registry.get("metrics", name)
        for key, one in (family.looks(work) if hasattr(family, "looks") else {}).items():
            found[key] = found[key].joined(one) if key in found else one
    return found


def order() -> list[str]:
    """Families so that each comes after those whose columns it needs."""
    needs = {name: registry.literal("metrics", name, "NEEDS") for name in registry.names("metrics")}
    return list(TopologicalSorter(needs).static_order())


def rounded(values: Sequence) -> Sequence:
    """Numbers to DIGITS decimals; anything else as it is."""
    found = np.asarray(values)
    return found.astype(np.float64).round(DIGITS) if found.dtype.kind == "f" else values


def judging(work: Work, role: str, sets: Iterable[str] | None = None) -> dict[str, Look]:
    """The look of a judge (score.judges.ROLE) that is an image classifier: its probabilities [N, K]; {} without one."""
    path = work.options["judges"].get(role)
    if not path:
        return {}
    _, network = judges.classifier(path, work.device)
    return {role: Look(lambda batch: network(batch)[0], None if sets is None else tuple(sets))}


def judged(work: Work, role: str, truth: pd.Series, column: str) -> dict[str, np.ndarray]:
    """A judge on every picture: `pred` its label, `prob` that label's probability, `ok` 1 if it is the true one, 0 if
    not, NaN where there is none. Raises UserError if a true label is none of the judge's."""
    path = work.options["judges"][role]
    labels, _ = judges.classifier(path, work.device)
    known = truth.notna().to_numpy()
    judges.check_labels(path, labels, truth[known], column)
    found = work.seen[role]
    pred = np.array(labels, dtype=object)[found.argmax(1)]
    return {"pred": pred, "prob": found.max(1), "ok": np.where(known, pred == truth.to_numpy(), np.nan)}


def known_mean(values: np.ndarray, otherwise: str) -> "Value | str":
    """Mean of the values that are not NaN; if there is none, the reason given."""
    known = values[~np.isnan(values)]
    return mean(known) if len(known) else otherwise


def known_share(values: np.ndarray, otherwise: str) -> "Value | str":
    """Percentage of the values (1 or 0) that are not NaN; if there is none, the reason given. At 0 and 100 %, where
    resampling shows no spread, Wilson's interval."""
    found = known_mean(100 * values, otherwise)
    if isinstance(found, str) or found.value not in (0, 100):
        return found
    ends = at_the_end(found.n, found.value, 100.0)
    return dataclasses.replace(found, lo=ends.lo, hi=ends.hi)


def mean(values: np.ndarray) -> Value:
    """Mean with its bootstrap interval."""
    return bootstrapped(lambda index: values[index].mean(-1), len(values))


def bootstrapped(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> Value:
    """A statistic of `n` pictures with its percentile interval under resampling with replacement, seeded.

    `statistic` maps indices [..., n] to values [...]; resamples without a value (NaN, an empty denominator) are left
    out of the interval.
    """
    again = statistic(np.random.default_rng(0).integers(0, n, (RESAMPLES, n)))
    lo, hi = np.nanquantile(again, [0.025, 0.975])
    return Value(float(statistic(np.arange(n))), n, float(lo), float(hi))
