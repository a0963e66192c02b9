"""What section `score` names and is not there: the metrics that need it are not run, the others are.

Told before the first job, with where the files come from; once they are there, the results that lacked them have
another address, so they are made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lethe.files.errors import NotThere, UserError
from lethe.measuring import clip_names, inception, judges, perceptual
from lethe.params import recipe

CLASSIFIER = ("config.json", "preprocessor_config.json", "*.safetensors")


@dataclass(frozen=True)
class Network:
    """Which metrics need it, and where it comes from."""

    metrics: str
    where: str


NETWORKS = {
    "clip": Network(
        "clip, clip_near, clip_other, clip_retain, cp, cp_near, cp_other, cmmd, cmmd_drift, pair and pair_deviation",
        "open_clip fetches NAME@PRETRAINED once, local-dir:FOLDER holds open_clip_config.json and weights",
    ),
    "descriptor": Network(
        "csd, csd_raw, csd_near and csd_other", "python -m lethe.measuring.backbones csd makes one of CSD's weights"
    ),
    "features": Network(
        "fid, kid, fid_drift, kid_drift and change",
        "python -m lethe.measuring.backbones resnet50 makes one of torchvision's weights, clean and legacy_pytorch are "
        "Inception",
    ),
    "lpips": Network("lpips, lpips_eval, lpips_target, lpips_base and lpips_base_target", "fetch the two files"),
    "judges.style": Network(
        "ua, ira, ira_neighbour and ira_other of styles, cra and content_target of objects",
        "python -m lethe.measuring.backbones vit makes one of UnlearnCanvas' weights",
    ),
    "judges.content": Network(
        "cra and content_target of styles, ua, ira, ira_neighbour and ira_other of objects",
        "python -m lethe.measuring.backbones resnet50 makes one of torchvision's weights",
    ),
    "judges.unsafe": Network(
        "shown, unsafe_kept, removal, removal_base and ua of concepts of kind unsafe",
        "make nudenet sets up nudenet, any folder of a classifier will do",
    ),
}


def split(score: Mapping) -> tuple[dict, dict[str, str]]:
    """(Section `score` with null for what is not there, key of each -> what is missing, where to get it).

    Looks at names of files alone, without torch. Raises UserError for what is there and is something else.
    """
    usable, lacking = dict(score) | {"judges": dict(score["judges"])}, {}
    for key, found in _looked_for(score):
        if found is None:
            continue
        lacking[key] = f"score.{key}: {found}; {NETWORKS[key].where}"
        section, _, role = key.rpartition(".")
        (usable[section] if section else usable)[role] = None
    if usable["features"] is None:
        usable["features_weights"] = None
    return usable, lacking


def warnings(lacking: Mapping[str, str]) -> list[str]:
    """A line for each of what is lacking, with the metrics that go."""
    return [f"warning: {why}; not run without it: {NETWORKS[key].metrics}" for key, why in lacking.items()]


def identities(score: Mapping, lacking: Mapping[str, str]) -> dict[str, str]:
    """What section `score` measures with, as parents of a result: `recipe.of_judges`, and what is lacking."""
    return recipe.of_judges(score) | ({"lacking": ", ".join(sorted(lacking))} if lacking else {})


def _looked_for(score: Mapping) -> Iterator[tuple[str, str | None]]:
    """(key, what is missing, None if nothing is) of all that section `score` names."""
    clip, features, weights = score["clip"], score["features"], score["features_weights"]
    if clip and clip.startswith(clip_names.LOCAL):
        yield "clip", _missing("clip", clip.removeprefix(clip_names.LOCAL), "open_clip_config.json", "*.safetensors")
    if score["descriptor"]:
        yield "descriptor", _missing("descriptor", score["descriptor"], *CLASSIFIER)
    if features in inception.MODES:
        told = f"features_weights {weights}: no such file; get it from {inception.MODES[features].url}"
        yield "features", told if weights and not Path(weights).is_file() else None
    elif features:
        yield "features", _classifier("features", features)
    if score["lpips"]:
        yield "lpips", _told(perceptual.files, Path(score["lpips"]))
    for role, name in score["judges"].items():
        if name == judges.NUDENET and role == "unsafe":
            from lethe.measuring.detectors import nudenet

            yield f"judges.{role}", _told(nudenet.check)
        elif name:
            yield f"judges.{role}", _classifier(f"judges.{role}", name)


def _classifier(key: str, name: str) -> str | None:
    return None if judges.HUB.fullmatch(name) else _missing(key, name, *CLASSIFIER)


def _missing(key: str, folder: str, *files: str) -> str | None:
    if not Path(folder).is_dir():
        if Path(folder).is_file():
            raise UserError(f"score.{key}: {folder}: is a file; a folder is wanted; {NETWORKS[key].where}")
        return f"{folder}: no such folder"
    lost = [name for name in files if not any(Path(folder).glob(name))]
    return f"{folder}: no {lost[0]} there" if lost else None


def _told(check: Callable, *values: object) -> str | None:
    """What a check misses."""
    try:
        check(*values)
    except NotThere as error:
        return str(error)
    return None
