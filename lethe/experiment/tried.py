"""Section `attacks` of an experiment, planned: which attacks are tried on which arms, and the node of each."""

from typing import TYPE_CHECKING

from lethe.experiment.graph import Node
from lethe.files.errors import UserError
from lethe.files.io import canonical
from lethe.params import recipe, registry
from lethe.stage import cli
from lethe.texts.prompts import chosen, read_prompts

if TYPE_CHECKING:
    from lethe.experiment.experiment import Experiment


def labels(params: dict, arm: str, table: str | None) -> list[str]:
    """Attacks on an arm of the grid, or on a row of a table: those that apply, of all if it is attacked."""
    own = params["attacks"]
    attacked = arm in own["arms"] if table is None else table in own["tables"]
    return [label for label in own["tried"] if applies(params, label, arm)] if attacked else []


def applies(params: dict, label: str, arm: str) -> bool:
    """Whether an attack has anything to work on. One that needs zeros has on erasers that leave some, come last."""
    if "zeros" not in needs(params, label):
        return True
    zeroes = arm in registry.names("erasers") and registry.literal("erasers", arm, "ZEROES", False)
    return bool(zeroes) and not params["grid"]["order"].endswith("distill")


def needs(params: dict, label: str) -> list[str]:
    """What an attack reads beside the victim."""
    own = params["attacks"]["tried"][label]
    return registry.needs("attacks", own["attack"], own)


def node(experiment: "Experiment", label: str, arm: str, weights: Node | None, name: str, seed: int) -> Node:
    """Pictures of the erased concepts' prompts under one attack, drawn with some weights or by the base model.

    Raises UserError for a concept of the set without a file where the attack reads one, and for more prompts than a
    concept has.
    """
    params = experiment.params
    own = dict(params["attacks"]["tried"][label])
    attack, each, sample = own.pop("attack"), params["attacks"]["prompts"], params["sample"]
    members, wanted = experiment.members(name), needs(params, label)
    concepts = {member: {key: params["concepts"][member][key] for key in ("prompt", "anchor")} for member in members}
    paths = {member: experiment.prompts[member] for member in members}
    for path in paths.values():
        chosen(read_prompts(path), each, f"attacks.prompts: {path}")
    originals = {"originals": experiment.origin.sample(None)} if "originals" in wanted else {}
    data = {"data": experiment.encode("finetune")} if "data" in wanted else {}
    pictures = {member: experiment.encode(member) for member in members} if "concepts" in wanted else {}
    key = weights.key if weights else "base"
    return Node(
        params["experiment"],
        "attack",
        "samples",
        arm,
        f"{key}-{name}-{label}" if arm in ("base", "pruned", "distill") else f"{key}-{label}",
        options={"attack": attack, "options": own, "seed": seed, "each": each, "concepts": concepts}
        | experiment.resolution
        | sample,
        parents={"base": experiment.base}
        | ({"model": weights} if weights else {})
        | originals
        | data
        | {f"concept:{member}": found for member, found in pictures.items()}
        | {f"prompts:{member}": experiment.prompt_files[f"prompts:{member}"] for member in members}
        | _files(attack, own, members, f"attacks.tried.{label}"),
        flags=[
            *experiment.sized_flags,
            *(["--model", str(weights.folder)] if weights else []),
            *(word for role, found in (originals | data).items() for word in (cli.flag(role), str(found.folder))),
            *["--attack", attack, "--concepts", canonical(concepts), "--each", str(each), "--seed", str(seed)],
            *["--prompts", *(f"{member}={path}" for member, path in paths.items())],
            *(
                ["--concept-pictures", *(f"{one}={found.folder}" for one, found in pictures.items())]
                if pictures
                else []
            ),
            *cli.flags({f"sample_{key}": value for key, value in sample.items()}),
            *cli.flags(own),
        ],
    )


def _files(attack: str, own: dict, members: list[str], where: str) -> dict[str, str]:
    """Identities of the files that an option names for each concept, by role; only those of the set count."""
    option = registry.literal("attacks", attack, "FILES", None)
    if option is None:
        return {}
    missing = [member for member in members if member not in own[option]]
    if missing:
        raise UserError(f"{where}.{option}: none of {', '.join(missing)}; give each erased concept a CSV of prompts")
    for member in members:
        try:
            read_prompts(own[option][member])
        except UserError as error:
            raise UserError(f"{where}.{option}: {error}") from None
    return {f"file:{member}": recipe.of_file(own[option][member]) for member in members}
