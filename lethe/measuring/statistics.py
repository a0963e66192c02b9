"""Statistics of real pictures as clean-fid keeps them, in the place of the pictures: FID needs no more.

A `.npz` holds `mu` [2048] and `sigma` [2048, 2048], mean and covariance of Inception's features. How many pictures they
are of it does not say; how those were resized only its name may: clean-fid calls its own NAME_MODE_SPLIT_RES.npz.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import UserError
from lethe.files.io import sha256
from lethe.measuring import inception

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".npz"
NAMED = re.compile(r".+_(clean|legacy_pytorch|legacy_tensorflow)(_clip_\w+)?_[a-z0-9]+_(na|[0-9]+)(_kid)?\.npz")


@dataclass(frozen=True)
class Statistics:
    """`mean` [D] and `covariance` [D, D], float64; `sha256` of the file; `mode`: what its name tells, or None."""

    path: Path
    mean: np.ndarray
    covariance: np.ndarray
    sha256: str
    mode: str | None

    @property
    def factor(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean, and R [D, D] with R.T @ R the covariance."""
        import numpy as np

        values, vectors = np.linalg.eigh(self.covariance)
        return self.mean, np.sqrt(values.clip(min=0))[:, None] * vectors.T

    @property
    def doubts(self) -> str:
        """What the file leaves open, for a warning."""
        open_ = "how many pictures it is of" + ("" if self.mode else ", nor the mode that they were resized in")
        return f"{self.path.name} does not tell {open_}"


def is_one(path: Path | None) -> bool:
    """Whether a path is that of such a file."""
    return path is not None and path.suffix == SUFFIX


def mode(path: Path) -> str | None:
    """The mode that a name of clean-fid's tells; None of any other name."""
    found = NAMED.fullmatch(path.name.lower())
    return found[1] if found else None


def read(path: Path, features: str | None, flag: str = "--reference") -> Statistics:
    """The statistics in a file that a flag names, to be held against features of section score (`score.features`).

    Raises UserError for features that are none of Inception's, for a file of another mode or network by its name, for
    clean-fid's features of KID, and for one that does not hold mean and covariance of as many finite numbers.
    """
    where, known = f"{flag}: {path}", " or ".join(inception.MODES)
    if not path.is_file():
        raise UserError(f"{where}: no such file")
    if features is not None and features not in inception.MODES:
        raise UserError(f"{where}: statistics of Inception's features; score.features is {features}, set it to {known}")
    named, own = NAMED.fullmatch(path.name.lower()), mode(path)
    if named and (named[2] or named[4]):
        what = "CLIP's features" if named[2] else "the features of KID"
        raise UserError(f"{where}: by its name of {what}; give clean-fid's file of FID (NAME_MODE_SPLIT_RES.npz)")
    if features is not None and own not in (None, features):
        legal = f"set score.features to {own}" if own in inception.MODES else f"only {known} are run here"
        raise UserError(f"{where}: is of mode {own} by its name, score.features is {features}; {legal}")
    mean, covariance = _arrays(where, path)
    return Statistics(path, mean, covariance, sha256(path), own)


def _arrays(where: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as found:
            held: Mapping[str, np.ndarray] = {
                key: np.asarray(found[key], np.float64) for key in ("mu", "sigma") if key in found
            }
            names = ", ".join(found.files)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise UserError(
            f"{where}: not a readable .npz ({' '.join(str(error).split())[:100]}); fetch it again"
        ) from None
    if len(held) < 2:
        raise UserError(f"{where}: holds {names or 'nothing'}; wanted: mu, sigma (clean-fid's statistics for FID)")
    mean, covariance = held["mu"], held["sigma"]
    width = inception.WIDTH
    if mean.shape != (width,) or covariance.shape != (width, width):
        shapes = f"mu {list(mean.shape)}, sigma {list(covariance.shape)}"
        raise UserError(f"{where}: {shapes}; Inception's are [{width}], [{width}, {width}]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{where}: holds NaN or infinity; fetch or make it again")
    if (
        not np.allclose(covariance, covariance.T, atol=1e-6 * np.abs(covariance).max())
        or (np.diag(covariance) < 0).any()
    ):
        raise UserError(f"{where}: sigma is no covariance (symmetric, no negative variance); fetch or make it again")
    return mean, covariance
