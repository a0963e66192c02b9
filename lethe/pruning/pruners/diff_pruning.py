"""Diff-Pruning (Fang et al. 2023, arXiv 2305.10924): sum |w g|, with gradients g of the informative timesteps alone.

t rises from 0, and the sum stops when the loss there has fallen below a share of the largest one so far: what is left
at high noise are steps that any unit could do without. See `lethe.pruning.calibration`.
"""

from functools import partial

from diffusers import UNet2DConditionModel

from lethe.files.errors import needed
from lethe.pruning.calibration import taylor
from lethe.pruning.narrowing import Goal, narrow

NEEDS = ["data"]
OPTIONS = {
    "$ref": "#/$defs/gradients",
    "threshold": {
        "description": "share of the largest loss so far below which no further timestep counts; 0 takes all. The "
        "release has 0.05 for pixels, 0.1 for latents",
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.1,
    },
}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """Prunes `unet` in place; see the package's docstring."""
    weigh = partial(
        taylor,
        calibration=needed(goal.calibration, "calibration"),
        options=goal.options,
        multivariable=False,
        threshold=goal.options["threshold"],
    )
    return unet, narrow(unet, goal, weigh)
