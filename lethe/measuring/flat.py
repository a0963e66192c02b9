"""Pictures that other code drew, one file a prompt in a folder, as a samples folder with a manifest.

The layout is that of the scripts of ESD, UCE, MACE and SPM: `{case_number}_{k}.png`, k counting the pictures of one
prompt from 0, or `{case_number}.png`. Files are taken as they are, byte for byte; that they were drawn from the prompt
file's prompts and seeds is the user's word.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lethe.files import io
from lethe.files.errors import UserError
from lethe.files.images import MANIFEST, TAR, Entry, write_manifest, write_tar
from lethe.params.recipe import PICTURES, of_file, of_folder, recipe
from lethe.stage.record import Recorder
from lethe.texts.rows import Prompt

VERSION = 1
STAGE = "pictures"  # of the manifest's meta.json: no stage drew these
NAME = re.compile(r"(\d+)(?:_(\d+))?")
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Flat:
    """Pictures found in the folder of each prompt set, one for each row, to be written as a samples folder."""

    folders: Mapping[str, Path]
    files: Mapping[str, Path]
    sets: Mapping[str, Sequence[Prompt]]
    number: int | None
    found: Mapping[str, Sequence[Path]]

    @property
    def sources(self) -> dict[str, Path]:
        """Role -> folder or file."""
        pictures = {f"pictures:{name}": self.folders[name] for name in self.sets}
        return pictures | {f"prompts:{name}": self.files[name] for name in self.sets}

    @property
    def options(self) -> dict[str, int | None]:
        return {"sample_number": self.number}

    @property
    def count(self) -> int:
        return sum(map(len, self.sets.values()))

    def recipe(self) -> str:
        """Identity of the samples folder: the content of the folders and of the prompt files."""
        kinds = {role: of_file if role.startswith("prompts:") else of_folder for role in self.sources}
        return recipe(STAGE, VERSION, self.options, {role: kinds[role](path) for role, path in self.sources.items()})

    def rows(self) -> Iterator[tuple[str, Prompt, Path]]:
        """Set, prompt and file of each picture, in the prompt files' order."""
        for name, rows in self.sets.items():
            for row, path in zip(rows, self.found[name], strict=True):
                yield name, row, path

    def write(self, out: Path) -> str:
        """Makes the samples folder, unless it stands there; says so."""
        own, entries = self.recipe(), []
        if io.is_finished(out, own):
            return f"{out}: finished, recipe {own}"
        recorder = Recorder(STAGE, VERSION, own, self.options, self.sources)

        def members() -> Iterator[tuple[str, bytes]]:
            for name, row, path in self.rows():
                file, content = f"{name}/{row.case_number}{path.suffix.lower()}", path.read_bytes()
                sha = hashlib.sha256(content).hexdigest()
                entries.append(Entry(name, row.case_number, row.prompt, row.seed, file, sha))
                yield file, content

        with io.result_folder(out) as part:
            write_tar(part / TAR, members())
            write_manifest(part / MANIFEST, entries)
            recorder.write(part, pictures=self.count)
        return f"{out}: {self.count} pictures, copied"


def gather(
    folders: Mapping[str, Path], files: Mapping[str, Path], sets: Mapping[str, Sequence[Prompt]], number: int | None
) -> Flat:
    """Finds and checks the pictures of each prompt set; reads no more than their headers. See `find`."""
    found = {name: find(folders[name], rows, number, files[name]) for name, rows in sets.items()}
    check_sizes(path for pictures in found.values() for path in pictures)
    return Flat(folders, files, sets, number, found)


def find(folder: Path, rows: Sequence[Prompt], number: int | None, source: Path) -> list[Path]:
    """The picture of each row. `number`: of several pictures of a prompt the one with this k; None: there is but one.

    Raises UserError with their names for pictures that are missing, that no row of `source` asks for, or of which two
    are one row's. Files of other kinds in the folder are passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--pictures: {folder}: no such folder")
    wanted = {row.case_number for row in rows}
    found: dict[int, Path] = {}
    surplus, several = [], []
    for path in sorted(folder.iterdir(), key=_by_number):
        if path.suffix.lower() not in PICTURES or path.name[0] == ".":
            continue
        name = NAME.fullmatch(path.stem)
        case, k = (int(name[1]), int(name[2] or 0)) if name else (None, 0)
        if case is None or case not in wanted:
            surplus.append(path.name)
        elif k != (number or 0):
            several.append(path.name)
        elif case in found:
            raise UserError(f"{folder}: {found[case].name} and {path.name} are both of case_number {case}; keep one")
        else:
            found[case] = path
    ending = f"_{number}" if number else ""
    missing = [f"{row.case_number}{ending}.png" for row in rows if row.case_number not in found]
    if missing:
        raise UserError(
            f"{folder}: lacks {len(missing)} of the {len(rows)} pictures of {source}, named by case_number: "
            f"{named(missing)}; draw them, or give the prompt file they were drawn from"
        )
    if surplus:
        raise UserError(
            f"{folder}: holds {len(surplus)} pictures that no case_number of {source} asks for: {named(surplus)}; move "
            "them away, or give the prompt file they were drawn from"
        )
    if several and number is None:
        raise UserError(
            f"{folder}: holds several pictures of one prompt: {named(several)}; choose those to be scored with "
            "--sample-number 0 (the second number in a name)"
        )
    return [found[row.case_number] for row in rows]


def check_sizes(paths: Iterator[Path]) -> None:
    """Raises UserError for a file that is no picture, and for pictures of several sizes."""
    from PIL import Image

    first = None
    for path in paths:
        try:
            with Image.open(path) as picture:
                first, size = first or (path, picture.size), picture.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not a readable picture ({error}); draw it again") from None
        if size != first[1]:
            (one, a), b = first, size
            raise UserError(
                f"{one} has {a[0]} x {a[1]} pixels, {path} {b[0]} x {b[1]}; pictures of one model must be of one size"
            )


def named(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _by_number(path: Path) -> tuple:
    name = NAME.fullmatch(path.stem)
    return (0, int(name[1]), int(name[2] or 0), path.name) if name else (1, 0, 0, path.name)
