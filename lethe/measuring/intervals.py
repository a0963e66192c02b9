"""95 % intervals over training seeds and pictures.

Every training seed of every arm draws the same prompts from the same picture seeds. Seeds and prompts are therefore
crossed, not nested, and both are resampled together: a replicate draws training seeds with replacement and prompts
with replacement (within each prompt set), and all arms meet the same draws (the pigeonhole bootstrap: Owen, The
pigeonhole bootstrap, Ann. Appl. Stat. 2007). Resampling prompts anew inside each seed would let the spread of the
prompts shrink with the number of seeds, which it does not. Sharing the draws makes the difference of two arms a
paired one. With one training seed an interval speaks of the pictures only.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Sample:
    """A statistic of some prompts on the data (`value`) and on every replicate (`replicates` [B] float64)."""

    value: float
    replicates: np.ndarray
    prompts: int

    def interval(self) -> Estimate:
        """Percentile interval. Replicates without a value (an empty draw) are left out."""
        lo, hi = np.nanpercentile(self.replicates, [2.5, 97.5])
        return Estimate(float(self.value), float(lo), float(hi))

    def __sub__(self, other: "Sample") -> "Sample":
        return Sample(self.value - other.value, self.replicates - other.replicates, self.prompts)

    def ratio(self, other: "Sample", scale: float = 1.0) -> "Sample":
        """scale * (self / other), draw by draw, to itself exactly `scale`; a draw without any of the other has no
        value."""
        below = np.where(other.replicates > 0, other.replicates, np.nan)
        return Sample(scale * (self.value / other.value), scale * (self.replicates / below), self.prompts)

    def affine(self, scale: float, shift: float = 0.0) -> "Sample":
        """scale * self + shift."""
        return Sample(scale * self.value + shift, scale * self.replicates + shift, self.prompts)


class Draws:
    """The resampling that all arms of one comparison share.

    A stratum is a prompt set; its draws depend on its name and size alone, so that another arm, metric or set changes
    no interval.
    """

    def __init__(self, seeds: int, resamples: int):
        self.resamples = resamples
        self.seeds = self._counts("training seeds", seeds)
        self._prompts: dict[tuple[str, int], np.ndarray] = {}

    def _counts(self, name: str, size: int) -> np.ndarray:
        """How often each of `size` items is drawn: [resamples, size] float32."""
        source = np.random.default_rng(zlib.crc32(name.encode()))
        return source.multinomial(size, np.full(size, 1 / size), size=self.resamples).astype(np.float32)

    def prompts(self, name: str, size: int) -> np.ndarray:
        """Draws of the prompts of one stratum: [resamples, size] float32."""
        key = (name, size)
        if key not in self._prompts:
            self._prompts[key] = self._counts(name, size)
        return self._prompts[key]

    def mean(self, strata: Mapping[str, np.ndarray]) -> Sample:
        """Mean over the strata of each stratum's mean over seeds and prompts.

        `strata`: name -> [seeds, prompts] float64, NaN where a picture has no value. One row stands for an arm
        that knows no training seed (base, pruned); its seeds are not resampled.
        """
        values, replicates = [], []
        for name, found in strata.items():
            known = ~np.isnan(found)
            filled = np.where(known, found, 0.0)
            seeds = self.seeds if len(found) == self.seeds.shape[1] else np.ones((self.resamples, 1), np.float32)
            if seeds.shape[1] != len(found):
                raise ValueError(f"{name}: {len(found)} training seeds, the draws have {self.seeds.shape[1]}")
            prompts = self.prompts(name, found.shape[1])
            values.append(filled.sum() / known.sum())
            with np.errstate(invalid="ignore"):  # a replicate may draw no known value: NaN, left out of the interval
                replicates.append(((seeds @ filled) * prompts).sum(1) / ((seeds @ known) * prompts).sum(1))
        return Sample(float(np.mean(values)), np.mean(replicates, axis=0), sum(f.shape[1] for f in strata.values()))


def apart(one: Estimate, other: Estimate) -> Estimate:
    """one - other from their own intervals, as if independent (Newcombe, Stat. Med. 1998, 17:873: square and add).

    For a share that no resample moves off its end: it shares no spread with another, and its doubt is Wilson's.
    """
    value = one.value - other.value
    below = np.hypot(one.value - one.lo, other.hi - other.value)
    above = np.hypot(one.hi - one.value, other.value - other.lo)
    return Estimate(value, float(value - below), float(value + above))


def at_the_end(prompts: int, value: float, full: float) -> Estimate:
    """Wilson's interval for a share that was 0 or `full` in every picture, where resampling can show no spread.

    It counts each prompt once, however many training seeds drew it.
    """
    reach = full * Z**2 / (prompts + Z**2)
    return Estimate(value, 0.0, reach) if value == 0 else Estimate(value, full - reach, full)
