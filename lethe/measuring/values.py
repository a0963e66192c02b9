"""A metric's value with its uncertainty: means and shares of columns, and any statistic resampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lethe.measuring.intervals import at_the_end

RESAMPLES = 1000
DIGITS = 4  # of scores in files: noise of float32 stays below, so that equal pictures compare equal


@dataclass(frozen=True)
class Value:
    """A metric's value over `n` pictures, with its 95 % interval under resampling of the pictures.

    `protocol`: what the family's own `protocol` does not tell; `warning`: why it says little, a sentence.
    """

    value: float
    n: int
    lo: float
    hi: float
    protocol: Mapping = field(default_factory=dict)
    warning: str | None = None


def mean(values: np.ndarray) -> Value:
    """Mean with its bootstrap interval."""
    return bootstrapped(lambda index: values[index].mean(-1), len(values))


def known_mean(values: np.ndarray, otherwise: str) -> Value | str:
    """Mean of the values that are not NaN; if there is none, the reason given."""
    known = values[~np.isnan(values)]
    return mean(known) if len(known) else otherwise


def known_share(values: np.ndarray, otherwise: str) -> Value | str:
    """Percentage of the values (1 or 0) that are not NaN; if there is none, the reason given. At 0 and 100 %, where
    resampling shows no spread, Wilson's interval."""
    known = values[~np.isnan(values)]
    return share(known) if len(known) else otherwise


def share(values: np.ndarray) -> Value:
    """The same of values that are all known."""
    found = mean(100 * values)
    if found.value not in (0, 100):
        return found
    ends = at_the_end(found.n, found.value, 100.0)
    return dataclasses.replace(found, lo=ends.lo, hi=ends.hi)


def bootstrapped(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> Value:
    """A statistic of `n` pictures with its percentile interval under resampling with replacement, seeded.

    `statistic` maps indices [..., n] to values [...]; resamples without a value (NaN, an empty denominator) are left
    out of the interval.
    """
    again = statistic(np.random.default_rng(0).integers(0, n, (RESAMPLES, n)))
    lo, hi = np.nanquantile(again, [0.025, 0.975])
    return Value(float(statistic(np.arange(n))), n, float(lo), float(hi))


def rounded(values: np.ndarray) -> np.ndarray:
    """Numbers to DIGITS decimals; anything else as it is."""
    found = np.asarray(values)
    return found.astype(np.float64).round(DIGITS) if found.dtype.kind == "f" else values
