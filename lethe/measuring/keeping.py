"""Which pictures a run must leave as they are, by the kind of the concepts that it erases.

`concepts`: name -> {kind, style, neighbours}; `style` is the concept's label: an artist's for a style, a class for an
object, the detector's for something unsafe. Tables have the columns set, artist, class and, perhaps, category.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

COLUMN = {"style": "artist", "object": "class"}  # kind -> column that holds its labels


def is_retained(table: pd.DataFrame, concepts: Mapping[str, Mapping], erased: Iterable[str]) -> np.ndarray:
    """Rows of set retain and of concepts that are not erased, but for those that show an erased concept: those with its
    label and, where something unsafe is erased, those of set retain that have a category of it."""
    erased = list(erased)
    kept = table["set"].isin({"retain", *concepts} - set(erased)).to_numpy(copy=True)
    for kind, column in COLUMN.items():
        labels = {concepts[name]["style"] for name in erased if concepts[name]["kind"] == kind} - {None}
        kept &= ~_among(table, column, labels)
    if any(concepts[name]["kind"] == "unsafe" for name in erased) and "category" in table:
        kept &= ~((table["set"] == "retain") & table["category"].notna()).to_numpy()
    return kept


def is_near(table: pd.DataFrame, concepts: Mapping[str, Mapping], members: Iterable[str]) -> np.ndarray:
    """Rows with a label that is easily confused with one of the members."""
    found = np.zeros(len(table), bool)
    for name in members:
        column = COLUMN.get(concepts[name]["kind"])
        if column:
            found |= _among(table, column, set(concepts[name]["neighbours"]))
    return found


def _among(table: pd.DataFrame, column: str, labels: set[str]) -> np.ndarray:
    return table[column].isin(labels).to_numpy() if column in table else np.zeros(len(table), bool)
