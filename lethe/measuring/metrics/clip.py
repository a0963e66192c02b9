"""CLIP similarity of a picture and its prompt: 100 * cosine (2104.08718 without its clipping at 0).

The network is an option (backbones differ between papers: ViT-B/32 in 2412.15341 and ConceptPrune, others elsewhere);
values compare only within one network.
"""

import numpy as np
import pandas as pd

from lethe.measuring import judges, networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value, known_mean
from lethe.measuring.work import NO_PART, Work

VERSION = 2
NEEDS = ()
METRICS = {
    "clip": {
        "label": "CLIP",
        "unit": "100 cos",
        "direction": "down",
        "digits": 2,
        "rows": "erased",
        "column": "clip",
        "names": "model",
        "place": 10,
        "meaning": "CLIP score of prompts that name an erased concept",
    },
    "clip_near": {
        "label": "CLIP near",
        "unit": "100 cos",
        "direction": "up",
        "digits": 2,
        "rows": "near",
        "column": "clip",
        "names": "model",
        "place": 85,
        "table": ["kept"],
        "meaning": "CLIP score of prompts that name a neighbour of an erased concept",
    },
    "clip_other": {
        "label": "CLIP other",
        "unit": "100 cos",
        "direction": "up",
        "digits": 2,
        "rows": "other",
        "column": "clip",
        "names": "model",
        "place": 95,
        "table": ["kept"],
        "meaning": "CLIP score of other prompts that must stay",
    },
    "clip_retain": {
        "label": "CLIP kept",
        "unit": "100 cos",
        "direction": "up",
        "digits": 2,
        "rows": "eval",
        "column": "clip",
        "names": "model",
        "place": 60,
        "meaning": "CLIP score of the eval prompts",
    },
}


def looks(work: Work) -> dict[str, Look]:
    """Embeddings of all pictures."""
    return networks.clip_look(work)


def protocol(work: Work) -> dict:
    return networks.clip_protocol(work)


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `clip` of every picture."""
    network = networks.clip(work)
    if isinstance(network, str):
        return {}, dict.fromkeys(METRICS, network)
    _, of_texts = network
    texts = list(dict.fromkeys(table["prompt"]))
    batches = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    embedded = dict(zip(texts, judges.stacked(batches, of_texts), strict=True))
    images = work.seen["clip"].astype(np.float64)
    clip = 100 * (images * np.stack([embedded[text] for text in table["prompt"]])).sum(1)
    metrics = {f"clip{end}": known_mean(clip[rows], NO_PART[end]) for end, rows in work.parts(table).items()}
    shown = (table["set"] == "eval").to_numpy()
    return {"clip": clip}, metrics | {"clip_retain": known_mean(clip[shown], "no prompt set eval")}
