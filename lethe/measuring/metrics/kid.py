"""Kernel distance between the features of drawn and real pictures, * 1000 (1801.01401), by clean-fid's estimator.

Unbiased, with the cubic polynomial kernel: the mean over score.kid_subsets random subsets of at most 1000 pictures. The
interval resamples the drawn pictures; pairs of a picture and its own copy are left out of a resample, since they would
raise it. Values near 0 may be negative.
"""

import numpy as np
import pandas as pd

from lethe.measuring import mmd, networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value
from lethe.measuring.work import Work

VERSION = 2
NEEDS = ()
METRICS = {
    "kid": {
        "label": "KID",
        "unit": "× 1000",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "kid",
        "place": 50,
        "meaning": "kernel distance to real pictures, eval prompts",
    }
}


def looks(work: Work) -> dict[str, Look]:
    return networks.features_look(work)


def protocol(work: Work) -> dict:
    return networks.features_protocol(work) | {"subsets": work.options["kid_subsets"]}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `kid` of the eval pictures: the distance plus each picture's influence on it (see `fid.measure`)."""
    found = networks.features(work)
    if isinstance(found, str):
        return {}, {"kid": found}
    drawn, real = found[0], found[1].features
    value = 1000 * kernel_distance(drawn, real, work.options["kid_subsets"])
    lo, hi = 1000 * np.quantile(mmd.resampled(drawn, real, kernel), [0.025, 0.975])
    column = np.full(len(table), np.nan)
    column[(table["set"] == "eval").to_numpy()] = value + 1000 * mmd.influence(drawn, real, kernel)
    return {"kid": column}, {"kid": Value(value, len(drawn), float(lo), float(hi))}


def kernel_distance(drawn: np.ndarray, real: np.ndarray, subsets: int) -> float:
    """clean-fid's kernel distance with a seed of its own; numpy's global generator is left as it was."""
    from cleanfid.fid import kernel_distance

    before = np.random.get_state()
    np.random.seed(0)
    try:
        return kernel_distance(real, drawn, num_subsets=subsets)
    finally:
        np.random.set_state(before)


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, M] of features [N, D] and [M, D]."""
    return (x @ y.T / x.shape[1] + 1) ** 3
