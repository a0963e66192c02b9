"""One pass over a model's pictures, in which every network that some metric wants looks at each of them; and what a
network says of a folder of real pictures, kept under the hash of both.

A picture is read and decoded once, however many networks look at it. What is made RGB is counted here; what is refused
says `lethe.files.decoding`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lethe.files import tensors
from lethe.files.decoding import decoded
from lethe.files.errors import UserError
from lethe.files.images import Entry, Images
from lethe.files.io import digest
from lethe.training import pictures

BATCH = 64
CACHE_VERSION = 2  # to be raised when a network's output changes under the same name and weights


@dataclass(frozen=True)
class Look:
    """A network that a metric wants run on the drawn pictures.

    `network`: list of RGB pictures -> [B, ...] (array or tensor; objects are kept as they are, numbers must be finite).
    `sets`: prompt sets it is wanted for; None: all. `beside`: another samples folder with the same rows; the network
    then gets its pictures of these rows as a second list.
    """

    network: Callable
    sets: tuple[str, ...] | None = None
    beside: Path | None = None

    def joined(self, other: "Look") -> "Look":
        """Two metrics' wish for the same look: for the sets of both."""
        both = None if self.sets is None or other.sets is None else tuple(dict.fromkeys([*self.sets, *other.sets]))
        return Look(self.network, both, self.beside)


@dataclass(frozen=True)
class Seen:
    """What the pass saw: name of a look -> array over the manifest's rows, NaN (None for objects) where it was not
    wanted; the pictures' (width, height); and how many pictures came in another mode than RGB."""

    looks: dict[str, np.ndarray]
    size: tuple[int, int]
    converted: dict[str, int]


@dataclass(frozen=True)
class Real:
    """A network's output [N, ...] float64 on a folder of pictures, the hash of their bytes, modes that were not RGB."""

    features: np.ndarray
    sha256: str
    converted: dict[str, int]


def look(images: Images, looks: Mapping[str, Look]) -> Seen:
    """Every look at every picture of a samples folder that it is wanted for, each picture decoded once.

    Batches hold pictures of one prompt set, and networks get the same list, so that one which remembers its last batch
    (a classifier, asked for probabilities and for features) runs once. Raises UserError for pictures that are missing,
    too many or of several sizes, and for a network that gives NaN.
    """
    images.check_complete()
    found: dict[str, np.ndarray] = {}
    others = {one.beside: Images(one.beside) for one in looks.values() if one.beside}
    rows, first = len(images.entries), None
    modes: Counter[str] = Counter()
    try:
        for start, entries in batches(images.entries):
            batch = []
            for entry in entries:
                picture, mode = decoded(f"{images.path}: {entry.file}", images.read(entry))
                first = first or (entry.file, picture.size)
                _check_size(images, first, (entry.file, picture.size))
                modes[mode] += 1
                batch.append(picture)
            beside = {path: _same(other, entries) for path, other in others.items()}
            for name, one in looks.items():
                if one.sets is None or entries[0].set in one.sets:
                    given = [batch] + ([beside[one.beside]] if one.beside else [])
                    output = as_array(one.network(*given))
                    _check_finite(output, name, [f"{images.path}: {entry.file}" for entry in entries])
                    if name not in found:
                        found[name] = _empty(rows, output)
                    found[name][start : start + len(entries)] = output
    finally:
        for other in others.values():
            other.__exit__()
    modes.pop("RGB", None)
    for name in looks:  # wanted for sets that have no picture
        found.setdefault(name, np.full(rows, np.nan))
    return Seen(found, first[1] if first else (0, 0), dict(modes))


def batches(entries: Sequence[Entry]) -> Iterator[tuple[int, list[Entry]]]:
    """(first row, up to BATCH rows of one prompt set), in the manifest's order."""
    start = 0
    for _, group in groupby(entries, key=lambda entry: entry.set):
        members = list(group)
        for offset in range(0, len(members), BATCH):
            yield start + offset, members[offset : offset + BATCH]
        start += len(members)


def _same(other: Images, entries: Sequence[Entry]) -> list[Image.Image]:
    """Another model's pictures of the same rows."""
    known = {(entry.set, entry.case_number): entry for entry in other.entries}
    made = []
    for entry in entries:
        twin = known.get((entry.set, entry.case_number))
        if twin is None or twin.evaluation_seed != entry.evaluation_seed:
            raise UserError(
                f"{other.path.parent}: has no picture of {entry.set}/{entry.case_number} with seed "
                f"{entry.evaluation_seed}; sample it with the same prompts"
            )
        made.append(decoded(f"{other.path}: {twin.file}", other.read(twin))[0])
    return made


def as_array(output: object) -> np.ndarray:
    """A network's output as an array on the CPU."""
    return output.detach().cpu().numpy() if isinstance(output, torch.Tensor) else np.asarray(output)


def _empty(rows: int, like: np.ndarray) -> np.ndarray:
    if like.dtype.kind in "OUS":
        return np.full((rows, *like.shape[1:]), None, dtype=object)
    return np.full((rows, *like.shape[1:]), np.nan, dtype=like.dtype if like.dtype.kind == "f" else np.float64)


def _check_size(images: Images, first: tuple[str, tuple], own: tuple[str, tuple]) -> None:
    if own[1] != first[1]:
        (one, a), (other, b) = first, own
        raise UserError(
            f"{images.path}: {one} has {a[0]} x {a[1]} pixels, {other} {b[0]} x {b[1]}; pictures of one model must be "
            "of one size: sample again"
        )


def _check_finite(output: np.ndarray, network: str, files: Sequence[str]) -> None:
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        bad = int(np.flatnonzero(~np.isfinite(output).reshape(len(output), -1).all(1))[0])
        raise UserError(
            f"{files[bad]}: network {network} gives NaN or infinity for it; look at the picture, drop or mend it"
        )


def real(folder: Path, key: Sequence[str], network: Callable, cache: Path | None, subset: bool = False) -> Real:
    """A network's output on every picture of a folder (an imagefolder or samples), from the cache if it is there.

    `subset`: the folder may hold a part of its list. `key`: what tells network and pictures from others. Raises
    UserError as `decoded` does, and for NaN.
    """
    path = cache / f"{digest(['features', CACHE_VERSION, *key])}.safetensors" if cache else None
    if path and path.is_file():
        told, kept = tensors.metadata(path), tensors.load(path)["features"]
        if told.get("own") == _hash(kept):
            return Real(kept.double().numpy(), told["sha256"], json.loads(told["converted"]))
        print(f"{path}: is not what was kept; {folder} is looked at again", flush=True)
    found, hashed, made = pictures.read(folder, "", plain=True, subset=subset), hashlib.sha256(), []
    modes: Counter[str] = Counter()
    for start in range(0, len(found), BATCH):
        batch, files = [], []
        for row in range(start, min(start + BATCH, len(found))):
            content = found.read(row)
            hashed.update(hashlib.sha256(content).digest())
            picture, mode = decoded(found.where(row), content)
            modes[mode] += 1
            batch.append(picture)
            files.append(found.where(row))
        output = as_array(network(batch))
        _check_finite(output, key[0], files)
        made.append(output)
    modes.pop("RGB", None)
    features, converted = np.concatenate(made), dict(modes)
    if path:
        told = {"sha256": hashed.hexdigest(), "converted": json.dumps(converted), "folder": str(folder)}
        own = torch.from_numpy(features)
        tensors.save(path, {"features": own}, told | {"own": _hash(own)})
    return Real(features.astype(np.float64), hashed.hexdigest(), converted)


def _hash(features: torch.Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
