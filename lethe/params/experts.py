"""Published experts by budget: `prune.checkpoint` names one folder, or one for each budget of the experiment."""

from collections.abc import Mapping

from lethe.files.errors import UserError


def at_budget(prune: Mapping, budget: float) -> dict:
    """Section `prune` for one budget: where `checkpoint` maps budgets to folders, the folder of this one. A result's
    address counts that folder alone, so naming the others moves nothing.

    Raises UserError for a budget without an expert.
    """
    experts = prune.get("checkpoint")
    if not isinstance(experts, Mapping):
        return dict(prune)
    found = [folder for key, folder in experts.items() if float(key) == budget]
    if not found:
        raise UserError(f"prune.checkpoint: no expert for budget {budget:g}; it has {', '.join(experts)}; add a folder")
    return dict(prune) | {"checkpoint": found[0]}
