"""Nodes of stage attack: pictures of the erased concepts' prompts, drawn by a victim under one attack."""

from pathlib import Path

from lethe.experiment import encoded, tried
from lethe.experiment.arms import UNERASED
from lethe.experiment.given import Given, at, skips_empty
from lethe.experiment.graph import Node, folders, some
from lethe.experiment.samples import sample
from lethe.files.errors import UserError
from lethe.files.io import canonical
from lethe.params import recipe, registry
from lethe.stage import cli
from lethe.texts.prompts import chosen, read_prompts


def attack(given: Given, label: str, arm: str, weights: Node | None, name: str, seed: int) -> Node:
    """Pictures of one arm, drawn with some weights or by the base model, under the attack of that label.

    Raises UserError for a concept of the set without a file where the attack reads one, and for more prompts than a
    concept has.
    """
    params, concepts = given.params, given.concepts(name)
    options, each, values = dict(params["attacks"]["tried"][label]), params["attacks"]["prompts"], params["sample"]
    plugin, wanted = options.pop("attack"), tried.needs(params, label)
    prompts = {member: given.prompts[member] for member in concepts}
    skip = skips_empty(params)
    for path in () if given.rough else prompts.values():
        chosen(read_prompts(Path(path), skip), each, f"attacks.prompts: {path}")
    read = {"originals": sample(given.origin, None)} if "originals" in wanted else {}
    read |= {"data": encoded.encode(given, "finetune")} if "data" in wanted else {}
    pictures = encoded.of_set(given, name) if "concepts" in wanted else {}
    key = weights.key if weights else "base"
    return Node(
        given.experiment,
        "attack",
        "samples",
        arm,
        f"{key}-{name}-{label}" if arm in UNERASED else f"{key}-{label}",
        options={"attack": plugin, "options": options, "seed": seed, "each": each, "concepts": concepts}
        | given.resolution
        | values,
        parents={
            "base": given.base,
            **some(model=weights),
            **read,
            **encoded.parents(pictures),
            **{f"prompts:{member}": given.prompt_files[f"prompts:{member}"] for member in prompts},
            **({} if given.rough else _files(plugin, options, list(concepts), f"attacks.tried.{label}", skip)),
        },
        flags=[
            *given.sized_flags,
            *folders(model=weights, **read),
            *["--attack", plugin, "--concepts", canonical(concepts), "--each", str(each), "--seed", str(seed)],
            *["--prompts", *(f"{member}={path}" for member, path in prompts.items())],
            *given.skip_flags,
            *encoded.words("--concept-pictures", pictures),
            *cli.flags({f"sample_{key}": value for key, value in values.items()}),
            *cli.flags(options),
        ],
    )


def _files(plugin: str, options: dict, members: list[str], where: str, skip_empty: bool) -> dict[str, str]:
    """Identities of the files that an option names for each concept, by role; only those of the set count."""
    option = registry.literal("attacks", plugin, "FILES", None)
    if option is None:
        return {}
    found = options[option]
    missing = [member for member in members if member not in found]
    if missing:
        raise UserError(f"{where}.{option}: none of {', '.join(missing)}; give each erased concept a CSV of prompts")
    for member in members:
        at(f"{where}.{option}", read_prompts, found[member], skip_empty)
    return {f"file:{member}": recipe.of_file(found[member]) for member in members}
