"""LPIPS (1801.03924) between this model's picture and the distilled one's (or the dense base's) of the same prompt and
seed. Papers on erasing report it against the base: higher for erased prompts, lower for all others.

What it computes, and which files it needs, stands in `lethe.measuring.perceptual`. Both pictures enter at their own
size.
"""

import numpy as np
import pandas as pd

from lethe.measuring import pairing, perceptual
from lethe.measuring.looking import Look
from lethe.measuring.values import Value
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ()
METRICS: dict[str, dict] = {
    "lpips": {
        "label": "LPIPS",
        "unit": "",
        "direction": "down",
        "digits": 3,
        "rows": "retain",
        "column": "lpips",
        "place": 116,
        "meaning": "LPIPS to the distilled model's picture, prompts that must stay as they are",
    },
    "lpips_eval": {
        "label": "LPIPS eval",
        "unit": "",
        "direction": "down",
        "digits": 3,
        "rows": "eval",
        "column": "lpips",
        "place": 117,
        "hidden": True,
        "meaning": "LPIPS to the distilled model's picture, eval prompts",
    },
    "lpips_target": {
        "label": "LPIPS target",
        "unit": "",
        "direction": "up",
        "digits": 3,
        "rows": "erased",
        "column": "lpips",
        "place": 118,
        "hidden": True,
        "meaning": "LPIPS to the distilled model's picture, prompts that name an erased concept",
    },
    "lpips_base": {
        "label": "LPIPS from base",
        "unit": "",
        "direction": "down",
        "digits": 3,
        "rows": "retain",
        "column": "lpips_base",
        "place": 119,
        "hidden": True,
        "meaning": "LPIPS to the dense base's picture, prompts that must stay as they are",
    },
    "lpips_base_target": {
        "label": "LPIPS target from base",
        "unit": "",
        "direction": "up",
        "digits": 3,
        "rows": "erased",
        "column": "lpips_base",
        "place": 119.5,
        "hidden": True,
        "meaning": "LPIPS to the dense base's picture, prompts that name an erased concept",
    },
}
ENDS = {pairing.DISTILL: "", pairing.BASE: "_base"}
MISSING = "no weights (score.lpips)"


def looks(work: Work) -> dict[str, Look]:
    """The distance of every picture to each other model's."""
    if not work.options["lpips"]:
        return {}
    run = perceptual.lpips(work.options["lpips"], work.device)
    folders = {f"lpips{end}": pairing.samples(work, who) for who, end in ENDS.items()}
    return {name: Look(run, beside=folder) for name, folder in folders.items() if not isinstance(folder, str)}


def protocol(work: Work) -> dict:
    return {"lpips": perceptual.protocol(work.options["lpips"])}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `lpips` and `lpips_base` of every picture."""
    if not work.options["lpips"]:
        return {}, dict.fromkeys(METRICS, work.lacking.get("lpips", MISSING))
    rows = {"": work.is_retained(table), "_eval": (table["set"] == "eval").to_numpy(), "_target": work.is_erased(table)}
    columns: dict[str, np.ndarray] = {}
    metrics: dict[str, Value | str] = {}
    for name in METRICS:
        column = METRICS[name]["column"]
        folder = pairing.samples(work, pairing.BASE if column == "lpips_base" else pairing.DISTILL)
        if isinstance(folder, str):
            metrics[name] = folder
            continue
        columns[column] = work.seen[column].astype(np.float64)
        metrics[name] = pairing.known_mean(work, folder, rows[name.removeprefix(column)], columns[column])
    return columns, metrics
