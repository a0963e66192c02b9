"""How far a model has drifted from those it was made of: FID and CMMD to the distilled model's pictures, and to the
dense base's, of the same prompts and seeds, instead of to real ones.

FID to the base's pictures is FID_SD of HUB (2410.05664). Pictures come in pairs here, so the uncertainty is that of
drawing other prompts: both pictures of a prompt stay or go together, in the influences (see `fid.measure`) and in the
intervals made of them. CMMD takes the estimate for pairs (`mmd.paired`): equal pictures are at 0. FID grows with fewer
pictures: compare only equal n.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from lethe import judges, mmd, pairing
from lethe.metrics.cmmd import KERNEL, SCALE, SIGMA, unit
from lethe.metrics.fid import frechet, influence, too_few
from lethe.scoring import Look, Value, Work, mean

VERSION = 1
NEEDS = ()
METRICS = {
    "fid_drift": {
        "label": "FID drift",
        "unit": "",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "fid_drift",
        "place": 56,
        "meaning": "Fréchet distance to the distilled model's pictures of the same prompts and seeds, eval prompts",
    },
    "fid_drift_retain": {
        "label": "FID drift kept",
        "unit": "",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "fid_drift",
        "place": 57,
        "hidden": True,
        "meaning": "Fréchet distance to the distilled model's pictures, prompts that must stay as they are",
    },
    "fid_drift_base": {
        "label": "FID drift from base",
        "unit": "",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "fid_drift_base",
        "place": 58,
        "hidden": True,
        "meaning": "Fréchet distance to the dense base's pictures of the same prompts and seeds, eval prompts",
    },
    "fid_drift_base_retain": {
        "label": "FID drift kept from base",
        "unit": "",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "fid_drift_base",
        "place": 59,
        "hidden": True,
        "meaning": "Fréchet distance to the dense base's pictures, prompts that must stay as they are",
    },
    "cmmd_drift": {
        "label": "CMMD drift",
        "unit": "× 1000",
        "direction": "down",
        "digits": 3,
        "rows": "eval",
        "column": "cmmd_drift",
        "place": 56.1,
        "hidden": True,
        "meaning": "CMMD to the distilled model's pictures of the same prompts and seeds, eval prompts",
    },
    "cmmd_drift_retain": {
        "label": "CMMD drift kept",
        "unit": "× 1000",
        "direction": "down",
        "digits": 3,
        "rows": "retain",
        "column": "cmmd_drift",
        "place": 57.1,
        "hidden": True,
        "meaning": "CMMD to the distilled model's pictures, prompts that must stay as they are",
    },
    "cmmd_drift_base": {
        "label": "CMMD drift from base",
        "unit": "× 1000",
        "direction": "down",
        "digits": 3,
        "rows": "eval",
        "column": "cmmd_drift_base",
        "place": 58.1,
        "hidden": True,
        "meaning": "CMMD to the dense base's pictures of the same prompts and seeds, eval prompts",
    },
    "cmmd_drift_base_retain": {
        "label": "CMMD drift kept from base",
        "unit": "× 1000",
        "direction": "down",
        "digits": 3,
        "rows": "retain",
        "column": "cmmd_drift_base",
        "place": 59.1,
        "hidden": True,
        "meaning": "CMMD to the dense base's pictures, prompts that must stay as they are",
    },
}
ENDS = {pairing.DISTILL: "", pairing.BASE: "_base"}


def looks(work: Work) -> dict[str, Look]:
    """Features and CLIP embeddings, where there is another model to compare with."""
    if all(isinstance(pairing.samples(work, who), str) for who in ENDS):
        return {}
    return {name: Look(network) for name, network, _, _ in networks(work) if not isinstance(network, str)}


def networks(work: Work) -> Iterator[tuple[str, Callable | str, str, dict]]:
    """Look, network (or why there is none), start of the names of what is measured with it, and how."""
    own = work.options["features"], work.device, work.options["features_weights"]
    yield "features", judges.features_or_reason(*own), "fid_drift", judges.features_protocol(own[0])
    name, device = work.options["clip"], work.device
    told = judges.clip_protocol(name, device) | {"kernel": f"Gaussian, sigma {SIGMA}", "estimator": "of pairs"}
    yield "clip", judges.clip(name, device)[0], "cmmd_drift", told


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `fid_drift`, `cmmd_drift`, and with the ending `_base`, of the eval prompts' pictures and of those that
    must stay: the distance of their kind plus each pair's influence on it."""
    columns, metrics = {}, {}
    rows = {"": (table["set"] == "eval").to_numpy(), "_retain": work.is_retained(table)}
    for who, end in ENDS.items():
        folder = pairing.samples(work, who)
        for name, network, start, protocol in networks(work):
            column = np.full(len(table), np.nan)
            for kind, own in rows.items():
                reason = folder if isinstance(folder, str) else network if isinstance(network, str) else ""
                if reason or own.sum() < 2:
                    metrics[f"{start}{end}{kind}"] = reason or "fewer than two pictures"
                    continue
                entries = [entry for entry, wanted in zip(work.images.entries, own, strict=True) if wanted]
                theirs = pairing.features(work, folder, name, network, entries)
                ours = work.seen[name][own].astype(np.float64)
                column[own], found = (fid_drift if name == "features" else cmmd_drift)(ours, theirs)
                told = protocol | pairing.protocol(folder, entries)
                metrics[f"{start}{end}{kind}"] = replace(found, protocol=told)
            if not np.isnan(column).all():
                columns[f"{start}{end}"] = column
    return columns, metrics


def fid_drift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, Value]:
    """Fréchet distance of pairs of features [N, D]: as a column of N values whose mean it is, and with its interval."""
    column = frechet(ours, theirs) + influence(ours, theirs) + influence(theirs, ours)
    found = mean(column)
    warning = f"{len(ours)} pairs are too few for {ours.shape[1]} features" if too_few(ours, theirs) else None
    return column, Value(max(0.0, found.value), found.n, max(0.0, found.lo), max(0.0, found.hi), warning=warning)


def cmmd_drift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, Value]:
    """The same of embeddings, with CMMD's kernel."""
    value, shares = mmd.paired(unit(ours), unit(theirs), KERNEL)
    column = SCALE * (value + shares)
    return column, mean(column)
