"""Similarity to a style (2404.01292): 100 * cosine of a picture's style embedding and the concept's prototype.

The prototype is the normalised mean embedding of the concept's pictures. 2412.15341 does not tell its averaging; this
one is ours. `csd` puts the reference (the distilled model) at 100, as the paper's table does. Values compare only
within one descriptor: the published CSD weights do not give their paper's numbers.
"""

import numpy as np
import pandas as pd

from lethe import judges
from lethe.scoring import Value, Work, bootstrapped, mean, pictures_of, rounded

VERSION = 1
NEEDS = ()
METRICS = {
    "csd_raw": {"unit": "100 cos", "direction": "down", "meaning": "pictures of erased prompts against the prototype"},
    "csd": {"unit": "% of reference", "direction": "down", "meaning": "csd_raw where the reference's is 100"},
}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `csd` of the pictures of every concept."""
    if not work.options["descriptor"]:
        return {}, dict.fromkeys(METRICS, "no descriptor (score.descriptor)")
    network = judges.descriptor(work.options["descriptor"], work.device)
    column = np.full(len(table), np.nan)
    for name, concept in work.concepts.items():
        if concept["pictures"] and work.rows.get(name):
            prototype = judges.stacked(pictures_of(concept["pictures"]).batches(), network).mean(0)
            drawn = judges.stacked(work.drawn(work.entries(name)).batches(), network)
            column[(table["set"] == name).to_numpy()] = 100 * drawn @ (prototype / np.linalg.norm(prototype))
    rows = table.assign(csd=rounded(column))[work.is_erased(table)]
    raw = rows["csd"].to_numpy()
    if np.isnan(raw).any():
        return {"csd": column}, dict.fromkeys(METRICS, "an erased concept has no pictures to make a prototype of")
    return {"csd": column}, {"csd_raw": mean(raw), "csd": _ratio(raw, work.reference_of(rows, "csd"))}


def _ratio(raw: np.ndarray, reference: np.ndarray) -> Value | str:
    """100 * mean(raw) / mean(reference) over the same prompts, resampled together."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrapped(lambda index: 100 * raw[index].mean(-1) / reference[index].mean(-1), len(raw))
    if reference.mean() <= 0 or not np.isfinite([found.value, found.lo, found.hi]).all():
        return "the reference's similarity is not above 0"
    return found
