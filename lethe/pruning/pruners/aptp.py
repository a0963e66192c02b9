"""APTP: takes over a published expert (Ganjdanesh et al. 2024, arXiv 2406.12042), as its authors and those of the
bilevel paper (arXiv 2412.15341) store it: arch_vector.pt, and unet/ with the expert's own weights.

The vector holds a soft gate for every unit that could go; at 0.5 and above it stays. Widths come first, in the order of
the net: down blocks, mid block, up blocks, and in each first its residual blocks, a gate for every group of the second
GroupNorm, then its transformers: heads of attn1, heads of attn2, equal shares of the feed-forward's neurons. Depths
come after all widths, in the same order: of every down and up block the last residual block and the last transformer.
SD 2.1 has 1606 and 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import UserError
from lethe.files.io import read_json
from lethe.models.unets import check_weights, of_config, read_state

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from lethe.pruning.narrowing import Goal

NEEDS = ["checkpoint"]
FRESH = True  # its weights are not those of the net that it is given
OPTIONS = {
    "checkpoint": {"$ref": "#/$defs/expert"},
}
VECTOR = "arch_vector.pt"
SAME = ("block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim", "norm_num_groups")


def check(options: Mapping) -> None:
    """Raises UserError if files of the checkpoint are missing or not whole; imports no torch."""
    folder = Path(options["checkpoint"])
    _vector_file(folder)
    config = read_json(folder / "unet" / "config.json")
    blocks = [*config.get("down_block_types", []), *config.get("up_block_types", [])]
    other = sorted({kind for kind in blocks if kind.endswith("Gated") and not kind.endswith("HalfGated")})
    if other or not config.get("gated_ff", True):
        raise UserError(
            f"{folder / 'unet' / 'config.json'}: {', '.join(other) or 'feed-forwards without gates'}; experts that can "
            "be read have gated feed-forwards, and may drop the last layer of a block alone (...HalfGated)"
        )
    check_weights(folder / "unet")


def _vector_file(folder: Path) -> Path:
    for place in (folder / VECTOR, folder / "unet" / VECTOR):
        if place.is_file():
            return place
    raise UserError(f"{folder}: no {VECTOR} there; prune.checkpoint is a folder with {VECTOR} and unet/")


def prune(unet: UNet2DConditionModel, goal: Goal) -> tuple[UNet2DConditionModel, dict[str, dict]]:
    """The expert, on the device of `unet`; see the package's docstring.

    Raises UserError if it is of another architecture, or keeps another share of the MACs than the budget.
    """
    import torch

    folder = Path(goal.options["checkpoint"])
    with torch.device("meta"):
        found = of_config(unet.config)
    layers = shape(found, goal)
    try:
        found.load_state_dict(read_state(folder / "unet"), strict=True, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"{folder}: its weights do not fit {VECTOR} and the base model: {' '.join(str(error).split())[:300]}"
        ) from None
    return found.to(unet.device).eval().requires_grad_(False), layers


def shape(unet: UNet2DConditionModel, goal: Goal) -> dict[str, dict]:
    """Cuts a net of the base's form, in place, as the expert is cut; the record of what is kept.

    Raises UserError as `prune` does.
    """
    from lethe.models.cutting import cut
    from lethe.models.macs import count_macs

    folder = Path(goal.options["checkpoint"])
    config = read_json(folder / "unet" / "config.json")
    _check_config(unet, config, folder)
    layers = read_layers(unet, read_vector(folder), config.get("ff_gate_width", 32), folder)
    try:
        cut(unet, layers)
    except ValueError as error:
        raise UserError(f"{folder}: {error}; was this expert made from another base model?") from None
    left = count_macs(unet, goal.latent_shape, goal.text_length) / goal.dense
    if abs(left - goal.budget) > goal.tolerance:
        raise UserError(
            f"--budget: {goal.budget} is not what {folder} keeps at this resolution, {left:.4f} of the MACs; ask for "
            "that"
        )
    return layers


def _check_config(unet: UNet2DConditionModel, config: Mapping, folder: Path) -> None:
    for key in SAME:
        ours, theirs = (_plain(found.get(key)) for found in (unet.config, config))
        if key in config and ours != theirs:
            raise UserError(
                f"{folder}: made from another base model: {key} is {theirs} there and {ours} in this one; give "
                "that base"
            )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else value


def read_vector(folder: Path) -> Tensor:
    """The gates, [N] float32."""
    import pickle

    import torch

    path = _vector_file(folder)
    try:
        # The published format is torch's own, and this is the only way to read it: the restricted reader, which builds
        # tensors and runs no code.
        vector = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a file of one tensor: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(vector, torch.Tensor) or vector.dim() not in (1, 2) or (vector.dim() == 2 and len(vector) != 1):
        raise UserError(f"{path}: holds no single architecture vector [1, N]")
    return vector.flatten().float()


def read_layers(unet: UNet2DConditionModel, vector: Tensor, shares: int | list[int], folder: Path) -> dict[str, dict]:
    """The record of what the vector keeps. `shares`: gates of a feed-forward; a list has one a stage, and the mid's.

    Raises UserError if the vector is not of this net's length, or leaves a layer without units.
    """
    from lethe.models.cutting import units

    widths, depths = list(width_gates(unet, shares)), depth_gates(unet)
    wanted = sum(gates for _, _, gates in widths) + len(depths)
    if len(vector) != wanted:
        raise UserError(
            f"{folder}: {VECTOR} has {len(vector)} gates, this base model's U-Net has {wanted}: the expert was made "
            "from another base model; give that one as --base"
        )
    on = vector >= 0.5
    dropped = [path for path, gate in zip(depths, on[-len(depths) :].tolist(), strict=True) if not gate]
    found = {path: {"kind": "dropped", "total": 1, "kept": []} for path in dropped}
    start = 0
    for path, kind, gates in widths:
        kept = on[start : start + gates].nonzero().flatten().tolist()
        start += gates
        if any(path == gone or path.startswith(f"{gone}.") for gone in dropped):
            continue
        total = units(unet.get_submodule(path), kind)
        if not kept or total % gates:
            raise UserError(
                f"{folder}: {VECTOR} keeps {len(kept)} of {gates} gates for {total} units of {path}; that is no expert"
            )
        each = total // gates
        kept = [unit for gate in kept for unit in range(gate * each, (gate + 1) * each)]
        found[path] = {"kind": kind, "total": total, "kept": kept}
    return found


def width_gates(unet: UNet2DConditionModel, shares: int | list[int]) -> Iterator[tuple[str, str, int]]:
    """Path, kind and number of gates of every layer with width gates, in the order of the vector."""
    down, up = len(unet.down_blocks), len(unet.up_blocks)
    each = [shares] * (down + 1) if isinstance(shares, int) else shares
    blocks = [(f"down_blocks.{i}", unet.down_blocks[i], each[i]) for i in range(down)]
    blocks += [("mid_block", unet.mid_block, each[-1])]
    blocks += [(f"up_blocks.{i}", unet.up_blocks[i], each[down - 1 - i]) for i in range(up)]
    for path, block, neurons in blocks:
        for i, resnet in enumerate(block.resnets):
            yield f"{path}.resnets.{i}", "groups", resnet.norm2.num_groups
        for i, transformer in enumerate(getattr(block, "attentions", [])):
            for j, layer in enumerate(transformer.transformer_blocks):
                inside = f"{path}.attentions.{i}.transformer_blocks.{j}"
                yield f"{inside}.attn1", "heads", layer.attn1.heads
                yield f"{inside}.attn2", "heads", layer.attn2.heads
                yield f"{inside}.ff", "ffn", neurons


def depth_gates(unet: UNet2DConditionModel) -> list[str]:
    """Paths of what may be dropped, in the order of the vector."""
    found = []
    for side in ("down_blocks", "up_blocks"):
        for i, block in enumerate(getattr(unet, side)):
            found.append(f"{side}.{i}.resnets.{len(block.resnets) - 1}")
            if hasattr(block, "attentions"):
                found.append(f"{side}.{i}.attentions.{len(block.attentions) - 1}")
    return found
