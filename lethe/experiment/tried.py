"""Section `attacks` of an experiment: which attacks are tried on which arms, and what they read."""

from lethe.params import registry


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
