"""The model that all arms are compared with, the distilled one: its scores of the same prompts, and its pictures."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.files.errors import UserError
from lethe.files.io import checked, read_meta

KEYS = ["set", "case_number"]


@dataclass(frozen=True)
class Reference:
    """`folder`: its metrics; None if the samples that are scored are its own, or, `standalone`, if there is none."""

    folder: Path | None
    standalone: bool = False

    @property
    def missing(self) -> str | None:
        """Why nothing is compared with it, if nothing is."""
        alone = self.standalone and self.folder is None
        return "no scores of another model to compare with (--reference)" if alone else None

    @cached_property
    def scores(self) -> pd.DataFrame | None:
        """Its scores.csv by set and case_number; None if these samples are its own."""
        if self.folder is None:
            return None
        checked(self.folder, "scores.csv")
        table = pd.read_csv(self.folder / "scores.csv", keep_default_na=False, na_values=[""])
        return table.set_index(KEYS)

    @cached_property
    def samples(self) -> Path | None:
        """Its samples folder, as its meta.json tells; None if these samples are its own."""
        return None if self.folder is None else Path(read_meta(self.folder)["parents"]["samples"]["folder"])

    def of(self, table: pd.DataFrame, column: str) -> np.ndarray:
        """Its values for the prompts of a table: the table's own, if these samples are its own.

        Raises UserError if it lacks one.
        """
        if self.scores is None:
            return table[column].to_numpy(float)
        if column not in self.scores:
            raise UserError(f"{self.folder}: its scores have no column {column}; score the reference again with it")
        found = self.scores[column].reindex(pd.MultiIndex.from_frame(table[KEYS])).to_numpy(float)
        if np.isnan(found).any():
            lost = table[np.isnan(found)].iloc[0]
            raise UserError(
                f"{self.folder}: has no {column} of {lost['set']}/{lost['case_number']}; score the reference with "
                "the same prompts"
            )
        return found
