"""Another model's pictures of the same prompts and seeds: what drift and change are measured against.

There are two: the distilled model, from which all arms start, and the dense base. Row i of what these functions return
belongs to the i-th manifest row that was asked for.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lethe.files.errors import UserError
from lethe.files.images import Entry, read_manifest
from lethe.measuring import values
from lethe.measuring.values import Value
from lethe.measuring.work import Work

DISTILL, BASE = "distill", "base"
WHOSE = {DISTILL: "the distilled model's", BASE: "the dense base's"}


def samples(work: Work, who: str) -> Path | str:
    """The other model's samples folder, or why there is nothing to compare with."""
    if who == DISTILL:
        found, lack = work.distilled.samples, "--reference is no metrics folder"  # it may be real pictures
    else:
        found, lack = work.originals, "--originals was not given"
    if found is None:
        return f"these are {WHOSE[who]} pictures, or {lack}"
    if who == BASE and work.identities.get("originals") == work.identities.get("samples", ""):
        return f"these are {WHOSE[who]} pictures"
    return found


def compared(work: Work, who: str, network: Callable | str) -> tuple[Path, Callable] | str:
    """The other model's samples folder, and the network that looks at both models' pictures; or why one is not there.

    `network`: as in `lethe.measuring.networks`, it may be the reason why there is none.
    """
    folder = samples(work, who)
    if isinstance(folder, str):
        return folder
    return network if isinstance(network, str) else (folder, network)


def features(work: Work, folder: Path, name: str, network: Callable, entries: Sequence[Entry]) -> np.ndarray:
    """What the network `name` says of the other model's pictures of some rows, [N, D] float64.

    All of the folder's pictures are looked at once, whoever asks (see `Work.reference_features`).
    """
    return work.reference_features(folder, name, network).features[twins(folder, entries)]


def protocol(folder: Path, entries: Sequence[Entry]) -> dict[str, object]:
    """How many pictures of the other model were compared with, and the hash of their bytes, as a distance to real
    pictures tells it (see `lethe.measuring.looking.Real`)."""
    theirs, hashed = read_manifest(folder), hashlib.sha256()
    rows = twins(folder, entries)
    for row in rows:
        hashed.update(bytes.fromhex(theirs[row].sha256))
    return {"n_drawn": len(entries), "n_reference": len(rows), "reference_sha": hashed.hexdigest()}


def known_mean(work: Work, folder: Path, rows: np.ndarray, column: np.ndarray) -> Value | str:
    """Mean of a column over some rows [N] of the manifest, told with the other model's pictures of these rows."""
    found = values.known_mean(column[rows], "no such prompt")
    entries = [entry for entry, wanted in zip(work.images.entries, rows, strict=True) if wanted]
    return found if isinstance(found, str) else dataclasses.replace(found, protocol=protocol(folder, entries))


def twins(folder: Path, entries: Sequence[Entry]) -> list[int]:
    """Rows of a samples folder's manifest with the same prompts and seeds. Raises UserError if one is not there."""
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
