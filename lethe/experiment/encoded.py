"""Nodes of stage encode: what models are trained on, as latents and caption embeddings; and where its pictures are."""

from lethe.experiment import samples
from lethe.experiment.given import Given
from lethe.experiment.graph import Node
from lethe.stage import cli


def pictures(given: Given, concept: str) -> tuple[str, Node | str, tuple[str, ...]]:
    """Folder, parent and, where they are not ours, the folder again as one that must be there."""
    own = given.params["concepts"][concept]["pictures"]
    if own:
        return own, given.pictures[concept], (own,)
    node = samples.pictures(given, concept)
    return str(node.folder), node, ()


def make_flags(given: Given) -> list[str]:
    """--make, for a stage that reads pictures which a command makes."""
    make = given.params["pictures"]["make"]
    return ["--make", make] if make else []


def encode(given: Given, name: str) -> Node:
    """Latents and caption embeddings of the fine-tuning pictures ("finetune") or of a concept's."""
    values = given.params["encode"]
    parent: Node | str
    needed: tuple[str, ...]
    if name == "finetune":
        folder, prompt, anchor = given.params["pictures"]["finetune"], None, None
        parent, needed = given.finetune_pictures, (folder,)
    else:
        folder, parent, needed = pictures(given, name)
        prompt, anchor = (given.params["concepts"][name][key] for key in ("prompt", "anchor"))
    return Node(
        given.experiment,
        "encode",
        "encode",
        "frozen",
        name,
        options={"flip": values["flip"], "prompt": prompt, "anchor": anchor} | given.resolution,
        parents={"base": given.base, "pictures": parent},
        flags=[
            *given.sized_flags,
            *["--pictures", folder],
            *(["--prompt", prompt, "--anchor", anchor] if prompt else []),
            *([*make_flags(given), *given.subset_flags] if needed else []),
            *cli.flags(values),
        ],
        pictures=needed,
    )


def of_set(given: Given, name: str) -> dict[str, Node]:
    """Those of each concept of a set."""
    return {member: encode(given, member) for member in given.members(name)}


def parents(concepts: dict[str, Node]) -> dict[str, Node]:
    """Encoded concepts as parents, by role."""
    return {f"concept:{name}": node for name, node in concepts.items()}


def words(flag: str, concepts: dict[str, Node]) -> list[str]:
    """A flag that names the folder of each encoded concept: --concepts NAME=FOLDER ...; nothing without concepts."""
    return [flag, *(f"{name}={node.folder}" for name, node in concepts.items())] if concepts else []
