"""L2 magnitude: the sum of squares of all weights that go with a channel (group magnitude of DepGraph, CVPR 2023)."""

from collections.abc import Mapping

import torch_pruning as tp
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lethe.pruning.narrowing import Goal, narrow

OPTIONS: dict[str, dict] = {}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """Prunes `unet` in place; see the package's docstring."""
    return unet, narrow(unet, goal, importance)


def importance(unet: nn.Module, groups: Mapping[str, tp.Group]) -> dict[str, Tensor]:
    """Scores [channels] by layer."""
    score = tp.importance.GroupMagnitudeImportance(p=2)
    return {path: score(group) for path, group in groups.items()}
