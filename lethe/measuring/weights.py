"""Which weight files stand behind a name of section `score`, and their sha256, to be recorded beside every number."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import read_json, sha256
from lethe.measuring import clip_names, inception
from lethe.measuring.judges import NUDENET

# stands in folders that `lethe.measuring.backbones` made: kind, file, sha256 of it, weights {file: sha256}
CONVERTED = "converted.json"


def told(name: str) -> dict[str, object]:
    """{"name", "weights": {file: sha256}}, and "made_of" for a folder that `lethe.measuring.backbones` made.

    `name` as in the params file: a folder, local-dir:FOLDER, OWNER/NAME@COMMIT, or open_clip's NAME@PRETRAINED. What
    comes from a hub is looked up where it is kept, or fetched. Raises UserError if a converted folder's weights are not
    those that were converted, or if nothing is found.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir() or name.startswith("local-dir:"):
        files = sorted(folder.glob("*.safetensors"))
    else:
        files = _of_hub(name) if "/" in name else [clip_names.file(name)]
    if not files:
        raise UserError(f"{name}: no *.safetensors there; fetch or make it again")
    hashes = {path.name: _hashed(path) for path in files}
    found: dict[str, object] = {"name": name, "weights": hashes}
    if (folder / CONVERTED).is_file():
        made = read_json(folder / CONVERTED)
        for file, wanted in made["weights"].items():
            if hashes.get(file) != wanted:
                own = hashes.get(file, "no file")
                raise UserError(
                    f"{folder / file}: its sha256 begins {own[:12]}, in {CONVERTED} {wanted[:12]}: it is not what was "
                    "converted; make the folder again (python -m lethe.measuring.backbones)"
                )
        found["made_of"] = {key: made[key] for key in ("kind", "file", "sha256")}
    return found


def behind(protocol: Mapping, section: Mapping) -> dict[str, dict]:
    """Name -> what is `told` of it, of the networks of section `score` that a metric's protocol names somewhere.

    Inception and detectors, which have names of their own, tell their weights themselves.
    """
    networks = {section["clip"], section["descriptor"], section["features"], *section["judges"].values()}
    named = networks - {None, NUDENET, *inception.MODES}
    found = {name: told(name) for name in dict.fromkeys(_texts(protocol)) if name in named}
    return {name: {key: own[key] for key in own if key != "name"} for name, own in found.items()}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for own in value.values():
            yield from _texts(own)


def _of_hub(name: str) -> list[Path]:
    """The weights of OWNER/NAME@COMMIT in huggingface_hub's cache, where loading has put them."""
    from huggingface_hub import try_to_load_from_cache

    place, _, commit = name.partition("@")
    config = try_to_load_from_cache(place, "config.json", revision=commit)
    return sorted(Path(config).parent.glob("*.safetensors")) if isinstance(config, str) else []


def _hashed(path: Path) -> str:
    state = path.stat()
    return _hash_of(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    """Gigabytes are read once a process, unless the file changes."""
    return sha256(path)
