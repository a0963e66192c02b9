"""Nodes of the stages that make weights: prune, distill, bilevel, erase."""

from pathlib import Path

from lethe.experiment import encoded
from lethe.experiment.given import Given, at
from lethe.experiment.graph import Node, folders, some
from lethe.files.io import canonical
from lethe.params import experts, recipe, registry
from lethe.stage import cli
from lethe.texts.templates import check_pairs


def prune(given: Given, budget: float, dense: Node | None = None) -> Node:
    """The base model's U-Net, or an edited dense one, pruned."""
    values = {"budget": budget} | experts.at_budget(given.params["prune"], budget)
    pruner = given.params["prune"]["pruner"]
    needs = registry.needs("pruners", pruner)
    data = {"data": encoded.encode(given, "finetune")} if "data" in needs else {}
    taken = {"checkpoint": _checkpoint(given, values)} if "checkpoint" in needs else {}
    return Node(
        given.experiment,
        "prune",
        "weights",
        "pruned",
        f"{tag(budget)}-{pruner}",
        options=values | given.resolution,
        parents={"base": given.base, **some(model=dense), **data, **taken},
        flags=[*given.sized_flags, *folders(model=dense, **data), *cli.flags(values)],
    )


def _checkpoint(given: Given, values: dict) -> str:
    """Identity of a published checkpoint that a pruner takes over, looked over first."""
    if given.rough:
        return values["checkpoint"]
    at("prune", registry.get("pruners", values["pruner"]).check, values)
    return recipe.of_folder(Path(values["checkpoint"]))


def distill(given: Given, budget: float, seed: int, pruned: Node | None = None, teacher: Node | None = None) -> Node:
    """The pruned model, or another, healed under the base model or another teacher."""
    values = {"seed": seed} | given.params["distill"]
    pruned, data = pruned or prune(given, budget), encoded.encode(given, "finetune")
    return Node(
        given.experiment,
        "distill",
        "weights",
        "distill",
        f"{tag(budget)}-s{seed}",
        options=values,
        parents={"base": given.base, "pruned": pruned, "data": data, **some(teacher=teacher)},
        flags=[*given.base_flags, *folders(pruned=pruned, data=data, teacher=teacher), *cli.flags(values)],
    )


def bilevel(given: Given, budget: float, name: str, seed: int) -> Node:
    """The pruned model, healed and made to forget a set of concepts at once."""
    values = {"seed": seed} | given.params["distill"] | given.params["bilevel"]
    pruned, data = prune(given, budget), encoded.encode(given, "finetune")
    concepts = encoded.of_set(given, name)
    return Node(
        given.experiment,
        "bilevel",
        "weights",
        "bilevel",
        f"{tag(budget)}-{name}-s{seed}",
        options=values,
        parents={"base": given.base, "pruned": pruned, "data": data, **encoded.parents(concepts)},
        flags=[
            *given.base_flags,
            *folders(pruned=pruned, data=data),
            *encoded.words("--concepts", concepts),
            *cli.flags(values),
        ],
    )


def erase(given: Given, eraser: str, model: Node | None, name: str, seed: int, start: str) -> Node:
    """Concepts erased from some weights, or without from the dense base. `start`: how the key begins."""
    values, needs = given.params["erase"][eraser], registry.needs("erasers", eraser)
    concepts = given.concepts(name)
    check_pairs(values, concepts.values(), f"erase.{eraser}")
    pictures = encoded.of_set(given, name) if "concepts" in needs else {}
    data = {"data": encoded.encode(given, "finetune")} if "data" in needs else {}
    return Node(
        given.experiment,
        "erase",
        "weights",
        eraser,
        f"{start}-{name}-s{seed}",
        options={"eraser": eraser, "seed": seed, "concepts": concepts} | given.resolution | values,
        parents={"base": given.base, **some(model=model), **data, **encoded.parents(pictures)},
        flags=[
            *given.sized_flags,
            *folders(model=model, **data),
            *["--eraser", eraser, "--concepts", canonical(concepts)],
            *encoded.words("--concept-pictures", pictures),
            *cli.flags({"seed": seed} | values),
        ],
    )


def tag(budget: float) -> str:
    """0.8 -> b080."""
    return f"b{round(budget * 100):03d}"
