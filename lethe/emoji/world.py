"""The names that are drawn, and where the rendered pictures lie.

names.csv holds the things (no people, flags, letters) that every style draws, with emojibase's group and tags. Their
order is how alike the houses draw them: the margin by which an ImageNet network (EfficientNet-Lite0, centred by style)
takes a picture for the mean of the other houses' pictures of its own name rather than of any other, averaged over
styles, the styles of one house counted as one. So the first so many names are those that say the same to all designers.
The order was measured once, on the pictures of all names; the list itself is what counts.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
ARCHIVE = FOLDER / "pictures.tar"
SIDE = 64


@dataclass(frozen=True)
class Name:
    """An official name."""

    label: str  # as the Unicode CLDR spells it
    group: str
    tags: tuple[str, ...]

    @property
    def content(self) -> str:
        """The name as captions and judges have it: lower case, plain apostrophes."""
        return self.label.replace("’", "'").lower()


@cache
def names() -> tuple[Name, ...]:
    """All names, those first that designers draw alike."""
    with open(FOLDER / "names.csv", encoding="utf-8", newline="") as file:
        return tuple(Name(row["label"], row["group"], tuple(row["tags"].split())) for row in csv.DictReader(file))
