"""Another model's pictures of the same prompts and seeds: what drift and change are measured against.

There are two: the distilled model, from which all arms start, and the dense base. Row i of what these functions return
belongs to the i-th manifest row that was asked for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lethe.errors import UserError
from lethe.images import Entry, read_manifest

if TYPE_CHECKING:
    from lethe.scoring import Work

DISTILL, BASE = "distill", "base"
WHOSE = {DISTILL: "the distilled model's", BASE: "the dense base's"}


def samples(work: "Work", who: str) -> Path | str:
    """The other model's samples folder, or why there is nothing to compare with."""
    if who == DISTILL:
        found, flag = work.reference_samples, "--reference"
    else:
        found, flag = work.originals, "--originals"
    if found is None:
        return f"these are {WHOSE[who]} pictures, or {flag} was not given"
    if who == BASE and work.identities.get("originals") == work.identities.get("samples", ""):
        return f"these are {WHOSE[who]} pictures"
    return found


def features(
    work: "Work", who: str, folder: Path, name: str, network: Callable, entries: Sequence[Entry]
) -> np.ndarray:
    """What the network `name` says of the other model's pictures of some rows, [N, D] float64.

    All of the folder's pictures are looked at once, whoever asks (see `Work.reference_features`).
    """
    role = "originals" if who == BASE else "reference_samples"
    return work.reference_features(role, folder, name, network).features[twins(folder, entries)]


def twins(folder: Path, entries: Sequence[Entry]) -> list[int]:
    """Manifest rows of a samples folder with the same prompts and seeds. Raises UserError if one is not there."""
    known = {(e.set, e.case_number, e.prompt, e.evaluation_seed): row for row, e in enumerate(read_manifest(folder))}
    found = []
    for entry in entries:
        row = known.get((entry.set, entry.case_number, entry.prompt, entry.evaluation_seed))
        if row is None:
            raise UserError(
                f"{folder}: has no picture of {entry.set}/{entry.case_number} with this prompt and seed "
                f"{entry.evaluation_seed}; sample it with the same prompts"
            )
        found.append(row)
    return found
