"""The squared kernel distance of two sets (maximum mean discrepancy; Gretton et al., A kernel two-sample test, 2012),
without bias, with its uncertainty.

Features are float64 [N, D]; a kernel maps [N, D] and [M, D] to [N, M]. Pairs of a picture and itself are left out
(their Lemma 6), so that the expectation does not depend on N; values near 0 may be negative. Kernels are taken in
blocks of rows: memory grows with N, not with N squared.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
BLOCK = 1000

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|**2 / (2 sigma**2))."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        return np.exp(-np.maximum(squares, 0) / (2 * sigma**2))

    return kernel


def distance(drawn: np.ndarray, real: np.ndarray, kernel: Kernel) -> float:
    """Of two independent sets (their eq. 3): mean k(x, x') + mean k(y, y') - 2 mean k(x, y)."""
    n, m = len(drawn), len(real)
    own, cross = _sums(drawn, drawn, kernel, True), _sums(drawn, real, kernel, False)
    return own.sum() / (n * (n - 1)) + _within(real, kernel) - 2 * cross.sum() / (n * m)


def influence(drawn: np.ndarray, real: np.ndarray, kernel: Kernel) -> np.ndarray:
    """[N], mean 0: twice a drawn picture's mean kernel with the other drawn ones minus that with the real ones.

    The derivative of `distance` by the weight of each drawn picture, times N (the infinitesimal jackknife).
    """
    n, m = len(drawn), len(real)
    found = 2 * (_sums(drawn, drawn, kernel, True) / (n - 1) - _sums(drawn, real, kernel, False) / m)
    return found - found.mean()


def resampled(drawn: np.ndarray, real: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The distance [at most RESAMPLES] of resampled drawn pictures to all real ones, seeded.

    A resample is a vector w of how often each picture stands in it: sum_{i != j} w_i w_j k_ij / sum_{i != j} w_i w_j.
    So a picture and its own copy are no pair: they would raise it.
    """
    n, within = len(drawn), _within(real, kernel)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    own, cross = np.zeros(RESAMPLES), counts @ (_sums(drawn, real, kernel, False) / len(real))
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        own += ((counts @ _pairs(drawn, drawn, block, kernel, True).T) * counts[:, block]).sum(1)
    pairs = n**2 - (counts**2).sum(1)
    usable = pairs > 0  # of few pictures a resample may hold one alone
    return own[usable] / pairs[usable] + within - 2 * cross[usable] / n


def paired(ours: np.ndarray, theirs: np.ndarray, kernel: Kernel) -> tuple[float, np.ndarray]:
    """The distance of two sets whose i-th members belong together (the same prompt and seed), and each pair's
    influence on it [N], mean 0.

    Their eq. 4: the mean over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i). The two of a pair may be
    alike, since they are not compared: equal sets are at 0, where `distance` would be below.
    """
    n = len(ours)
    found = _sums(ours, ours, kernel, True) + _sums(theirs, theirs, kernel, True)
    found -= _sums(ours, theirs, kernel, True) + _sums(theirs, ours, kernel, True)
    means = found / (n - 1)
    return float(means.mean()), 2 * (means - means.mean())


def _within(real: np.ndarray, kernel: Kernel) -> float:
    return _sums(real, real, kernel, True).sum() / (len(real) * (len(real) - 1))


def _sums(x: np.ndarray, y: np.ndarray, kernel: Kernel, others: bool) -> np.ndarray:
    """[N]: of each x_i the sum of k(x_i, y_j) over all j, or over all others (j != i)."""
    starts = range(0, len(x), BLOCK)
    blocks = [slice(start, min(start + BLOCK, len(x))) for start in starts]
    return np.concatenate([_pairs(x, y, block, kernel, others).sum(1) for block in blocks])


def _pairs(x: np.ndarray, y: np.ndarray, block: slice, kernel: Kernel, others: bool) -> np.ndarray:
    """k(x_i, y_j) [block, M]; 0 at j = i if only others count."""
    found = kernel(x[block], y)
    if others:
        found[np.arange(block.stop - block.start), np.arange(block.start, block.stop)] = 0
    return found
