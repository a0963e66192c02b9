"""The rules of every key, in JSON Schema: those of `schema.yaml`, and the OPTIONS of plug-ins.

{"$ref": "#/$defs/lr"} is the shared rule of that name; what stands beside it goes before it. A whole OPTIONS may be
such a reference. A key whose rule has a `default` may be left out, and so may a section whose keys may.
"""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import overload

import yaml

from lethe.files.errors import UserError
from lethe.params import registry

SCHEMA = Path(__file__).with_name("schema.yaml")
SHARED = "#/$defs/"

# section -> keys that choose a plug-in, and the packages they choose from
CHOICES = {
    "prune": {"pruner": "pruners"},
    "bilevel": {"solver": "solvers", "suppression": "suppressions"},
}


@functools.cache
def _file() -> dict:
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


@functools.cache
def schema() -> dict:
    """The rules of a whole params file, but for the options of plug-ins."""
    return resolved({key: rule for key, rule in _file().items() if key != "$defs"})


@overload
def resolved(rule: Mapping) -> dict: ...
@overload
def resolved(rule: object) -> object: ...
def resolved(rule: object) -> object:
    """The rule with shared ones in the place of references to them, to any depth. Raises LookupError for one that
    `$defs` lacks: a mistake of the code, not of a user."""
    if isinstance(rule, list):
        return [resolved(part) for part in rule]
    if not isinstance(rule, Mapping):
        return rule
    own = {key: resolved(part) for key, part in rule.items() if key != "$ref"}
    if not isinstance(rule.get("$ref"), str):
        return own
    return resolved(_file()["$defs"][rule["$ref"].removeprefix(SHARED)]) | own


def options_of(package: str, name: str) -> dict:
    """Rules of a plug-in's own options, without importing it."""
    return resolved(registry.literal(package, name, "OPTIONS"))


def former(package: str, name: str) -> dict[str, object]:
    """Of a plug-in's options that came later than its first results: what these were made with, their `former`."""
    return {key: rule["former"] for key, rule in options_of(package, name).items() if "former" in rule}


def section_schema(section: str, *plugins: tuple[str, str] | None) -> dict:
    """Rules of one section, with the options of plug-ins ("erasers", "esd") among them; unknown keys are refused."""
    found = schema()["properties"].get(section, {"type": "object"})
    properties, required = dict(found.get("properties", {})), list(found.get("required", []))
    for plugin in filter(None, plugins):
        own = options_of(*plugin)
        properties |= own
        required += [key for key, rule in own.items() if "default" not in rule]
    return found | {"properties": properties, "required": required, "additionalProperties": False}


def known(section: str, key: str, package: str, name: str) -> str:
    """The plug-in's name; raises UserError that names the key and the legal ones."""
    try:
        return registry.check(package, name)
    except UserError as error:
        raise UserError(f"{section}.{key}: {error}") from None


def plugins_of(section: str, values: Mapping) -> list[tuple[str, str]]:
    """The plug-ins whose options a section carries, such as the solver and the suppression of `bilevel`."""
    return [
        (package, known(section, key, package, values[key]))
        for key, package in CHOICES.get(section, {}).items()
        if isinstance(values.get(key), str)
    ]


@overload
def complete(values: Mapping, rules: Mapping) -> dict: ...
@overload
def complete(values: object, rules: Mapping) -> object: ...
def complete(values: object, rules: Mapping) -> object:
    """The values with the defaults of all keys that are left out, to any depth. What is wrong stays as it is."""
    if not isinstance(values, Mapping):
        return values
    rest, found = rules.get("additionalProperties"), {}
    for key, rule in rules.get("properties", {}).items():
        if key in values:
            found[key] = complete(values[key], rule)
        elif "default" in rule:
            found[key] = copy.deepcopy(rule["default"])
        elif "properties" in rule and key not in rules.get("required", []):
            found[key] = complete({}, rule)
    rest = rest if isinstance(rest, Mapping) else {}
    return found | {key: complete(value, rest) for key, value in values.items() if key not in found}


def completed(values: Mapping) -> dict:
    """A whole experiment whose values are legal by `schema`, with the defaults of all plug-ins that it names.

    An eraser that is an arm of the grid or of a table needs no entry under `erase`. Raises UserError for a plug-in
    that is not there.
    """
    found = complete(values, schema())
    for section in CHOICES:
        own = found[section]
        found[section] = complete(own, section_schema(section, *plugins_of(section, own)))
    arms = [*found["grid"]["arms"], *(arm for table in found["tables"].values() for arm in table["of"])]
    named = {arm: {} for arm in arms if arm in registry.names("erasers")} | found["erase"]
    found["erase"] = {
        name: complete(own, section_schema(f"erase_{name}", ("erasers", known("erase", name, "erasers", name))))
        for name, own in named.items()
    }
    tried = found["attacks"]["tried"]
    for label, own in tried.items():
        plugin = "attacks", known(f"attacks.tried.{label}", "attack", "attacks", own["attack"])
        tried[label] = complete(own, section_schema(f"attack_{own['attack']}", plugin))
    return found


def dropped(section: Mapping, package: str, old: str, new: str) -> dict:
    """The section without options that only the old one of two plug-ins has."""
    gone = options_of(package, old).keys() - options_of(package, new).keys()
    return {key: value for key, value in section.items() if key not in gone}
