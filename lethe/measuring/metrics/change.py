"""How much each picture changed: 100 * (1 - cosine) of what a network sees in this model's picture and in the distilled
one's (or the dense base's) of the same prompt and seed.

The network is that of score.features, the same as for FID: on atelier its judge of contents, so that what it does not
look at, such as a brush's texture, hardly counts. It is not LPIPS (see that family), needs no further weights, and
compares only within one network.
"""

import numpy as np
import pandas as pd

from lethe.measuring import judges, networks, pairing
from lethe.measuring.looking import Look
from lethe.measuring.values import Value
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ()
METRICS = {
    "change": {
        "label": "Change",
        "unit": "100 (1 - cos)",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "change",
        "place": 112,
        "meaning": "change of features against the distilled model's picture, prompts that must stay as they are",
    },
    "change_eval": {
        "label": "Change eval",
        "unit": "100 (1 - cos)",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "change",
        "place": 113,
        "hidden": True,
        "meaning": "change of features against the distilled model's picture, eval prompts",
    },
    "change_target": {
        "label": "Change target",
        "unit": "100 (1 - cos)",
        "direction": "up",
        "digits": 2,
        "rows": "erased",
        "column": "change",
        "place": 114,
        "hidden": True,
        "meaning": "change of features against the distilled model's picture, prompts that name an erased concept",
    },
    "change_base": {
        "label": "Change from base",
        "unit": "100 (1 - cos)",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "change_base",
        "place": 115,
        "hidden": True,
        "meaning": "change of features against the dense base's picture, prompts that must stay as they are",
    },
}


def looks(work: Work) -> dict[str, Look]:
    """Features of all pictures, where there is another model to compare with."""
    others = [pairing.samples(work, who) for who in pairing.WHOSE]
    network = networks.features_network(work)
    if isinstance(network, str) or all(isinstance(folder, str) for folder in others):
        return {}
    return {"features": Look(network)}


def protocol(work: Work) -> dict:
    return judges.features_protocol(work.options["features"])


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `change` and `change_base` of every picture."""
    columns: dict[str, np.ndarray] = {}
    metrics: dict[str, Value | str] = {}
    rows = {"": work.is_retained(table), "_eval": (table["set"] == "eval").to_numpy(), "_target": work.is_erased(table)}
    for who, end, kinds in ((pairing.DISTILL, "", rows), (pairing.BASE, "_base", [""])):
        found = pairing.compared(work, who, networks.features_network(work))
        if isinstance(found, str):
            metrics |= {f"change{end}{kind}": found for kind in kinds}
            continue
        folder, run = found
        theirs = pairing.features(work, folder, "features", run, work.images.entries)
        columns[f"change{end}"] = column = change(work.seen["features"].astype(np.float64), theirs)
        for kind in kinds:
            metrics[f"change{end}{kind}"] = pairing.known_mean(work, folder, rows[kind], column)
    return columns, metrics


def change(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[N] of features [N, D], 0 to 200; a picture in which the network sees nothing (all 0) changes by 100 from one in
    which it sees something."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    nothing = (ours == theirs).all(1)
    cosine = np.divide((ours * theirs).sum(1), lengths, out=np.zeros(len(ours)), where=lengths > 0)
    return np.where(nothing, 0.0, 100 * np.maximum(0, 1 - cosine))
