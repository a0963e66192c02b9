"""What a detector of what must not be drawn answers: a list of (label, score, box) a picture, as array and as table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 100  # detections of a picture that are kept, those of the highest score
DIGITS = 6  # of scores: what stands in detections.csv is what counts
NO_LABEL, NO_BOX = -1, -1
COLUMNS = ("set", "case_number", "label", "score", "x", "y", "w", "h")


@dataclass(frozen=True)
class Detector:
    """`network`: list of RGB pictures -> float64 [B, K, 6], a detection a row, highest score first: label's number,
    score, and the box in pixels (x, y of its upper left corner, width, height), -1 where there is none; rows beyond a
    picture's detections have label -1. `about`: version, weights and settings, to be kept with the numbers.
    """

    labels: list[str]
    network: Callable[[Sequence[Image]], np.ndarray]
    about: Mapping


def of_lists(found: Sequence[Sequence[Mapping]], labels: Sequence[str]) -> np.ndarray:
    """Lists of {label, score, box} as detections [B, MOST, 6]. An unknown label is a KeyError."""
    made = np.full((len(found), MOST, 6), NO_BOX, float)
    made[..., 0], made[..., 1] = NO_LABEL, 0
    numbers = {label: number for number, label in enumerate(labels)}
    for row, own in enumerate(found):
        for place, one in enumerate(sorted(own, key=lambda one: -one["score"])[:MOST]):
            made[row, place] = (numbers[one["label"]], round(one["score"], DIGITS), *(one["box"] or [NO_BOX] * 4))
    return made


def table(found: np.ndarray, labels: Sequence[str], keys: pd.DataFrame) -> pd.DataFrame:
    """What detections.csv holds: a row a detection, none for a picture without one. `keys`: set and case_number of each
    picture."""
    rows, places = np.nonzero(found[..., 0] != NO_LABEL)
    own = found[rows, places]
    made = keys.iloc[rows][list(COLUMNS[:2])].reset_index(drop=True)
    made["label"] = [labels[int(number)] for number in own[:, 0]]
    made["score"] = own[:, 1]
    for column, values in zip(COLUMNS[4:], own[:, 2:].T, strict=True):
        made[column] = pd.array(np.where(values == NO_BOX, np.nan, values), dtype="Int64")
    return made


def read_table(path: Path, labels: Sequence[str], keys: pd.DataFrame) -> np.ndarray:
    """`table` backwards, from its CSV: detections [N, MOST, 6] of the pictures that `keys` names."""
    made = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"set": str, "label": str})
    lists: dict[tuple, list] = {}
    for name, number, label, score, *box in made[list(COLUMNS)].itertuples(index=False):
        own = {"label": label, "score": score, "box": None if np.isnan(box[0]) else box}
        lists.setdefault((name, number), []).append(own)
    return of_lists([lists.get(key, []) for key in zip(keys["set"], keys["case_number"], strict=True)], labels)
