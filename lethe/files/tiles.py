"""Finished tiles of a run that draws: a tar each, its checksum in its name, so that a run that was stopped goes on.

A tile whose bytes are not those that its name tells of (a disk that lost power, a hand that changed it) is passed over
with a line, and drawn again.
"""

import contextlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lethe.files.images import write_tar
from lethe.files.io import sha256

NAME = re.compile(r"(.+)-(\d+)-([0-9a-f]{16})\.tar")


@dataclass(frozen=True)
class Tiles:
    """Those of one recipe, in a folder that others may share. A tile is called by its first row."""

    folder: Path
    recipe: str

    def found(self) -> dict[int, Path]:
        """First row -> file, of tiles that are whole; says which are not."""
        whole = {}
        for path in sorted(self.folder.glob(f"{self.recipe}-*.tar")):
            name = NAME.fullmatch(path.name)
            if name and name[1] == self.recipe and name[3] == sha256(path)[:16]:
                whole[int(name[2])] = path
            else:
                print(f"{path}: is not what was saved; that tile is drawn again", flush=True)
        return whole

    def filled(self, wanted: Mapping[int, list], draw: Callable[[list[list]], Generator]) -> list[Path]:
        """A file for each tile, in order. `wanted`: first row -> rows. `draw` is given the tiles that are missing, and
        yields the members of each; it is run to its end even if none is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = self.found()
        missing = {start: tile for start, tile in wanted.items() if start not in files}
        with contextlib.closing(draw([*missing.values()])) as drawn:
            for number, (start, members) in enumerate(zip(missing, drawn, strict=True), 1):
                files[start] = self.save(start, members)
                if number * 10 // len(missing) > (number - 1) * 10 // len(missing):
                    print(f"{len(files)} of {len(wanted)} tiles", flush=True)
        return [files[start] for start in wanted]

    def save(self, start: int, members: Iterable[tuple[str, bytes]]) -> Path:
        """Writes a tile beside its place and renames it. A full disk raises OSError, and the others stay."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{self.recipe}-{start:06d}.drawn"
        try:
            write_tar(part, members)
            return part.rename(part.with_name(f"{self.recipe}-{start:06d}-{sha256(part)[:16]}.tar"))
        finally:
            part.unlink(missing_ok=True)

    def forget(self) -> None:
        """Removes what belongs to this recipe, whose result stands; and the folder, if nothing else is in it."""
        for path in self.folder.glob(f"{self.recipe}-*"):
            path.unlink()
        with contextlib.suppress(OSError):  # tiles of another run may lie there
            self.folder.rmdir()
