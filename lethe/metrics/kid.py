"""Kernel distance between the features of drawn and real pictures, * 1000 (1801.01401), by clean-fid's estimator.

Unbiased, with the cubic polynomial kernel: the mean over score.kid_subsets random subsets of at most 1000 pictures. The
interval resamples the drawn pictures; pairs of a picture and its own copy are left out of a resample, since they would
raise it. Values near 0 may be negative.
"""

import numpy as np
import pandas as pd

from lethe.scoring import Value, Work

VERSION = 1
NEEDS = ()
METRICS = {"kid": {"unit": "1/1000", "direction": "down", "meaning": "kernel distance to real pictures, eval prompts"}}
RESAMPLES = 1000
BLOCK = 1000


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `kid` of the eval pictures: the distance plus each picture's influence on it (see `fid.measure`)."""
    if work.features is None:
        return {}, {"kid": "no prompt set eval"}
    drawn, real = work.features
    if min(len(drawn), len(real)) < 2:
        return {}, {"kid": "fewer than two pictures"}
    value = 1000 * kernel_distance(drawn, real, work.options["kid_subsets"])
    lo, hi = 1000 * np.quantile(resampled(drawn, real), [0.025, 0.975])
    column = np.full(len(table), np.nan)
    column[(table["set"] == "eval").to_numpy()] = value + 1000 * influence(drawn, real)
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


def resampled(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The distance [at most RESAMPLES] of resampled drawn pictures to all real ones, all pairs at once.

    A resample is a vector w of how often each picture stands in it: sum_{i != j} w_i w_j k_ij / sum_{i != j} w_i w_j.
    """
    n, m = len(drawn), len(real)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    own, cross, within = np.zeros(RESAMPLES), np.zeros(RESAMPLES), 0.0
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        pairs = kernel(drawn[block], drawn)
        pairs[np.arange(block.stop - start), np.arange(start, block.stop)] = 0
        own += ((counts @ pairs.T) * counts[:, block]).sum(1)
        cross += counts[:, block] @ kernel(drawn[block], real).mean(1)
    for start in range(0, m, BLOCK):
        pairs = kernel(real[start : start + BLOCK], real)
        within += pairs.sum() - np.diagonal(pairs, start).sum()
    pairs = n**2 - (counts**2).sum(1)
    usable = pairs > 0  # of few pictures a resample may hold one alone
    return own[usable] / pairs[usable] + within / (m * (m - 1)) - 2 * cross[usable] / n


def influence(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """[N], mean 0: twice a drawn picture's mean kernel with the other drawn ones minus that with the real ones."""
    n, found = len(drawn), []
    for start in range(0, n, BLOCK):
        block = drawn[start : start + BLOCK]
        own = kernel(block, drawn)
        own[np.arange(len(block)), np.arange(start, start + len(block))] = 0
        found.append(2 * (own.sum(1) / (n - 1) - kernel(block, real).mean(1)))
    joined = np.concatenate(found)
    return joined - joined.mean()
