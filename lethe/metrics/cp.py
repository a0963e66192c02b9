"""CP score of ConceptPrune (2405.19237), as 2412.15341 reports it: how often erasing made the CLIP similarity fall.

The share of prompts that name an erased concept whose picture has a lower `clip` than the reference's picture of the
same prompt and seed. The reference is the distilled, un-erased model: it scores 0 by definition. A model that draws
other pictures without erasing anything scores about 50. (The published script overwrites the seeds of the prompt file
with 0; here each row's own seed counts.)
"""

import numpy as np
import pandas as pd

from lethe.scoring import Value, Work, mean

VERSION = 1
NEEDS = ("clip",)
METRICS = {
    "cp": {"unit": "%", "direction": "up", "meaning": "prompts whose CLIP similarity fell below the reference's"}
}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `cp`, 1 or 0, of pictures of the erased concepts."""
    erased = work.is_erased(table)
    rows = table[erased]
    fell = (rows["clip"].to_numpy() < work.reference_of(rows, "clip")).astype(float)
    column = np.full(len(table), np.nan)
    column[erased] = fell
    return {"cp": column}, {"cp": mean(100 * fell)}
