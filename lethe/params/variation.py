"""Tables of the report beside `style`: every combination of their axes' labels is a run with a few values changed."""

import copy
from collections.abc import Iterator
from itertools import product

from lethe.files.errors import UserError
from lethe.params import registry
from lethe.params.rules import CHOICES, completed, dropped, known

# Words that already head a column of the report; its metrics, as their modules name them, also with _lo and _hi.
MEASURES = tuple(name for family in registry.literals("metrics", "METRICS").values() for name in family)
TAKEN = {f"{measure}{end}" for measure in MEASURES for end in ("", "_lo", "_hi")}
TAKEN |= {
    "against",
    "arm",
    "better",
    "budget",
    "difference",
    "draw_mb",
    "draw_passes",
    "gpu_seconds",
    "hi",
    "keep",
    "latency_1_ms",
    "latency_8_ms",
    "latency_ratio",
    "lo",
    "macs_kept",
    "macs_released",
    "metric",
    "n_images",
    "n_seeds",
    "not_run",
    "params_kept",
    "reference",
    "set",
    "source",
    "train_mb",
    "weights_mb",
    "zeroed",
}
TABLES = ("style", "unsafe", "attacks")  # that the report makes of the grid


def check_names(tables: dict, arms: list[str]) -> None:
    """Raises UserError if a table or an axis is called what something else in the report is called."""
    ends = ("_paired", "_matrix")
    for name, table in tables.items():
        if name in (*TABLES, *arms) or name.endswith(ends):
            raise UserError(f"tables.{name}: is the name of another table or an arm, or ends like one; call it another")
        for axis in table["vary"]:
            if axis in TAKEN:
                raise UserError(f"tables.{name}.vary.{axis}: is the name of a column of the report; call it another")


def check_axes(table: dict, where: str) -> None:
    """Raises UserError if two axes set the same value: a label would not tell what it is."""
    seen: dict[str, str] = {}
    for axis, labels in table["vary"].items():
        for key in {key for values in labels.values() for key in values}:
            if seen.setdefault(key, axis) != axis:
                raise UserError(f"{where}.vary: axes {seen[key]} and {axis} both set {key}; leave it to one")


def points(table: dict) -> Iterator[tuple[dict[str, str], dict[str, object]]]:
    """Labels by axis, and the values they set, of each combination; the last axis runs fastest."""
    axes = table["vary"]
    for labels in product(*(axes[axis] for axis in axes)):
        values: dict[str, object] = {}
        for axis, label in zip(axes, labels, strict=True):
            values |= axes[axis][label]
        yield dict(zip(axes, labels, strict=True)), values


def reads(arm: str) -> tuple[str, ...]:
    """Sections, and single keys, whose values an arm's own weights and pictures depend on."""
    match arm:
        case "base":
            return ("sample",)
        case "pruned":
            return ("prune", "sample")
        case "distill":
            return ("prune", "distill", "sample")
        case "bilevel":
            return ("prune", "distill", "bilevel", "sample")
        case _:
            return ("prune", "distill", f"erase.{arm}", "grid.order", "sample")


def varied(values: dict, changes: dict[str, object], arm: str, where: str) -> dict:
    """The experiment with some values changed, and no tables of its own.

    Where a change chooses another plug-in, keys that only the old one has go, and those of the new one have their
    defaults. A change of `sample` leaves all weights as they are. Raises UserError for a key that the arm does not
    read, and for `sample.tile`.
    """
    found = copy.deepcopy(values) | {"tables": {}}
    for section, keys in CHOICES.items():
        for key, package in keys.items():
            new = changes.get(f"{section}.{key}")
            if new is not None:
                known(f"{where}: {section}", key, package, str(new))
                found[section] = dropped(found[section], package, found[section][key], str(new))
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        place: object = found
        for step in section.split("."):
            place = place.get(step) if isinstance(place, dict) else None
        allowed = reads(arm)
        if not (key in allowed or section in allowed) or not isinstance(place, dict):
            raise UserError(f"{where}: {key!r} is no value that {arm} reads; those of {', '.join(allowed)} are")
        if key == "sample.tile":
            raise UserError(f"{where}: sample.tile says nothing of a model, only how many pictures share a batch")
        place[last] = value  # an unknown key is refused with its section
    unread = [key for key in changes if not key.startswith(("erase.", "grid.", "bilevel.", "sample."))]
    if unread and arm not in ("pruned", "distill", "bilevel") and found["grid"]["order"] == "erase":
        raise UserError(f"{where}: {unread[0]} has no say in order erase: nothing is pruned or distilled there")
    return completed(found)
