"""A network is whole: every weight that its config asks for is there, none is left over, all are finite numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lethe.files.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NAMED = 3  # keys that a message names
WRAPPED = {  # what others' code leaves before the names of weights, and how it is taken off
    "module.": "saved from torch's DataParallel; save model.module instead",
    "_orig_mod.": "saved from a compiled model; save model._orig_mod instead",
    "base_layer": "saved with a LoRA beside it; merge that first (peft: merge_and_unload)",
    "lora_": "saved with a LoRA beside it; merge that first (peft: merge_and_unload)",
}


def check_keys(where: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises UserError, naming weights and what to do, for some that lack or are left over; `where` names the part."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    found = [f"lacks {_some(missing)}"] if missing else []
    found += [f"has {_some(unexpected)}, which its config knows nothing of"] if unexpected else []
    if found:
        told = next((told for word, told in WRAPPED.items() if any(word in key for key in unexpected)), None)
        raise UserError(f"{where}: {' and '.join(found)}; {told or 'fetch or make it again, with its own config.json'}")


def _some(keys: list[str]) -> str:
    named = ", ".join(keys[:NAMED])
    return f"weight {named}" if len(keys) == 1 else f"{len(keys)} weights ({named}{', ...' if keys[NAMED:] else ''})"


def check_finite(where: str, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError for weights that hold NaN or infinity, naming the first.

    A sum is one pass at the speed of memory, and is not finite if a summand is not; only where it is not, which finite
    numbers may bring about too, is each looked at.
    """
    import torch

    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.is_meta or torch.isfinite(weight.sum()):
            continue
        bad = int(weight.numel() - torch.isfinite(weight).sum())
        if bad:
            raise UserError(
                f"{where}: weight {name} has {bad} of {weight.numel()} numbers that are NaN or infinite; "
                "fetch or make it again"
            )
