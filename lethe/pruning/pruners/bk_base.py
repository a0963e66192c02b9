"""BK-SDM-Base (Kim et al. 2023, arXiv 2305.15798): a down block keeps its first layer, an up block its first and last.

A layer is a residual block with its attention.
"""

from diffusers import UNet2DConditionModel

from lethe.pruning.narrowing import Goal
from lethe.pruning.pruners import _blocks

VERSION = 2  # 1 passed over what the base's config.json leaves out
OPTIONS: dict[str, dict] = {}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """A smaller net that inherits its weights; see the package's docstring."""
    return _blocks.remove(unet, goal)


def removed(unet: UNet2DConditionModel) -> list[str]:
    """Paths of the blocks that go."""
    return _blocks.gone(unet)
