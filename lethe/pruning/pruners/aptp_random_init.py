"""The shapes of an APTP expert, with fresh weights: the control of arXiv 2412.15341, Figure 5, as the paper has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lethe.models.unets import of_config
from lethe.pruning.pruners import aptp

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from lethe.pruning.narrowing import Goal

NEEDS = ["checkpoint"]
FRESH = True  # its weights are not those of the net that it is given
OPTIONS = {
    "checkpoint": {"$ref": "#/$defs/expert"},
    "draw": {"description": "seed of the new weights", "$ref": "#/$defs/seed"},
}
check = aptp.check


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """A new net, initialised as the library does it for a dense one and then cut as the expert is. Refuses what `aptp`
    refuses, an expert without its weights too, though they are not read: they are part of its address."""
    import torch

    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: equal weights on any device
        torch.manual_seed(goal.options["draw"])
        fresh = of_config(unet.config)
    layers = aptp.shape(fresh, goal)
    return fresh.to(unet.device).eval().requires_grad_(False), layers
