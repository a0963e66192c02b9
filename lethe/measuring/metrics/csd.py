"""Similarity to a style (2404.01292): 100 * cosine of a picture's style embedding and the prototype of its style.

The prototype is the normalised mean embedding of real pictures: those of the concept; and for a style that must stay,
those of a concept with its label, or else the eval pictures whose prompts (by `file_name`) have it as their artist.
2412.15341 does not tell its averaging; this one is ours. The distilled model is put at 100, as in the paper's table.
Values compare only within one descriptor: the published CSD weights do not give their paper's numbers.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.measuring import judges
from lethe.measuring.looking import Look
from lethe.measuring.values import Value, bootstrapped, mean, rounded
from lethe.measuring.work import NO_PART, Work
from lethe.training import pictures

VERSION = 2
NEEDS = ()
METRICS = {
    "csd": {
        "label": "CSD",
        "unit": "distill = 100",
        "direction": "down",
        "digits": 1,
        "rows": "erased",
        "column": "csd",
        "over": "reference",
        "place": 30,
        "table": ["style"],
        "meaning": "similarity to the style of the erased concept",
    },
    "csd_near": {
        "label": "CSD near",
        "unit": "distill = 100",
        "direction": "up",
        "digits": 1,
        "rows": "near",
        "column": "csd",
        "over": "reference",
        "place": 87,
        "table": ["kept"],
        "meaning": "similarity of neighbours' pictures to their own style",
    },
    "csd_other": {
        "label": "CSD other",
        "unit": "distill = 100",
        "direction": "up",
        "digits": 1,
        "rows": "other",
        "column": "csd",
        "over": "reference",
        "place": 97,
        "table": ["kept"],
        "meaning": "similarity of other pictures that must stay to their own style",
    },
    "csd_raw": {
        "label": "CSD raw",
        "unit": "100 cos",
        "direction": "down",
        "digits": 2,
        "rows": "erased",
        "column": "csd",
        "place": 35,
        "table": ["style"],
        "hidden": True,
        "meaning": "the same as measured",
    },
}


NO_PROTOTYPE = "no real pictures to make a prototype of (concepts.NAME.pictures, or pictures.eval by artist)"


def looks(work: Work) -> dict[str, Look]:
    """Embeddings of pictures that may have a prototype."""
    if not work.options["descriptor"]:
        return {}
    kept = ["retain", *(name for name in work.concepts if name not in work.erased)] if by_label(work) else []
    own = [name for name, concept in work.concepts.items() if concept["pictures"]]
    sets = tuple(name for name in dict.fromkeys([*own, *kept]) if work.has(name))
    return {"descriptor": Look(judges.descriptor(work.options["descriptor"], work.device), sets)} if sets else {}


def protocol(work: Work) -> dict:
    return {"descriptor": work.options["descriptor"]}


def by_label(work: Work) -> dict[str, tuple[Path, list[int] | None]]:
    """Style -> folder of real pictures, and which of them are of that style (None: all)."""
    found: dict[str, tuple[Path, list[int] | None]] = {}
    if work.eval_pictures and work.has("eval"):
        files = pictures.read(work.eval_pictures, prompt="", plain=True, subset=work.subset).files
        place = {name: row for row, name in enumerate(files)}
        members: dict[str, list[int]] = {}
        for row in work.rows["eval"]:
            if row.artist and row.file_name in place:
                members.setdefault(row.artist, []).append(place[row.file_name])
        found = {artist: (work.eval_pictures, rows) for artist, rows in members.items()}
    own = [concept for concept in work.concepts.values() if concept["kind"] == "style" and concept["pictures"]]
    return found | {concept["style"]: (Path(concept["pictures"]), None) for concept in own}


def compared(work: Work, table: pd.DataFrame) -> list[tuple[np.ndarray, Path, list[int] | None]]:
    """Which rows are compared with which pictures: of each concept, then of each style that must stay."""
    found = [
        ((table["set"] == name).to_numpy(), Path(concept["pictures"]), None)
        for name, concept in work.concepts.items()
        if concept["pictures"] and (table["set"] == name).any()
    ]
    left = work.is_retained(table) & ~np.any([rows for rows, _, _ in found], axis=0)
    of_styles = [(left & (table["artist"] == label).to_numpy(), *own) for label, own in by_label(work).items()]
    return found + [one for one in of_styles if one[0].any()]


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `csd` of the pictures whose style has a prototype."""
    if not work.options["descriptor"]:
        return {}, dict.fromkeys(METRICS, work.lacking.get("descriptor", "no descriptor (score.descriptor)"))
    network = judges.descriptor(work.options["descriptor"], work.device)
    column = np.full(len(table), np.nan)
    prototypes: dict[str, dict] = {}
    for rows, folder, members in compared(work, table):
        real = work.reference_features(folder, "descriptor", network)
        known = real.features if members is None else real.features[members]
        for label in table["artist"][rows].dropna().unique():
            prototypes[label] = {"n_real": len(known), "reference_sha": real.sha256}
        prototype = known.mean(0)
        drawn = work.seen["descriptor"][rows].astype(np.float64)
        column[rows] = 100 * drawn @ (prototype / np.linalg.norm(prototype))
    column = rounded(column)
    metrics: dict[str, Value | str] = {}
    table = table.assign(csd=column)
    for end, rows in work.parts(table).items():
        known = rows & ~np.isnan(column)
        if not known.any() or (not end and not known[rows].all()):
            metrics[f"csd{end}"] = NO_PROTOTYPE if rows.any() else NO_PART[end]
            continue
        raw = column[known]
        metrics[f"csd{end}"] = work.distilled.missing or _ratio(raw, work.distilled.of(table[known], "csd"))
        metrics |= {} if end else {"csd_raw": mean(raw)}
    metrics.setdefault("csd_raw", metrics["csd"])
    told = {"prototypes": prototypes}
    return {"csd": column}, {
        name: own if isinstance(own, str) else replace(own, protocol=told) for name, own in metrics.items()
    }


def _ratio(raw: np.ndarray, reference: np.ndarray) -> Value | str:
    """100 * mean(raw) / mean(reference) over the same prompts, resampled together."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrapped(lambda index: 100 * raw[index].mean(-1) / reference[index].mean(-1), len(raw))
    if reference.mean() <= 0 or not np.isfinite([found.value, found.lo, found.hi]).all():
        return "the reference's similarity is not above 0"
    return found
