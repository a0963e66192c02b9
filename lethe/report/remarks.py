"""What must be said below a table: with what its numbers were measured, why some say little, why some are lacking."""

from collections.abc import Iterable

from lethe.report.measures import Metric
from lethe.report.runs import Run

TOLD = {  # of a protocol in metrics.json, what is told below a table
    "model": "{}",
    "descriptor": "{}",
    "features": "features {}",
    "mode": "mode {}",
    "n_drawn": "{} drawn",
    "n_real": "{} real pictures",
}


def remarks(runs: Iterable[Run], metrics: Iterable[Metric]) -> list[str]:
    """Notes "LABEL: what" on the metrics of some runs, each once."""
    runs, metrics, notes = list(runs), list(metrics), []
    for metric in metrics:
        records = [run.records[metric.name] for run in runs if metric.name in run.records]
        for text in dict.fromkeys(filter(None, map(_protocol, records))):
            notes.append(f"{metric.label}: {text}")
        for text in dict.fromkeys(record["warning"] for record in records if "warning" in record):
            notes.append(f"{metric.label}: warning, {text}")
    reasons: dict[str, list[str]] = {}
    for metric in metrics:
        for reason in dict.fromkeys(run.absent[metric.name] for run in runs if metric.name in run.absent):
            reasons.setdefault(reason, []).append(metric.label)
    return notes + [f"not run: {', '.join(labels)} ({reason})" for reason, labels in reasons.items()]


def _protocol(record: dict) -> str:
    own = record.get("protocol", {})
    return ", ".join(form.format(own[key]) for key, form in TOLD.items() if own.get(key) is not None)
