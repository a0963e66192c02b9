"""Nothing is made twice: a result that stands is finished, and one that another experiment has is linked.

An address is a recipe, and the recipe knows nothing of the experiment: equal ones are the same result. So a copy of
params.yaml that changes one learning rate trains one model, whatever its experiment is called.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import META, checked, is_finished, read_meta, result_folder, write_json
from lethe.params.recipe import RESULTS

LARGE = (".safetensors", ".tar")


def settled(out: Path, recipe: str, dry_run: bool = False) -> bool:
    """True, and said, if nothing is left to make: `out` is finished, or another experiment's result now stands there.

    Raises UserError if something else stands there (`io.is_finished`).
    """
    if is_finished(out, recipe):
        print(f"{out}: finished, recipe {recipe}")
        return True
    for found in twins(out, recipe):
        if not dry_run:
            _link(found, out)
        print(f"{out}: {'would be' if dry_run else 'is'} the result of {found}, recipe {recipe}")
        return True
    return False


def twins(out: Path, recipe: str) -> Iterator[Path]:
    """Finished results of this recipe at the same place of other experiments, undamaged ones alone."""
    parts = Path(out).parts
    if len(parts) != 5 or parts[0] != str(RESULTS) or not parts[-1].endswith(f"-{recipe}"):
        return  # not planned: somebody's own folder
    for found in sorted(RESULTS.glob(str(Path("*", *parts[2:])))):
        try:
            if is_finished(found, recipe) and (names := read_meta(found).get("files")):
                for name in names:
                    checked(found, name)
                yield found
        except (UserError, OSError):
            continue


def _link(found: Path, out: Path) -> None:
    """Large files are hard links, or copies where the file system has none; small ones copies, since people edit them.

    Parents are those of this experiment, which are equal.
    """
    meta = read_meta(found)
    with result_folder(out) as part:
        for name in meta["files"]:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            source = (found / name).resolve()  # a link of DVC's would lead into its cache
            _copy(source, part / name)
        for parent in meta["parents"].values():
            path = Path(parent["folder"])
            own = Path(*path.parts[:1], *Path(out).parts[1:2], *path.parts[2:])
            if path.parts[:2] == found.parts[:2] and (own / META).is_file():
                parent["folder"] = str(own)
        write_json(part / META, meta | {"taken_from": str(found)})


def _copy(source: Path, to: Path) -> None:
    if source.suffix in LARGE:
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source, to)
            return
    shutil.copy2(source, to)
