"""CMMD (2401.09603): kernel distance between CLIP embeddings of drawn and real pictures, * 1000.

The kernel is Gaussian with sigma 10, on embeddings of length 1. Two things differ from the published numbers. The
network is score.clip; theirs is ViT-L/14 at 336 pixels, resized without keeping the ratio of the sides. And the
estimate is the paper's unbiased one; the released code takes pairs of a picture and itself along, which adds
(1 - mean kernel) / n of each side. Values near 0 may be negative. Unlike FID it assumes no normal distribution, and it
needs fewer pictures.
"""

import numpy as np
import pandas as pd

from lethe.measuring import mmd, networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ()
METRICS = {
    "cmmd": {
        "label": "CMMD",
        "unit": "× 1000",
        "direction": "down",
        "digits": 3,
        "rows": "eval",
        "column": "cmmd",
        "place": 55,
        "meaning": "kernel distance of CLIP embeddings to real pictures, eval prompts",
    }
}
SIGMA, SCALE = 10, 1000
KERNEL = mmd.gaussian(SIGMA)


def looks(work: Work) -> dict[str, Look]:
    """Embeddings of the eval prompts' pictures."""
    return {} if isinstance(work.real_pictures, str) else networks.clip_look(work, ("eval",))


def protocol(work: Work) -> dict:
    return networks.clip_protocol(work) | {"kernel": f"Gaussian, sigma {SIGMA}", "estimator": "unbiased"}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `cmmd` of the eval pictures: the distance plus each picture's influence on it (see `fid.measure`)."""
    network, folder = networks.clip(work), work.real_pictures
    if isinstance(network, str):
        return {}, {"cmmd": network}
    if isinstance(folder, str):
        return {}, {"cmmd": folder}
    shown = (table["set"] == "eval").to_numpy()
    of_pictures, _ = network
    found = work.reference_features(folder, "clip", of_pictures)
    drawn, real = unit(work.seen["clip"][shown]), unit(found.features)
    if min(len(drawn), len(real)) < 2:
        return {}, {"cmmd": "fewer than two pictures"}
    value = SCALE * mmd.distance(drawn, real, KERNEL)
    lo, hi = SCALE * np.quantile(mmd.resampled(drawn, real, KERNEL), [0.025, 0.975])
    column = np.full(len(table), np.nan)
    column[shown] = value + SCALE * mmd.influence(drawn, real, KERNEL)
    own = {"n_drawn": len(drawn), "n_real": len(real), "reference_sha": found.sha256}
    return {"cmmd": column}, {"cmmd": Value(value, len(drawn), float(lo), float(hi), own)}


def unit(embeddings: np.ndarray) -> np.ndarray:
    """float64, of length 1: float32's rounding would show beside a kernel that is nearly 1."""
    found = embeddings.astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
