"""The shapes that magnitude leaves, with fresh weights: the control of arXiv 2412.15341, Figure 5."""

import torch
from diffusers import UNet2DConditionModel

from lethe.models.cutting import cut
from lethe.models.unets import of_config
from lethe.pruning.narrowing import Goal, narrow
from lethe.pruning.pruners import magnitude

FRESH = True  # its weights are not those of the net that it is given
OPTIONS = {"draw": {"description": "seed of the new weights", "$ref": "#/$defs/seed"}}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """A new net, initialised as the library does it for a dense one and then cut; see the package's docstring."""
    layers = narrow(unet, goal, magnitude.importance)
    device = unet.device
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: equal weights on any device
        torch.manual_seed(goal.options["draw"])
        fresh = of_config(unet.config)
    cut(fresh, layers)
    return fresh.to(device).eval().requires_grad_(False), layers
