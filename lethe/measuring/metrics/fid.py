"""Fréchet distance between the features of drawn and real pictures (1706.08500 eq. 6).

The formula of clean-fid's `frechet_distance`, with the trace of the matrix root taken as a sum of singular values:
scipy's `sqrtm` fails or turns complex where there are fewer pictures than features. The value is biased upwards by
about 1/n: compare only equal n. Resampling pictures adds to that bias, and would take a root for each resample; the
interval resamples each picture's influence on the distance instead (the infinitesimal jackknife), which one singular
value decomposition gives together with the distance. Which features, and how pictures are resized for them, stands in
the protocol (see `judges.features_protocol`).
"""

import numpy as np
import pandas as pd

from lethe.measuring import judges, networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value, mean
from lethe.measuring.work import Work

VERSION = 2
NEEDS = ()
METRICS = {
    "fid": {
        "label": "FID",
        "unit": "",
        "direction": "down",
        "digits": 2,
        "rows": "eval",
        "column": "fid",
        "place": 40,
        "meaning": "Fréchet distance to real pictures, eval prompts",
    }
}


def looks(work: Work) -> dict[str, Look]:
    return networks.features_look(work)


def protocol(work: Work) -> dict:
    found = networks.beside_statistics(work)
    if work.statistics is None or not isinstance(found, np.ndarray):
        return networks.features_protocol(work)
    own = {"n_drawn": len(found), "statistics": work.statistics.path.name, "reference_sha": work.statistics.sha256}
    return judges.features_protocol(work.options["features"]) | own


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `fid` of the eval pictures: the distance plus each picture's influence on it; its mean is the distance.

    Resampling the column is, to first order, resampling the pictures, so two models can be compared prompt by prompt.
    """
    warning: str | None
    beside, statistics = networks.beside_statistics(work), work.statistics
    found = networks.features(work) if beside is None else beside
    if isinstance(found, str):
        return {}, {"fid": found}
    if statistics and isinstance(found, np.ndarray):
        drawn, warning = found, f"{statistics.doubts}; {too_few(found, None) or 'compare only equal numbers'}"
        value, shares = _with_influence(drawn, statistics.factor)
    else:
        drawn, real = found[0], found[1].features
        value, shares = distance_and_influence(drawn, real)
        warning = too_few(drawn, real)
    column = np.full(len(table), np.nan)
    column[(table["set"] == "eval").to_numpy()] = value + shares
    spread = mean(value + shares)
    ends = max(0.0, spread.lo), max(0.0, spread.hi)
    return {"fid": column}, {"fid": Value(value, spread.n, *ends, warning=warning)}


def too_few(drawn: np.ndarray, real: np.ndarray | None) -> str | None:
    """A warning where a covariance cannot have full rank: then FID hardly compares, even with itself at another n.
    `real`: None if nobody knows how many there are."""
    n, width = drawn.shape
    if min(n, n if real is None else len(real)) > width:
        return None
    told = f"{n} drawn pictures" if real is None else f"{n} drawn and {len(real)} real pictures"
    return f"{told} are too few for {width} features: prefer KID"


def frechet(drawn: np.ndarray, real: np.ndarray) -> float:
    """Distance between the normal distributions with the means and covariances of two sets of features [N, D]."""
    return _distance(factor(drawn), factor(real))


def factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and R [min(N, D), D] with R.T @ R the covariance."""
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)


def _distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    (mean, r), (mean_other, r_other) = one, other
    # the eigenvalues of the product of both covariances are the squared singular values of r @ r_other.T
    root = np.linalg.svd(r @ r_other.T, compute_uv=False).sum()
    return float(max(0.0, ((mean - mean_other) ** 2).sum() + (r**2).sum() + (r_other**2).sum() - 2 * root))


def influence(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """[N], mean 0: the derivative of the distance by the weight of each drawn picture (the infinitesimal jackknife)."""
    return distance_and_influence(drawn, real)[1]


def distance_and_influence(drawn: np.ndarray, real: np.ndarray) -> tuple[float, np.ndarray]:
    """The distance, and its derivative by the weight of each drawn picture [N]."""
    return _with_influence(drawn, factor(real))


def _with_influence(drawn: np.ndarray, real: tuple[np.ndarray, np.ndarray]) -> tuple[float, np.ndarray]:
    """The same of the real pictures' mean and R (`factor`), from one decomposition.

    Of the trace of the matrix root: with the singular value decomposition x r_other.T = u diag(s) v.T of the centred
    features x, scaled so that x.T @ x is their covariance, the root's trace is sum(s), and a picture's share in it
    (u**2 @ s) / 2 times N: no inverse is needed, with fewer pictures than features neither.
    """
    own, (other, r_other), n = drawn.mean(0), real, len(drawn)
    centred = drawn - own
    u, s, _ = np.linalg.svd(centred @ r_other.T / np.sqrt(n - 1), full_matrices=False)
    spread = (centred**2).sum(1) * n / (n - 1)
    value = ((own - other) ** 2).sum() + spread.mean() + (r_other**2).sum() - 2 * s.sum()
    shares = 2 * centred @ (own - other) + spread - spread.mean() - (n * (u**2 @ s) - s.sum())
    return float(max(0.0, value)), shares
