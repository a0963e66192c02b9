"""What a metric gets: the pictures that are scored, what they were asked to show, and what they are compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lethe.files.images import Images
from lethe.measuring import keeping, looking
from lethe.measuring.looking import Real
from lethe.measuring.reference import Reference
from lethe.measuring.statistics import Statistics
from lethe.texts.rows import Prompt
from lethe.training import pictures

NO_PART = {  # ending of a metric's name (see `Work.parts`) -> why it is absent where there is no such row
    "": "no picture of an erased concept",
    "_near": "no neighbour's prompt",
    "_other": "no other prompt that must stay",
}


@dataclass(frozen=True)
class Work:
    """What is to be scored, and with what.

    `reference`: metrics folder of the distilled model, None if these samples are its; `eval_pictures`: folder of real
    pictures, None if there are none to compare with; `originals`: samples folder of
    the dense base, None if unknown; `identities`: role -> hash of a network, picture folder or result (roles as in the
    recipe of stage score); `cache`: folder of features of real pictures; `seen`: name of a look -> array over the
    manifest's rows (see `lethe.measuring.looking`); `standalone`: without a `reference`, these samples are not it
    either: nothing is compared with one; `lacking`: key of section score -> why what it names is null in `options`
    (`lethe.experiment.absent`); `converted`, filled on the way: folder -> modes of pictures made RGB; `statistics`: of
    real pictures, in the place of `eval_pictures`; `subset`: picture folders may hold a part of their list.
    """

    images: Images
    rows: dict[str, list[Prompt]]
    concepts: dict[str, dict]
    erased: list[str]
    reference: Path | None
    eval_pictures: Path | None
    options: Mapping
    device: torch.device
    originals: Path | None = None
    identities: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    seen: Mapping[str, np.ndarray] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    standalone: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    converted: dict[str, dict[str, int]] = field(default_factory=dict)
    statistics: Statistics | None = None
    subset: bool = False

    def has(self, name: str) -> bool:
        """Whether a prompt set has pictures here."""
        return bool(self.rows.get(name))

    def is_erased(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that ask for an erased concept."""
        return table["set"].isin(self.erased).to_numpy()

    def is_retained(self, table: pd.DataFrame) -> np.ndarray:
        """Rows that must stay as they are (see `lethe.measuring.keeping`)."""
        return keeping.is_retained(table, self.concepts, self.erased)

    def parts(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Rows by the ending of a metric's name: "" of erased concepts, "_near" and "_other" of what must stay."""
        kept, near = self.is_retained(table), keeping.is_near(table, self.concepts, self.erased)
        return {"": self.is_erased(table), "_near": kept & near, "_other": kept & ~near}

    @cached_property
    def distilled(self) -> Reference:
        """The distilled model, which all arms are compared with."""
        return Reference(self.reference, self.standalone)

    @property
    def real_pictures(self) -> Path | str:
        """Folder of the real pictures to compare with, or why nothing is."""
        if not self.has("eval"):
            return "no prompt set eval"
        if self.statistics:
            return f"the real pictures are statistics alone ({self.statistics.path.name}), this needs the pictures"
        flags = "--eval-pictures" if self.reference else "--eval-pictures, or --reference"
        return self.eval_pictures or f"no real pictures to compare with ({flags})"

    def reference_features(self, folder: Path, network_name: str, network: Callable) -> Real:
        """What a network says of a folder of pictures (real ones, or another model's samples), in the folder's order.

        `network_name` finds the network's hash in `identities`; a name that is not there counts as it is, so it must
        tell the weights. The cache answers where the same bytes of pictures and network were met before.
        """
        folder = Path(folder)
        if (folder, network_name) not in self._last:
            if folder not in self._contents:
                self._contents[folder] = pictures.contents(folder, self.subset)
            key = (network_name, self.identities.get(network_name, network_name), self._contents[folder])
            self._last.clear()
            self._last[folder, network_name] = looking.real(folder, key, network, self.cache, self.subset)
        found = self._last[folder, network_name]
        if found.converted:
            self.converted[str(folder)] = found.converted
        return found

    @cached_property
    def _contents(self) -> dict[Path, str]:
        """Hashes of folders that were asked for: each is read once."""
        return {}

    @cached_property
    def _last(self) -> dict[tuple[Path, str], Real]:
        """The last answer alone: families ask for the same one several times in a row, and arrays are large."""
        return {}
