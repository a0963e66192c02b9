"""Nodes of stage sample: pictures of every prompt set, and those drawn of a concept that brings none."""

from lethe.experiment.given import Given
from lethe.experiment.graph import Node, folders, some
from lethe.stage import cli


def sample(given: Given, weights: Node | None) -> Node:
    """Pictures of every prompt set, drawn with some weights or, without, by the base model."""
    values = given.params["sample"]
    return Node(
        given.experiment,
        "sample",
        "samples",
        weights.arm if weights else "base",
        weights.key if weights else "base",
        options=values | given.resolution,
        parents={"base": given.base, **some(model=weights), **given.prompt_files},
        flags=[
            *given.sized_flags,
            *folders(model=weights),
            *["--prompts", *(f"{name}={path}" for name, path in given.prompts.items())],
            *given.skip_flags,
            *cli.flags(values),
        ],
    )


def pictures(given: Given, concept: str) -> Node:
    """Pictures of a concept that brings none, drawn by the base model."""
    own = {"prompt": given.params["concepts"][concept]["prompt"], "count": given.params["encode"]["generated"]}
    values = given.origin.params["sample"]  # a table that draws otherwise does not train on other pictures
    return Node(
        given.experiment,
        "sample",
        "samples",
        "base",
        f"pictures-{concept}",
        options=values | own | given.resolution,
        parents={"base": given.base},
        flags=[*given.sized_flags, *cli.flags(own), *cli.flags(values)],
    )
