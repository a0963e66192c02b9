"""How far a model has drifted from those it was made of: FID, KID and CMMD to the distilled model's pictures, and to
the dense base's, of the same prompts and seeds, instead of to real ones.

FID to the base's pictures is FID_SD of HUB (2410.05664). Pictures come in pairs here, so the uncertainty is that of
drawing other prompts: both pictures of a prompt stay or go together, in the influences (see `fid.measure`) and in the
intervals made of them. KID and CMMD take the estimate for pairs (`mmd.paired`): equal pictures are at 0. FID grows with
fewer pictures: compare only equal n.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lethe.measuring import judges, mmd, networks, pairing
from lethe.measuring.looking import Look
from lethe.measuring.metrics import kid
from lethe.measuring.metrics.cmmd import KERNEL, SCALE, SIGMA, unit
from lethe.measuring.metrics.fid import frechet, influence, too_few
from lethe.measuring.values import Value, mean
from lethe.measuring.work import Work

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
    "kid_drift": {
        "label": "KID drift",
        "unit": "× 1000",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "kid_drift",
        "place": 56.05,
        "hidden": True,
        "meaning": "kernel distance to the distilled model's pictures of the same prompts and seeds, eval prompts",
    },
    "kid_drift_retain": {
        "label": "KID drift kept",
        "unit": "× 1000",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "kid_drift",
        "place": 57.05,
        "hidden": True,
        "meaning": "kernel distance to the distilled model's pictures, prompts that must stay as they are",
    },
    "kid_drift_base": {
        "label": "KID drift from base",
        "unit": "× 1000",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "kid_drift_base",
        "place": 58.05,
        "hidden": True,
        "meaning": "kernel distance to the dense base's pictures of the same prompts and seeds, eval prompts",
    },
    "kid_drift_base_retain": {
        "label": "KID drift kept from base",
        "unit": "× 1000",
        "direction": "down",
        "digits": 2,
        "rows": "retain",
        "column": "kid_drift_base",
        "place": 59.05,
        "hidden": True,
        "meaning": "kernel distance to the dense base's pictures, prompts that must stay as they are",
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
    return {own.look: Look(own.network) for own in distances(work) if not isinstance(own.network, str)}


@dataclass(frozen=True)
class Distance:
    """One of them: name of its columns, look, network (or why there is none), what its record tells, and how it is made
    of pairs [N, D]: as a column of N values whose mean it is, and with its interval."""

    name: str
    look: str
    network: Callable | str
    protocol: dict
    measure: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Value]]


def distances(work: Work) -> list[Distance]:
    """All of them."""
    network, features = networks.features_network(work), judges.features_protocol(work.options["features"])
    pairs = {"estimator": "of pairs"}
    clip = networks.clip(work)
    of_pictures = clip if isinstance(clip, str) else clip[0]
    about_clip = networks.clip_protocol(work) | {"kernel": f"Gaussian, sigma {SIGMA}"} | pairs
    return [
        Distance("fid_drift", "features", network, features, fid_drift),
        Distance("kid_drift", "features", network, features | pairs, kid_drift),
        Distance("cmmd_drift", "clip", of_pictures, about_clip, cmmd_drift),
    ]


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `fid_drift`, `kid_drift`, `cmmd_drift`, and with the ending `_base`, of the eval prompts' pictures and of
    those that must stay: the distance of their kind plus each pair's influence on it."""
    columns: dict[str, np.ndarray] = {}
    metrics: dict[str, Value | str] = {}
    rows = {"": (table["set"] == "eval").to_numpy(), "_retain": work.is_retained(table)}
    for who, end in ENDS.items():
        for one in distances(work):
            column, name = np.full(len(table), np.nan), f"{one.name}{end}"
            both = pairing.compared(work, who, one.network)
            for kind, own in rows.items():
                if isinstance(both, str) or own.sum() < 2:
                    metrics[f"{name}{kind}"] = both if isinstance(both, str) else "fewer than two pictures"
                    continue
                folder, network = both
                entries = [entry for entry, wanted in zip(work.images.entries, own, strict=True) if wanted]
                theirs = pairing.features(work, folder, one.look, network, entries)
                column[own], found = one.measure(work.seen[one.look][own].astype(np.float64), theirs)
                told = one.protocol | pairing.protocol(folder, entries)
                metrics[f"{name}{kind}"] = replace(found, protocol=told)
            if not np.isnan(column).all():
                columns[name] = column
    return columns, metrics


def fid_drift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, Value]:
    """Fréchet distance of features."""
    column = frechet(ours, theirs) + influence(ours, theirs) + influence(theirs, ours)
    found = mean(column)
    warning = f"{len(ours)} pairs are too few for {ours.shape[1]} features" if too_few(ours, theirs) else None
    return column, Value(max(0.0, found.value), found.n, max(0.0, found.lo), max(0.0, found.hi), warning=warning)


def kid_drift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, Value]:
    """Kernel distance of features, with KID's kernel."""
    return _kernel_drift(ours, theirs, kid.kernel)


def cmmd_drift(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, Value]:
    """The same of embeddings, with CMMD's kernel."""
    return _kernel_drift(unit(ours), unit(theirs), KERNEL)


def _kernel_drift(ours: np.ndarray, theirs: np.ndarray, kernel: mmd.Kernel) -> tuple[np.ndarray, Value]:
    value, shares = mmd.paired(ours, theirs, kernel)
    column = SCALE * (value + shares)
    return column, mean(column)
