"""What must be said below a table: with what its numbers were measured, why some say little, why some are lacking."""

from collections.abc import Iterable
from pathlib import Path

from lethe.files.io import META, read_meta
from lethe.measuring.measures import Metric, named
from lethe.measuring.runs import Run

TOLD = {  # of a protocol in metrics.json, what is told below a table
    "model": "{}",
    "descriptor": "{}",
    "features": "features {}",
    "mode": "mode {}",
    "n_drawn": "{} drawn",
    "n_real": "{} real pictures",
    "statistics": "real pictures as statistics {}, their number unknown",
    "n_reference": "{} pictures of the other model",
}


def remarks(runs: Iterable[Run], metrics: Iterable[Metric]) -> list[str]:
    """Notes "LABELS: what" on the printed metrics of some runs, each once, with all that it holds for."""
    runs = list(runs)
    found: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for metric in (metric for metric in metrics if not metric.hidden):
        records = [run.records[metric.name] for run in runs if metric.name in run.records]
        said = [*map(_protocol, records), *(f"warning, {own['warning']}" for own in records if "warning" in own)]
        for text in dict.fromkeys(filter(None, said)):
            found.setdefault(text, []).append(named(metric.name).label)
        for reason in dict.fromkeys(run.absent[metric.name] for run in runs if metric.name in run.absent):
            reasons.setdefault(reason, []).append(named(metric.name).label)
    notes = [f"{', '.join(labels)}: {text}" for text, labels in found.items()]
    notes += [f"not run: {', '.join(labels)} ({reason})" for reason, labels in reasons.items()]
    notes += cut(runs)
    alone = len({run.seed for run in runs} - {None}) == 1
    return notes + (["one training seed: intervals speak of the pictures alone"] if alone else [])


def cut(runs: Iterable[Run]) -> list[str]:
    """Notes on texts that are longer than the text encoder reads: how many, and of which rows. Captions of pictures
    that were trained on are told of where their encoded pictures are here."""
    found: dict[tuple[str, int], list[str]] = {}
    for run in runs:
        trained = {Path(own["folder"]) for meta in run.chain for own in _pictures(meta) if _is_here(own)}
        told = {"prompts": [run.samples], "captions of its training": sorted(trained)}
        for what, folders in told.items():
            count = len({text for folder in folders for text in read_meta(folder).get("cut", [])})
            if count and run.row not in found.setdefault((what, count), []):
                found[what, count].append(run.row)
    return [
        f"{', '.join(rows)}: {count} {what} longer than the text encoder reads, whose ends change nothing"
        for (what, count), rows in found.items()
    ]


def _pictures(meta: dict) -> list[dict]:
    parents = meta.get("parents", {}).items()
    return [own for role, own in parents if role == "data" or role.startswith("concept:")]


def _is_here(parent: dict) -> bool:
    """Whether the very result that was read still stands there."""
    folder = Path(parent["folder"])
    return (folder / META).is_file() and read_meta(folder).get("recipe") == parent.get("recipe")


def _protocol(record: dict) -> str:
    own = record.get("protocol", {})
    told = {key: own[key] for key in TOLD if own.get(key) is not None}
    return ", ".join(TOLD[key].format(value) for key, value in told.items())
