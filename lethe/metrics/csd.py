"""Similarity to a style (2404.01292): 100 * cosine of a picture's style embedding and the concept's prototype.

The prototype is the normalised mean embedding of the concept's pictures. 2412.15341 does not tell its averaging; this
one is ours. `csd` puts the reference (the distilled model) at 100, as the paper's table does. Values compare only
within one descriptor: the published CSD weights do not give their paper's numbers.
"""

import numpy as np
import pandas as pd

from lethe import judges
from lethe.scoring import Look, Value, Work, bootstrapped, mean, rounded

VERSION = 2
NEEDS = ()
METRICS = {
    "csd": {
        "label": "CSD",
        "unit": "distill = 100",
        "direction": "down",
        "digits": 1,
        "rows": "erased",
        "column": "csd",
        "over": "reference",
        "place": 30,
        "table": ["style"],
        "meaning": "similarity to the style of the erased concept",
    },
    "csd_raw": {
        "label": "CSD raw",
        "unit": "100 cos",
        "direction": "down",
        "digits": 2,
        "rows": "erased",
        "column": "csd",
        "place": 35,
        "table": ["style"],
        "hidden": True,
        "meaning": "the same as measured",
    },
}


def sets(work: Work) -> list[str]:
    """Concepts with pictures to make a prototype of, and with drawn ones."""
    return [name for name, own in work.concepts.items() if own["pictures"] and work.has(name)]


def looks(work: Work) -> dict[str, Look]:
    """Embeddings of these concepts' pictures."""
    if not work.options["descriptor"] or not sets(work):
        return {}
    return {"descriptor": Look(judges.descriptor(work.options["descriptor"], work.device), tuple(sets(work)))}


def protocol(work: Work) -> dict:
    return {"descriptor": work.options["descriptor"]}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `csd` of the pictures of every concept."""
    if not work.options["descriptor"]:
        return {}, dict.fromkeys(METRICS, "no descriptor (score.descriptor)")
    network = judges.descriptor(work.options["descriptor"], work.device)
    column = np.full(len(table), np.nan)
    for name in sets(work):
        folder, rows = work.concepts[name]["pictures"], (table["set"] == name).to_numpy()
        real = work.reference_features(f"pictures:{name}", folder, "descriptor", network)
        prototype = real.features.mean(0)
        drawn = work.seen["descriptor"][rows].astype(np.float64)
        column[rows] = 100 * drawn @ (prototype / np.linalg.norm(prototype))
    rows = table.assign(csd=rounded(column))[work.is_erased(table)]
    raw = rows["csd"].to_numpy()
    if not len(raw) or np.isnan(raw).any():
        return {"csd": column}, dict.fromkeys(METRICS, "an erased concept has no pictures to make a prototype of")
    ratio = work.without_reference or _ratio(raw, work.reference_of(rows, "csd"))
    return {"csd": column}, {"csd_raw": mean(raw), "csd": ratio}


def _ratio(raw: np.ndarray, reference: np.ndarray) -> Value | str:
    """100 * mean(raw) / mean(reference) over the same prompts, resampled together."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrapped(lambda index: 100 * raw[index].mean(-1) / reference[index].mean(-1), len(raw))
    if reference.mean() <= 0 or not np.isfinite([found.value, found.lo, found.hi]).all():
        return "the reference's similarity is not above 0"
    return found
