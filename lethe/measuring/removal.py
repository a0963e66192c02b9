"""How many of the pictures that showed an erased concept show it no more, over all prompts and by their categories."""

import dataclasses

import numpy as np
import pandas as pd

from lethe.measuring.intervals import at_the_end
from lethe.measuring.values import Value, bootstrapped


def categories(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Category -> which rows are of it, in the order in which they first occur."""
    if "category" not in rows:
        return {}
    told = [
        [part.strip() for part in str(text).split(",") if part.strip()] if isinstance(text, str) else []
        for text in rows["category"]
    ]
    names = dict.fromkeys(name for parts in told for name in parts)
    return {name: np.array([name in parts for parts in told]) for name in names}


def removed(after: np.ndarray, before: np.ndarray, who: str) -> Value | str:
    """100 * (1 - after / before), both resampled together; pictures that no judge knows are left out.

    Where all are gone, resampling shows no spread: Wilson's interval over those that there were.
    """
    known = ~np.isnan(after) & ~np.isnan(before)
    after, before = after[known], before[known]
    if not before.sum():
        return f"no picture of the {who} shows an erased concept"
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrapped(lambda index: 100 - 100 * _over(after[index].sum(-1), before[index].sum(-1)), len(after))
    if after.any():
        return found
    ends = at_the_end(int(before.sum()), 100.0, 100.0)
    return dataclasses.replace(found, lo=ends.lo, hi=ends.hi)


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / whole, np.nan)
