"""Random units, equally many a layer as the other width pruners: the floor that a criterion has to beat."""

from collections.abc import Mapping
from functools import partial

import torch
import torch_pruning as tp
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lethe.models.cutting import channels
from lethe.pruning.narrowing import KINDS, Goal, narrow
from lethe.training.data import generator

OPTIONS = {"draw": {"description": "seed of the random choice of units", "$ref": "#/$defs/seed"}}


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """Prunes `unet` in place; see the package's docstring."""
    return unet, narrow(unet, goal, partial(importance, draw=goal.options["draw"]))


def importance(unet: nn.Module, groups: Mapping[str, tp.Group], draw: int) -> dict[str, Tensor]:
    """Uniform scores [channels] by layer; a layer's depend on its path alone."""
    found = {}
    for path in groups:
        layer = unet.get_submodule(path)
        found[path] = torch.rand(channels(layer, KINDS[type(layer)]), generator=generator(draw, f"prune:{path}", 0))
    return found
