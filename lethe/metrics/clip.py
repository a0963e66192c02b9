"""CLIP similarity of a picture and its prompt: 100 * cosine (2104.08718 without its clipping at 0).

The network is an option (backbones differ between papers: ViT-B/32 in 2412.15341 and ConceptPrune, others elsewhere);
values compare only within one network.
"""

import numpy as np
import pandas as pd

from lethe import judges
from lethe.scoring import Value, Work, mean

VERSION = 1
NEEDS = ()
METRICS = {
    "clip_concept": {
        "unit": "100 cos",
        "direction": "down",
        "meaning": "pictures of prompts that name an erased concept",
    },
    "clip_retain": {"unit": "100 cos", "direction": "up", "meaning": "pictures of the eval prompts: the CLIP score"},
}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `clip` of every picture."""
    of_pictures, of_texts = judges.clip(work.options["clip"], work.device)
    texts = list(dict.fromkeys(table["prompt"]))
    batches = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    embedded = dict(zip(texts, judges.stacked(batches, of_texts), strict=True))
    images = judges.stacked(work.drawn().batches(), of_pictures)
    clip = 100 * (images * np.stack([embedded[text] for text in table["prompt"]])).sum(1)
    shown = (table["set"] == "eval").to_numpy()
    return {"clip": clip}, {
        "clip_concept": mean(clip[work.is_erased(table)]),
        "clip_retain": mean(clip[shown]) if shown.any() else "no prompt set eval",
    }
