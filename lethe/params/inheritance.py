"""Params files read from disk: what one says goes over what the file that it `extends` says.

    extends: ../params.yaml    # relative to the folder of the file that says so

Maps are merged to any depth, what the file itself names first; lists and single values replace. `null` takes an
inherited key out where its name is free (concepts, grid.sets, tables with their axes and labels, erase, attacks.tried)
or its absence means something of its own (tables.NAME.against, prompts.skip_empty, pictures.subset); everywhere else it
is a value like others. Who chooses another plug-in does not inherit the options that only the old one has. The name of
the experiment is each file's own. A chain of files is fine, a circle is not.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.params import registry
from lethe.params.rules import CHOICES, dropped, schema

EXTENDS = "extends"


def read(path: Path) -> dict:
    """All that a params file says, by itself and by its parents. Nothing is checked but what it extends."""
    return _read(Path(path), ())


def _read(path: Path, children: tuple[Path, ...]) -> dict:
    own = parse(path)
    if EXTENDS not in own:
        return own
    said = own.pop(EXTENDS)
    if not isinstance(said, str) or not said.strip():
        raise UserError(f"{path}: extends: {said!r} is not the name of one params file, such as ../params.yaml")
    parent = Path(os.path.normpath(path.parent / said))
    chain = (*children, path)
    if parent.resolve() in [file.resolve() for file in chain]:
        raise UserError(f"{path}: extends: {' extends '.join(map(str, (*chain, parent)))}: a circle; break it")
    if not parent.is_file():
        raise UserError(f"{path}: extends: {parent}: no such params file; the path starts at the folder of {path}")
    inherited = _fitting(_read(parent, chain), own)
    inherited.pop("experiment", None)
    return _merged(inherited, own, schema(), str(path), str(parent))


def _merged(parent: Mapping, own: Mapping, rules: Mapping, where: str, file: str) -> dict:
    """`where` tells of the place, `file` is the parent's name."""
    found, rest = {}, rules.get("additionalProperties")
    for key, value in own.items():
        rule = rules.get("properties", {}).get(key, rest if isinstance(rest, Mapping) else {})
        if value is None and _may_go(key, rules):
            if key not in parent:
                there = ", ".join(map(str, parent)) or "nothing"
                raise UserError(f"{where}: {key}: null takes out what {file} has, which is {there}")
        elif isinstance(value, Mapping) and isinstance(parent.get(key), Mapping):
            found[key] = _merged(parent[key], value, rule, f"{where}: {key}", file)
        else:
            found[key] = value
    return found | {key: value for key, value in parent.items() if key not in own}


def _may_go(key: str, rules: Mapping) -> bool:
    """Whether the schema lets a key be absent, and nothing stands in its place then."""
    if key not in rules.get("properties", {}):
        return isinstance(rules.get("additionalProperties"), Mapping)
    rule = rules["properties"][key]
    return not ("default" in rule or "properties" in rule or key in rules.get("required", []))


def _fitting(parent: dict, own: Mapping) -> dict:
    """The parent's values without the options of plug-ins that the file replaces by others."""
    found = dict(parent)
    for section, keys in CHOICES.items():
        for key, package in keys.items():
            new, inherited = _at(own, section, key), found.get(section)
            old = _at(found, section, key) or schema()["properties"][section]["properties"][key]["default"]
            plugins = registry.names(package)
            if new in plugins and old in plugins and isinstance(inherited, Mapping):
                found[section] = dropped(inherited, package, old, new)
    tried, mine = _at(found, "attacks", "tried"), _at(own, "attacks", "tried")
    if isinstance(tried, Mapping) and isinstance(mine, Mapping):
        others = [name for name in tried if _at(mine, name, "attack") not in (None, _at(tried, name, "attack"))]
        found["attacks"] = found["attacks"] | {"tried": {k: v for k, v in tried.items() if k not in others}}
    return found


def _at(values: object, *keys: str) -> object:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets pass: a key given twice, of which the first would be lost, and numbers that are none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise UserError(f"line {key.start_mark.line + 1}: key {name!r} is given twice; keep one")
            if value.tag == "tag:yaml.org,2002:float" and value.value.lower().lstrip("+-") in (".inf", ".nan"):
                raise UserError(f"line {value.start_mark.line + 1}: {name}: {value.value} is not a finite number")
            seen.add(name)
        return super().construct_mapping(node, deep)


def parse(path: Path) -> dict:
    """What one file says, and no other. Raises UserError if it is not there, not YAML, or no mapping."""
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: {kinds.dangling(path) or 'no such params file'}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a params file ({error.strerror})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no sections; copy params.yaml or params/own.yaml")
    return values
