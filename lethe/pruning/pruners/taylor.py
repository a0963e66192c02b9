"""Taylor: the loss that goes with a channel, |sum w g|, with gradients g of all timesteps (arXiv 1906.10771).

As the baseline of Diff-Pruning (arXiv 2305.10924) has it. See `lethe.pruning.calibration`.
"""

from functools import partial

from diffusers import UNet2DConditionModel

from lethe.files.errors import needed
from lethe.pruning.calibration import taylor
from lethe.pruning.narrowing import Goal, narrow

NEEDS = ["data"]
OPTIONS = {"$ref": "#/$defs/gradients"}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """Prunes `unet` in place; see the package's docstring."""
    weigh = partial(
        taylor, calibration=needed(goal.calibration, "calibration"), options=goal.options, multivariable=True
    )
    return unet, narrow(unet, goal, weigh)
