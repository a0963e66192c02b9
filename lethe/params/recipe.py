"""The address of a result is the hash of its recipe (DESIGN rule 2).

A recipe is: stage, the stage's VERSION, its resolved options, those of its plug-ins whose VERSION was raised, and the
recipes of its parents. An option that came later is left out where it has its `former` value, what was done before it
was there: so a new option moves no old result. Parents that nobody made here (a base model, pictures, prompt files)
count by the identity of their content. The workflow plans addresses with these functions before anything exists; a
stage computes its own recipe from its inputs with the same ones.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.files.hashes import files, of_files
from lethe.files.io import META, canonical, digest, read_meta
from lethe.params import registry, rules

RESULTS = Path("results")  # below it results/<experiment>/<kind>/<arm>/<key>-<recipe>/
REPORTS = Path("reports")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # of a folder without a list
# stage -> its options that choose a plug-in whose VERSION counts, and the packages they choose from
PLUGINS = rules.CHOICES | {"erase": {"eraser": "erasers"}, "attack": {"attack": "attacks"}}


def recipe(stage: str, version: int, options: Mapping, parents: Mapping[str, str]) -> str:
    """Ten hex characters. `parents` maps a role to the parent's recipe or identity."""
    values = {**options, **options.get("options", {})}  # an attack's own stand apart
    chosen = [(package, options[key]) for key, package in PLUGINS.get(stage, {}).items()]
    own = _counting(options, _former(chosen))
    facts = {"stage": stage, "version": version, "options": own, "parents": dict(parents)}
    raised = {package: number for package, name in chosen if (number := registry.version(package, name, values)) > 1}
    return digest(facts | ({"plugins": raised} if raised else {}))


def counting(params: Mapping) -> dict:
    """A whole experiment's values as its report's address holds them: without options at their `former` values."""
    found = {
        section: _counting(params[section], _former((package, params[section][key]) for key, package in own.items()))
        for section, own in rules.CHOICES.items()
    }
    found["erase"] = {name: _counting(own, rules.former("erasers", name)) for name, own in params["erase"].items()}
    tried = params["attacks"]["tried"]
    own = {label: _counting(one, rules.former("attacks", one["attack"])) for label, one in tried.items()}
    return {**params, **found, "attacks": {**params["attacks"], "tried": own}}


def _former(plugins: Iterable[tuple[str, str]]) -> dict[str, object]:
    return {key: value for plugin in plugins for key, value in rules.former(*plugin).items()}


def _counting(options: Mapping, former: Mapping) -> dict:
    """The options without those that came later and say what was done before they were there."""
    found = {key: value for key, value in options.items() if key not in former or value != former[key]}
    return found | (
        {"options": _counting(found["options"], former)} if isinstance(found.get("options"), Mapping) else {}
    )


def of_result(folder: Path) -> str:
    """Recipe of a finished result folder."""
    return read_meta(folder)["recipe"]


def of_weights(folder: Path) -> str:
    """Identity of a U-Net: the recipe of a result, or the content of a folder in which others saved one."""
    folder = Path(folder)
    if what := kinds.told(folder):
        raise UserError(f"{folder}: {what}")
    return of_folder(folder) if folder.is_dir() and not (folder / META).is_file() else of_result(folder)


def of_file(path: Path) -> str:
    """Identity of a small file such as a prompt CSV: its bytes."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:10]
    except FileNotFoundError:
        raise UserError(f"{path}: {kinds.dangling(path) or 'no such file'}") from None


def of_folder(folder: Path) -> str:
    """Identity of a folder that was given to us: names, sizes and all bytes of its files, links followed."""
    return digest([[name, *told] for name, told in of_files(folder).items()])


def of_model(path: str, revision: str | None) -> str:
    """Identity of a base model, judge or descriptor: a folder's content, or hub id and revision.

    Raises UserError if it is neither a folder nor an id with a full commit as its revision (a branch may move).
    """
    if Path(path).is_dir():
        if revision:
            raise UserError(f"{path}: is a folder, so no revision can be meant, found {revision!r}; leave it out")
        return of_result(Path(path)) if (Path(path) / META).is_file() else of_folder(Path(path))
    if what := kinds.told(path):
        raise UserError(f"{path}: {what}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise UserError(f"{path}: no such folder, and not a hub id (OWNER/NAME)")
    if not revision or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"{path}: a hub id needs its revision, the 40 hex digits of a commit; found {revision!r}")
    return digest([path, revision])


def of_judges(score: Mapping) -> dict[str, str]:
    """Role -> identity of what section `score` measures with: a folder by its content, any other name by itself.

    Roles: clip, descriptor, features, style, content; those set to null are left out. `judges.check` says which names
    are good.
    """
    roles = {role: score[role] for role in ("clip", "descriptor", "features")} | dict(score["judges"])
    found = {}
    for role, text in roles.items():
        if text is None:
            continue
        path = text.removeprefix("local-dir:")
        found[role] = of_model(path, None) if Path(path).is_dir() else text
    return found


def picture_list(folder: Path) -> Path:
    """What lists a folder's pictures: its metadata.jsonl or metadata.csv, or in COCO's layout
    ../annotations/captions_NAME.json.

    Raises UserError if there is none, or both of the first.
    """
    found, (own, table, coco) = listed(folder), _lists(folder)
    if own.is_file() and table.is_file():
        raise UserError(f"{folder}: holds {own.name} and {table.name}; keep one")
    if found is None:
        below = sorted(path.parent.name for name in (own.name, table.name) for path in Path(folder).glob(f"*/{name}"))
        raise UserError(
            f"{folder}: no {own.name} there (one JSON object a line: file_name, text), no {table.name}, and no {coco} "
            f"(COCO){f'; {below[0]}/ has one: give {Path(folder) / below[0]}' if below else ''}"
        )
    return found


def listed(folder: Path) -> Path | None:
    """The same, None if there is none."""
    return next((path for path in _lists(Path(folder)) if path.is_file()), None)


def _lists(folder: Path) -> tuple[Path, Path, Path]:
    folder = Path(folder)
    coco = folder.parent / "annotations" / f"captions_{folder.name}.json"
    return folder / "metadata.jsonl", folder / "metadata.csv", coco


def plain_pictures(folder: Path) -> list[str]:
    """Picture files in a folder and below it, by name; hidden ones, and those in hidden folders, are left out."""
    found = (Path(name) for name in files(folder) if Path(name).suffix.lower() in PICTURES)
    return [str(path) for path in found if not any(part[0] == "." for part in path.parts)]


def of_pictures(folder: Path, make: str | None, plain: bool = False) -> str:
    """Identity of a picture folder: the command that makes it, or else its list and all bytes of its files.

    A samples folder of ours counts by its recipe. `plain`: a folder without a list counts by its pictures' bytes.
    """
    folder = Path(folder)
    if (folder / META).is_file():
        return of_result(folder)
    if make:
        return digest([make, str(folder)])
    if not folder.is_dir():
        raise UserError(f"{folder}: {kinds.dangling(folder) or 'no such picture folder'}")
    found = {name: own for name, (_, own) in of_files(folder).items()}
    if plain and not listed(folder) and (names := plain_pictures(folder)):
        return digest({name: found[name] for name in names})
    text = picture_list(folder).read_bytes()
    return hashlib.sha256(canonical(found).encode() + text).hexdigest()[:10]
