"""Removal of whole blocks as in BK-SDM (Kim et al. 2023, arXiv 2305.15798, section 3.1), for any number of stages.

The result is a stock U-Net of a smaller config. A down block keeps its first pair of residual block and attention, an
up block its first and last: the last takes another skip connection than the others. What is innermost changes least
when it goes, so bk_small removes the mid block, and bk_tiny the innermost stage besides; the up blocks then inherit
from their outer neighbours' places.
"""

import re

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lethe.files.errors import UserError
from lethe.models.macs import count_macs
from lethe.models.unets import of_config
from lethe.pruning.narrowing import Goal, narrow
from lethe.pruning.pruners import magnitude

PER_STAGE = (
    "block_out_channels",
    "down_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "only_cross_attention",
    "transformer_layers_per_block",
)


def remove(
    unet: UNet2DConditionModel, goal: Goal, *, mid: bool = False, stage: bool = False
) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """The net without those blocks, width-pruned by magnitude if that is not small enough, and the record of that.

    Raises UserError if there is nothing to remove, or if less than the budget is left.
    """
    config = smaller(unet, mid, stage)
    with torch.device("meta"):
        small = of_config(config)
    macs = count_macs(small, goal.latent_shape, goal.text_length)
    if macs < (goal.budget - goal.tolerance) * goal.dense:
        left = macs / goal.dense
        raise UserError(
            f"--budget: {goal.budget} is more than these blocks leave, {left:.4f} of the MACs; ask for {left:.4f}, or "
            "for less, and magnitude takes the rest"
        )
    small.load_state_dict(inherited(unet, small, stage), strict=True, assign=True)
    small = small.eval().requires_grad_(False)
    above = macs > (goal.budget + goal.tolerance) * goal.dense
    return small, narrow(small, goal, magnitude.importance) if above else {}


def smaller(unet: UNet2DConditionModel, mid: bool, stage: bool) -> dict:
    """The config of what is left. Raises UserError if the net has nothing of what is to go."""
    stages = len(unet.config.block_out_channels)
    pairs = any(len(block.resnets) > 1 for block in unet.down_blocks)
    if mid and unet.mid_block is None:
        raise UserError(
            "prune.pruner: this U-Net has no mid block that could be removed; take bk_base or a width pruner"
        )
    if stage and stages < 2:
        raise UserError("prune.pruner: this U-Net has one stage alone, and none that could be removed; take bk_small")
    if not (mid or stage or pairs):
        raise UserError(
            "prune.pruner: every block of this U-Net has one layer alone (layers_per_block 1), so bk_base has nothing "
            "to remove; take bk_small, bk_tiny or a width pruner"
        )
    config = dict(unet.config) | {"layers_per_block": 1}
    if mid:
        config["mid_block_type"] = None
    if stage:
        for key in PER_STAGE:
            value = config.get(key)
            config[key] = value[:-1] if isinstance(value, list | tuple) else value
        config["up_block_types"] = config["up_block_types"][1:]
        if isinstance(config.get("reverse_transformer_layers_per_block"), list | tuple):
            config["reverse_transformer_layers_per_block"] = config["reverse_transformer_layers_per_block"][1:]
    return config


def gone(unet: UNet2DConditionModel, *, mid: bool = False, stage: bool = False) -> list[str]:
    """Paths in `unet` of the blocks that are left out, outermost alone, in the order of the net."""
    last, found = len(unet.down_blocks) - 1, []
    for i, block in enumerate(unet.down_blocks):
        if stage and i == last:
            found.append(f"down_blocks.{i}")
            continue
        found += _inner(block, f"down_blocks.{i}", range(1, len(block.resnets)))
        if stage and i == last - 1:
            found.append(f"down_blocks.{i}.downsamplers")
    found += ["mid_block"] if mid else []
    for i, block in enumerate(unet.up_blocks):
        if stage and i == 0:
            found.append("up_blocks.0")
            continue
        found += _inner(block, f"up_blocks.{i}", range(1, len(block.resnets) - 1))
    return found


def _inner(block: torch.nn.Module, path: str, indices: range) -> list[str]:
    kinds = [kind for kind in ("resnets", "attentions") if hasattr(block, kind)]
    return [f"{path}.{kind}.{index}" for index in indices for kind in kinds]


def inherited(unet: UNet2DConditionModel, small: UNet2DConditionModel, stage: bool) -> dict[str, Tensor]:
    """A state dict of `small`, copied from `unet`."""
    state, found = unet.state_dict(), {}
    for name, like in small.state_dict().items():
        value = state[source(name, unet, stage)]
        if value.shape != like.shape:
            value = _without_lost_inputs(value, like.shape, small.config.block_out_channels[-1], name)
        found[name] = value.detach().clone()
    return found


def source(name: str, unet: UNet2DConditionModel, stage: bool) -> str:
    """The parameter of the dense net that one of the small net starts from."""
    place = re.match(r"up_blocks\.(\d+)\.(?:(resnets|attentions)\.(\d+))?", name)
    if place is None:
        return name
    block, kind, index = int(place[1]) + stage, place[2], place[3]
    start = f"up_blocks.{block}."
    if kind:
        last = len(unet.up_blocks[block].resnets) - 1
        start += f"{kind}.{0 if index == '0' else last}"
    return start + name[place.end() :]


def _without_lost_inputs(value: Tensor, wanted: torch.Size, hidden: int, name: str) -> Tensor:
    """The first `hidden` input channels, and the skip channels behind those that the removed stage would have sent.

    Only where the removed stage was wider than the next; in Stable Diffusion they are equally wide.
    """
    dim = 1 if value.dim() > 1 else 0
    lost = value.shape[dim] - wanted[dim]
    if lost < 0:
        raise UserError(
            f"prune.pruner: the innermost stage is narrower than the next, so {name} cannot be inherited; take bk_small"
        )
    return torch.cat([value.narrow(dim, 0, hidden), value.narrow(dim, hidden + lost, wanted[dim] - hidden)], dim)
