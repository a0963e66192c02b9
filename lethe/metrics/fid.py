"""Fréchet distance between the features of drawn and real pictures (1706.08500 eq. 6).

The formula of clean-fid's `frechet_distance`, with the trace of the matrix root taken as a sum of singular values:
scipy's `sqrtm` fails or turns complex where there are fewer pictures than features. The value is biased upwards by
about 1/n: compare only equal n. Resampling adds to that bias, so the interval is the resamples' spread around the
value. With score.features `inception` features and resizing are clean-fid's mode "clean".
"""

import numpy as np
import pandas as pd

from lethe.scoring import Value, Work

VERSION = 1
NEEDS = ()
METRICS = {"fid": {"unit": "", "direction": "down", "meaning": "Fréchet distance to real pictures, eval prompts"}}
RESAMPLES = 50


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `fid` of the eval pictures: the distance plus each picture's influence on it; its mean is the distance.

    Resampling the column is, to first order, resampling the pictures, so two models can be compared prompt by prompt.
    """
    if work.features is None:
        return {}, {"fid": "no prompt set eval"}
    drawn, real = work.features
    if min(len(drawn), len(real)) < 2:
        return {}, {"fid": "fewer than two pictures"}
    value, n, rng = frechet(drawn, real), len(drawn), np.random.default_rng(0)
    known = factor(real)
    again = np.array([_distance(factor(drawn[rng.integers(0, n, n)]), known) for _ in range(RESAMPLES)])
    lo, hi = np.maximum(0, value + np.quantile(again, [0.025, 0.975]) - again.mean())
    column = np.full(len(table), np.nan)
    column[(table["set"] == "eval").to_numpy()] = value + influence(drawn, real)
    return {"fid": column}, {"fid": Value(value, n, float(lo), float(hi))}


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
    """[N], mean 0: the derivative of the distance by the weight of each drawn picture (the infinitesimal jackknife).

    Of the trace of the matrix root: with the singular value decomposition x r_other.T = u diag(s) v.T of the centred
    features x, scaled so that x.T @ x is their covariance, the root's trace is sum(s), and a picture's share in it
    (u**2 @ s) / 2 times N: no inverse is needed, with fewer pictures than features neither.
    """
    (mean, _), (mean_other, r_other), n = factor(drawn), factor(real), len(drawn)
    centred = drawn - mean
    u, s, _ = np.linalg.svd(centred @ r_other.T / np.sqrt(n - 1), full_matrices=False)
    spread = (centred**2).sum(1) * n / (n - 1)
    return 2 * centred @ (mean - mean_other) + spread - spread.mean() - (n * (u**2 @ s) - s.sum())
