"""One table of scores of one model's pictures, a row a picture, and the metrics of all families with their intervals.

What a family must hold stands in `lethe.measuring.metrics`, what it gets in `lethe.measuring.work`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from types import ModuleType

import pandas as pd

from lethe.files.errors import UserError
from lethe.files.images import Entry, Images
from lethe.files.io import META, read_json
from lethe.measuring import looking, weights
from lethe.measuring.looking import Look
from lethe.measuring.values import Value, rounded
from lethe.measuring.work import Work
from lethe.params import registry
from lethe.texts.rows import Prompt

SAMPLING = ("sampler", "steps", "guidance", "resolution")


@dataclass(frozen=True)
class Scored:
    """The table with every family's columns, the metrics as metrics.json holds them, why others are absent; the work
    with what was seen; and further files by name."""

    table: pd.DataFrame
    metrics: dict[str, dict]
    absent: dict[str, str]
    work: Work
    files: dict[str, str]


def score(work: Work) -> Scored:
    """Looks at every picture once, then lets every family measure."""
    table = table_of(work)
    found = Scored(table, {}, {}, seen(work, set(table["set"])), {})
    for name in order():
        found = measured(found, name)
    return found


def seen(work: Work, drawn: set[str]) -> Work:
    """The work with what the networks of all families say of its pictures; rows of sets without pictures go."""
    work = dataclasses.replace(work, rows={name: rows for name, rows in work.rows.items() if name in drawn})
    found = looking.look(work.images, wanted(work))
    converted = {str(work.images.path.parent): found.converted} if found.converted else {}
    return dataclasses.replace(work, seen=found.looks, size=found.size, converted=converted)


def measured(before: Scored, name: str) -> Scored:
    """With the columns, metrics and files of one family more."""
    family, work = registry.get("metrics", name), before.work
    columns, found = family.measure(work, before.table.copy())
    table = before.table.assign(**{key: rounded(values) for key, values in columns.items()})
    if {key.partition(":")[0] for key in found} != set(family.METRICS):
        raise RuntimeError(
            f"lethe/measuring/metrics/{name}.py measured {sorted(found)}, declares {sorted(family.METRICS)}"
        )
    own = sampling(work) | (family.protocol(work) if hasattr(family, "protocol") else {})
    metrics = {key: _record(work, family, key, one, own) for key, one in found.items() if isinstance(one, Value)}
    absent = {key: one for key, one in found.items() if isinstance(one, str)}
    files = family.files(work, table) if hasattr(family, "files") else {}
    return Scored(table, before.metrics | metrics, before.absent | absent, work, before.files | files)


def _record(work: Work, family: ModuleType, key: str, found: Value, protocol: Mapping) -> dict:
    """What metrics.json holds of one metric: `protocol`, the family's, with its own and its networks' weights."""
    about, told = family.METRICS[key.partition(":")[0]], dict(protocol) | dict(found.protocol)
    files = weights.behind(told, work.options)
    own: dict[str, object] = {"value": found.value, "n": found.n, "lo": found.lo, "hi": found.hi}
    own |= {"unit": about["unit"], "direction": about["direction"], "version": family.VERSION}
    own |= {"protocol": told | ({"weights": files} if files else {})}
    return own | ({"warning": found.warning} if found.warning else {})


def sampling(work: Work) -> dict:
    """How the pictures were drawn, as far as their meta.json tells: SAMPLING; `resolution` is theirs in pixels."""
    path = work.images.path.parent / META
    options = read_json(path).get("options", {}) if path.is_file() else {}
    width, height = work.size
    own = {key: options.get(key) for key in SAMPLING}
    return own | ({"resolution": width if width == height else f"{width} x {height}"} if width else {})


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


def _row(entry: Entry, asked: Prompt, concept: dict | None) -> dict:
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
