"""Plug-ins are modules: `lethe/erasing/erasers/esd.py` is the eraser `esd` (DESIGN rule 6).

A plug-in package holds one module per plug-in with one function of an agreed name, and an `OPTIONS` dict: the JSON
schema of its options, each with its `default` (`lethe.params.rules` resolves what it shares with others). Adding a
plug-in is adding that one file. Names and options are read without importing the module, so that planning a run does
not import torch.
"""

import ast
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lethe.files.errors import UserError, needed

LETHE = Path(__file__).resolve().parents[1]
ROOMS = {  # where each package of plug-ins stands
    "pruners": "pruning",
    "solvers": "training",
    "suppressions": "training",
    "erasers": "erasing",
    "attacks": "attacking",
    "metrics": "measuring",
    "detectors": "measuring",
}


def folder(package: str) -> Path:
    """Where the modules of a plug-in package such as "erasers" lie."""
    return LETHE / ROOMS[package] / package


def names(package: str) -> list[str]:
    """Plug-ins of a package such as "erasers", sorted."""
    return sorted(p.stem for p in folder(package).glob("*.py") if not p.stem.startswith("_"))


def check(package: str, name: str) -> str:
    """Returns the name, or raises UserError with the known ones."""
    if name not in names(package):
        raise UserError(f"{name!r} is not one of the {package}: {', '.join(names(package))}")
    return name


def get(package: str, name: str) -> ModuleType:
    """The plug-in's module, imported."""
    return importlib.import_module(f"lethe.{ROOMS[package]}.{package}.{check(package, name)}")


def needs(package: str, name: str, options: Mapping | None = None) -> list[str]:
    """What a plug-in reads beside its options: its constant NEEDS; nothing if it has none.

    Where an option decides, NEEDS is {option: {its value: what is read}}.
    """
    found = literal(package, name, "NEEDS", [])
    if isinstance(found, dict):
        ((key, by_value),) = found.items()
        return by_value[needed(options, "options")[key]]
    return found


def version(package: str, name: str, options: Mapping) -> int:
    """A plug-in's constant VERSION, 1 if it has none: raised when its results change under the same options. Above 1 it
    is part of the address of what the plug-in makes, so that those that did not change keep theirs.

    Where results changed under one value of an option alone, VERSION is {option: {that value: version}}; "*" stands for
    any value but null.
    """
    found = literal(package, name, "VERSION", 1)
    if not isinstance(found, dict):
        return found
    raised = 1
    for key, by_value in found.items():
        value = "*" if "*" in by_value and options[key] is not None else options[key]
        raised = max(raised, *(number for own, number in by_value.items() if own == value), 1)
    return raised


def guides(eraser: str) -> bool:
    """True of an eraser that leaves the weights alone and guides sampling: its constant GUIDES."""
    return literal("erasers", eraser, "GUIDES", False)


def literals(package: str, constant: str) -> dict[str, Any]:
    """The same constant of every plug-in of a package that has it, by the plug-ins' names."""
    found = {name: literal(package, name, constant, None) for name in names(package)}
    return {name: value for name, value in found.items() if value is not None}


def literal(package: str, name: str, constant: str, default: object = ...) -> Any:
    """A module-level constant (OPTIONS, NEEDS) read from the source text; it must be a literal.

    Without OPTIONS a module has none. Raises LookupError if the module lacks another constant and there is no default.
    """
    path = folder(package) / f"{check(package, name)}.py"
    for node in _parsed(path, path.stat().st_mtime_ns).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value and any(getattr(target, "id", "") == constant for target in targets):
            return ast.literal_eval(value)
    if constant == "OPTIONS":
        return {}
    if default is not ...:
        return default
    raise LookupError(f"{path.relative_to(LETHE.parent)} has no {constant}")


@functools.cache
def _parsed(path: Path, written: int) -> ast.Module:
    """A plug-in's source, which the rows of a table ask for again and again; `written`: when it was."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
