"""Which weights an arm has: the stages behind it, in the order that the grid names."""

from lethe.experiment.given import Given
from lethe.experiment.graph import Node
from lethe.experiment.weights import bilevel, distill, erase, prune, tag

UNERASED = ("base", "pruned", "distill")  # arms whose weights know nothing of the set of erased concepts


def weights(given: Given, arm: str, budget: float, name: str, seed: int) -> Node | None:
    """Node of an arm's weights; None for the base model."""
    match arm:
        case "base":
            return None
        case "pruned":
            return prune(given, budget)
        case "distill":
            return distill(given, budget, seed)
        case "bilevel":
            return bilevel(given, budget, name, seed)
        case _:
            return ordered(given, arm, budget, name, seed)


def ordered(given: Given, eraser: str, budget: float, name: str, seed: int) -> Node:
    """Pruning, distilling and erasing in the order that the grid names."""
    dense, start = (eraser, None, name, seed, "dense"), tag(budget)
    match given.params["grid"]["order"]:
        case "erase":
            return erase(given, *dense)
        case "prune_erase":
            return erase(given, eraser, prune(given, budget), name, seed, start)
        case "prune_erase_distill":
            erased = erase(given, eraser, prune(given, budget), name, seed, start)
            return distill(given, budget, seed, erased)
        case "erase_prune_distill":
            teacher = erase(given, *dense)
            return distill(given, budget, seed, prune(given, budget, teacher), teacher)
        case "erase_distill":
            return distill(given, budget, seed, prune(given, budget), erase(given, *dense))
        case _:
            return erase(given, eraser, distill(given, budget, seed), name, seed, start)
