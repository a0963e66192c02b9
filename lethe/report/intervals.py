"""95 % intervals over training seeds and pictures.

Every training seed of every arm draws the same prompts from the same picture seeds. Seeds and prompts are therefore
crossed, not nested, and both are resampled together: a replicate draws training seeds with replacement and prompts
with replacement (within each prompt set), and all arms meet the same draws (the pigeonhole bootstrap: Owen, The
pigeonhole bootstrap, Ann. Appl. Stat. 2007). Resampling prompts anew inside each seed would let the spread of the
prompts shrink with the number of seeds, which it does not. Sharing the draws makes the difference of two arms a
paired one. With one training seed an interval speaks of the pictures only.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `lo` and `hi` are None where nothing could be resampled."""

    value: float
    lo: float | None
    hi: float | None

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit; a negative factor turns the interval round."""
        ends = [None if end is None else end * factor for end in (self.lo, self.hi)]
        return Estimate(self.value * factor, *(ends if factor >= 0 else reversed(ends)))


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
        """scale * self / other, draw by draw."""
        return Sample(scale * self.value / other.value, scale * self.replicates / other.replicates, self.prompts)

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


def at_the_end(prompts: int, value: float, full: float) -> Estimate:
    """Wilson's interval for a share that was 0 or `full` in every picture, where resampling can show no spread.

    It counts each prompt once, however many training seeds drew it.
    """
    reach = full * Z**2 / (prompts + Z**2)
    return Estimate(value, 0.0, reach) if value == 0 else Estimate(value, full - reach, full)


def over_seeds(parts: Sequence[Estimate]) -> Estimate:
    """One estimate from one a training seed, for values of a whole picture set (FID, KID).

    The value is the mean. The half-widths add two parts in quadrature: the mean square of the seeds' own half-widths
    (they share prompts and real pictures, so more seeds do not shrink it) and 1.96 standard errors of the mean over
    the seeds. The spread over seeds holds part of the first already, so the interval errs on the wide side. With one
    seed it is that seed's own interval.
    """
    values = [part.value for part in parts]
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return parts[0]
    spread = Z * float(np.std(values, ddof=1)) / math.sqrt(count)
    if any(part.lo is None or part.hi is None for part in parts):
        return Estimate(mean, mean - spread, mean + spread)
    below = float(np.mean([max(0.0, part.value - part.lo) ** 2 for part in parts]))
    above = float(np.mean([max(0.0, part.hi - part.value) ** 2 for part in parts]))
    return Estimate(mean, mean - math.sqrt(below + spread**2), mean + math.sqrt(above + spread**2))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b where no draws are shared: half-widths in quadrature, as if a and b were independent.

    Arms that share prompts and real pictures go up and down together, so this too errs on the wide side.
    """
    value = a.value - b.value
    if None in (a.lo, a.hi, b.lo, b.hi):
        return Estimate(value, None, None)
    below = math.hypot(max(0.0, a.value - a.lo), max(0.0, b.hi - b.value))
    above = math.hypot(max(0.0, a.hi - a.value), max(0.0, b.value - b.lo))
    return Estimate(value, value - below, value + above)
