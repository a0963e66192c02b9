"""CP score of ConceptPrune (2405.19237), as 2412.15341 reports it: how often erasing made the CLIP similarity fall.

The share of prompts that name an erased concept whose picture has a lower `clip` than the reference's picture of the
same prompt and seed; and the same share of prompts that must stay. The reference is the distilled, un-erased model: it
scores 0 by definition. A model that draws other pictures without erasing anything scores about 50.

Each picture is drawn with its row's own seed. The published script reads the file's seeds and then draws every row with
seed 0, so that all pictures begin with the same noise. That variant is a matter of the prompt file, since pictures have
to be drawn anew for it: `python -m lethe.texts.prompts prompts/own/monet.csv --seeds 0 --out
prompts/own/monet_seed0.csv` writes the same rows with seed 0, to be named in concepts.monet.prompts (or as a concept of
its own).
"""

import numpy as np
import pandas as pd

from lethe.measuring import networks
from lethe.measuring.values import Value, known_mean, known_share
from lethe.measuring.work import NO_PART, Work

VERSION = 2
NEEDS = ("clip",)
METRICS = {
    "cp": {
        "label": "CP",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "erased",
        "column": "cp",
        "share": 1,
        "of_reference": 0,
        "place": 20,
        "meaning": "prompts of erased concepts whose CLIP score fell below that of distill's picture",
    },
    "cp_near": {
        "label": "CP near",
        "unit": "%",
        "direction": "down",
        "digits": 1,
        "rows": "near",
        "column": "cp",
        "share": 1,
        "of_reference": 0,
        "place": 86,
        "table": ["kept"],
        "meaning": "prompts of neighbours whose CLIP score fell below that of distill's picture",
    },
    "cp_other": {
        "label": "CP other",
        "unit": "%",
        "direction": "down",
        "digits": 1,
        "rows": "other",
        "column": "cp",
        "share": 1,
        "of_reference": 0,
        "place": 96,
        "table": ["kept"],
        "meaning": "other prompts that must stay whose CLIP score fell below that of distill's picture",
    },
}


def protocol(work: Work) -> dict:
    return networks.clip_protocol(work)


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `cp`, 1 or 0, of pictures of the erased concepts and of what must stay."""
    column, parts = np.full(len(table), np.nan), work.parts(table)
    network = None if "clip" in table else networks.clip(work)
    why = network if isinstance(network, str) else work.distilled.missing
    if why:
        return {"cp": column}, dict.fromkeys(METRICS, why)
    known = np.any(list(parts.values()), axis=0)
    rows = table[known]
    column[known] = rows["clip"].to_numpy() < work.distilled.of(rows, "clip")
    # a share of 0 that is so by definition has no doubt
    share = known_share if work.reference else lambda values, otherwise: known_mean(100 * values, otherwise)
    return {"cp": column}, {f"cp{end}": share(column[own], NO_PART[end]) for end, own in parts.items()}
