"""What an experiment is given: the base model, prompt files, pictures and networks that measure, all looked over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lethe.experiment import absent, mirrors
from lethe.files.errors import UserError
from lethe.files.io import canonical
from lethe.measuring import judges
from lethe.models.pipelines import check_base, check_resolution, check_steps
from lethe.params import recipe, variation
from lethe.stage import cli
from lethe.texts.prompts import read_prompts, read_sets
from lethe.texts.wording import check_anchors
from lethe.training.pictures import Pictures
from lethe.training.pictures import read as read_pictures

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Given:
    """Resolved values, and the identities of what nobody makes here; every node is planned from it.

    `base`: identity of the base model; `prompts`: set -> CSV, and `prompt_files`: "prompts:SET" -> identity of it;
    `pictures`: concept that brings pictures -> identity of them; `judges`: role -> identity of a network that measures;
    `lacking`: key -> what section score names and is not there (`absent.split`); `unvaried`: where a table has changed
    some values, the experiment without the change.
    """

    params: dict
    base: str
    prompts: dict[str, str]
    prompt_files: dict[str, str]
    pictures: dict[str, str]
    judges: dict[str, str]
    lacking: dict[str, str]
    eval_pictures: str
    finetune_pictures: str
    unvaried: Given | None = None
    rough: bool = False

    @property
    def experiment(self) -> str:
        return self.params["experiment"]

    @property
    def origin(self) -> Given:
        """The experiment without a table's changes: what its rows are compared with."""
        return self.unvaried or self

    @property
    def resolution(self) -> dict:
        """The picture side as an option of a stage."""
        return {"resolution": self.params["base"]["resolution"]}

    @property
    def skip_flags(self) -> list[str]:
        """--skip-empty, if rows without a prompt are to be left out."""
        return ["--skip-empty"] if skips_empty(self.params) else []

    @property
    def subset_flags(self) -> list[str]:
        """--subset, if picture folders may hold a part of their list."""
        return ["--subset"] if self.params["pictures"].get("subset") else []

    @property
    def base_flags(self) -> list[str]:
        """--base and, for a hub id, --revision."""
        base = self.params["base"]
        return ["--base", base["path"], *(["--revision", base["revision"]] if base["revision"] else [])]

    @property
    def sized_flags(self) -> list[str]:
        """The same with --resolution."""
        return [*self.base_flags, *cli.flags(self.resolution)]

    def members(self, name: str) -> list[str]:
        """Concepts of a set, sorted: their order in the file is no part of the recipe, so it must not matter."""
        return sorted(self.params["grid"]["sets"][name])

    def concepts(self, name: str) -> dict[str, dict[str, str]]:
        """Concepts of a set with their prompt and anchor."""
        own = self.params["concepts"]
        return {member: {key: own[member][key] for key in ("prompt", "anchor")} for member in self.members(name)}


def look_over(params: dict) -> Given:
    """What valid params (`options.validate`) name.

    Raises UserError, the key first, for a base model, prompt file or picture folder that is not there or does not fit.
    """
    base, pictures = params["base"], params["pictures"]
    at("base.path", mirrors.check_there, base)
    at("base.path", check_base, base["path"], base["revision"])
    identity = at("base.path", recipe.of_model, base["path"], base["revision"])
    mirrors.check_bytes(base)
    at("base.resolution", check_resolution, base["path"], base["resolution"])
    check_steps_of(params)
    check_anchors(params["concepts"])
    prompts = prompt_sets(params)
    for name, path in prompts.items():
        at(prompt_key(name, params), read_prompts, path, skips_empty(params))
    prompt_files = {f"prompts:{name}": recipe.of_file(Path(path)) for name, path in prompts.items()}
    brought = {name: own["pictures"] for name, own in params["concepts"].items() if own["pictures"]}
    brought = {name: _pictures(pictures, f"concepts.{name}.pictures", folder) for name, folder in brought.items()}
    measuring, lacking = _judges(params, prompts)
    real, finetune = (_pictures(pictures, f"pictures.{name}", pictures[name]) for name in ("eval", "finetune"))
    return Given(params, identity, prompts, prompt_files, brought, measuring, lacking, real, finetune)


def roughly(params: dict) -> Given:
    """The same without a look at any file, so that jobs can be counted before anything is there."""
    names = {name: own["pictures"] for name, own in params["concepts"].items() if own["pictures"]}
    prompts = prompt_sets(params)
    files = {f"prompts:{name}": path for name, path in prompts.items()}
    pictures = params["pictures"]
    base, own = params["base"]["path"], {"score": canonical(params["score"])}
    return Given(params, base, prompts, files, names, own, {}, pictures["eval"], pictures["finetune"], rough=True)


def varied(given: Given, changes: dict, arm: str, where: str) -> Given:
    """The same experiment with some values changed; what it is compared with does not change."""
    found = replace(given, params=variation.varied(given.params, changes, arm, where), unvaried=given.origin)
    if not given.rough:
        at(where, check_steps_of, found.params)
    return found


def at(key: str, check: Callable[..., T], *values: object) -> T:
    """Calls a check; its UserError gets the params key in front."""
    try:
        return check(*values)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def check_steps_of(params: dict) -> None:
    """No sampler takes more steps than the base model has noise levels."""
    steps = {"sample.steps": params["sample"]["steps"]}
    steps["bilevel.upper_sampler_steps"] = params["bilevel"]["upper_sampler_steps"]
    steps |= {f"erase.{name}.sampler_steps": own.get("sampler_steps", 1) for name, own in params["erase"].items()}
    for key, value in steps.items():
        at(key, check_steps, params["base"]["path"], value)


def prompt_sets(params: dict) -> dict[str, str]:
    """Prompt-set name -> CSV: each concept's, then what must stay. Raises UserError for a concept called like those."""
    concepts = params["concepts"]
    for name in ("retain", "eval", "finetune"):
        if name in concepts:
            raise UserError(f"concepts: {name!r} is the name of a set of prompts or pictures; call it something else")
    found = {name: concepts[name]["prompts"] for name in sorted(concepts)}
    return found | {name: params["prompts"][name] for name in ("retain", "eval")}


def skips_empty(params: dict) -> bool:
    """Whether rows without a prompt are left out of prompt CSVs."""
    return params["prompts"].get("skip_empty", False)


def prompt_key(name: str, params: dict) -> str:
    """The params key of a set's CSV."""
    return f"concepts.{name}.prompts" if name in params["concepts"] else f"prompts.{name}"


def _judges(params: dict, prompts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Identities of the networks that measure, whose labels are those of prompt files and concepts; and what lacks."""
    score = params["score"]
    judges.check(score)
    usable, lacking = absent.split(score)
    sets = read_sets({name: Path(path) for name, path in prompts.items()}, skips_empty(params))
    judges.check_truth(usable["judges"], params["concepts"], sets)
    return absent.identities(score, lacking), lacking


def check_pictures(section: Mapping, key: str, folder: str) -> Pictures:
    """A picture folder that no command makes, looked over: each row has its file, or is counted (`subset`).

    Raises UserError for a folder that is not there.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{key}: {folder}: no such folder, and pictures.make is null; add it, or give the command")
    prompt, subset = None if key == "pictures.finetune" else "", section.get("subset", False)
    return at(key, read_pictures, Path(folder), prompt, False, subset)


def _pictures(section: dict, key: str, folder: str) -> str:
    """Identity of a picture folder."""
    if not section["make"]:
        check_pictures(section, key, folder)
    return at(key, recipe.of_pictures, folder, section["make"])
