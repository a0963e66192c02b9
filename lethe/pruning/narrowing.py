"""Structured pruning of a U-Net to a MACs budget; the pruners themselves are plug-ins, `lethe/pruning/pruners`.

Width pruning, which most of them share, is here. Three kinds of unit go: neurons of feed-forwards, whole attention
heads, and inner channels of residual blocks, one from each group of the second GroupNorm, so that the groups keep their
partition and their statistics their meaning. The residual trunk keeps its widths; so skips, down- and upsamplers and
the text width are untouched, and what one layer loses never touches another: a unit's cost is a constant, and MACs are
linear in the units kept.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch_pruning as tp
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from lethe.files.errors import UserError
from lethe.models.cutting import channels, cut, members, units
from lethe.models.macs import count_macs, count_params, macs_by_module, released_macs
from lethe.params import registry
from lethe.pruning.calibration import Calibration

KINDS = {FeedForward: "ffn", Attention: "heads", ResnetBlock2D: "resnet"}

# (unet, groups) -> {path: scores [channels]}; `groups` holds by layer all weight slices that go with a channel. Any
# float dtype, any device; only the order inside one layer matters.
Importance = Callable[[nn.Module, Mapping[str, tp.Group]], dict[str, Tensor]]


@dataclass(frozen=True)
class Goal:
    """What a pruner is to reach, and what it may look at."""

    budget: float  # fraction of the dense net's MACs to keep
    latent_shape: tuple[int, int, int]
    text_length: int
    keep_least: float  # fraction of any layer's units
    tolerance: float  # of |MACs kept - budget|, as a fraction of the dense net's MACs
    options: Mapping = field(default_factory=dict)  # the pruner's own
    calibration: Calibration | None = None  # for pruners with NEEDS = ["data"]
    dense: int = 0  # the dense net's MACs; `prune` counts them


@dataclass(frozen=True)
class Layer:
    """A layer that can lose units. A step is the least that can go: a neuron, a head, a channel of each norm group."""

    path: str
    kind: str
    steps: int
    cost: int  # MACs of one step


def prune(unet: UNet2DConditionModel, pruner: str, goal: Goal) -> tuple[UNet2DConditionModel, dict]:
    """The pruned net, and what its `pruning.json` holds. `unet` may be edited and must not be used further.

    Raises UserError if the budget cannot be met, before anything is changed.
    """
    params, plugin = count_params(unet), registry.get("pruners", pruner)
    released = released_macs(unet, goal.latent_shape)
    goal = replace(goal, dense=count_macs(unet, goal.latent_shape, goal.text_length))
    removed = plugin.removed(unet) if hasattr(plugin, "removed") else []
    found, layers = plugin.prune(unet, goal)
    kept = count_macs(found, goal.latent_shape, goal.text_length)
    if abs(kept - goal.budget * goal.dense) > goal.tolerance * goal.dense + 1:
        raise RuntimeError(f"pruner {pruner} left {kept} of {goal.dense} MACs, asked for was {goal.budget}")
    return found, {
        "budget": goal.budget,
        "pruner": pruner,
        "options": dict(goal.options),
        "keep_least": goal.keep_least,
        "latent_shape": list(goal.latent_shape),
        "text_length": goal.text_length,
        "macs": {"dense": goal.dense, "kept": kept},
        "macs_released": {"dense": released, "kept": released_macs(found, goal.latent_shape)},
        "params": {"dense": params, "kept": count_params(found)},
        "removed": removed,
        "layers": layers,
    }


def narrow(unet: UNet2DConditionModel, goal: Goal, importance: Importance) -> dict[str, dict]:
    """Width-prunes `unet` in place to the goal; returns the layers' part of `pruning.json`.

    Every layer loses the same share of its units, the least important first, but keeps at least `keep_least` of them.
    Raises UserError if the budget cannot be met within the tolerance, before anything is changed.
    """
    size = (goal.latent_shape, goal.text_length)
    macs = macs_by_module(unet, *size)
    layers = find_layers(unet, macs)
    steps = allot(layers, macs[""], goal)
    scores = importance(unet, coupled(unet, layers, *size))
    record = {
        layer.path: {
            "kind": layer.kind,
            "total": units(unet.get_submodule(layer.path), layer.kind),
            "kept": select(scores[layer.path], layer, kept),
        }
        for layer, kept in zip(layers, steps, strict=True)
    }
    cut(unet, record)
    planned = macs[""] - sum(layer.cost * (layer.steps - kept) for layer, kept in zip(layers, steps, strict=True))
    counted = count_macs(unet, *size)
    if counted != planned:
        raise RuntimeError(
            f"the pruned net has {counted} MACs, planned were {planned}: a layer is coupled in an unknown way"
        )
    return record


def find_layers(unet: nn.Module, macs: Mapping[str, int]) -> list[Layer]:
    """All prunable layers in the order of the net. `macs` as `lethe.models.macs.macs_by_module` counts them."""
    layers = []
    for path, module in unet.named_modules():
        kind = KINDS.get(type(module))
        if kind is None:
            continue
        if kind == "resnet":  # its shortcut and first norm stay
            names = ("conv1", "time_emb_proj", "conv2")
            steps, cost = module.norm2.num_groups, sum(macs.get(f"{path}.{name}", 0) for name in names)
            steps = channels(module, kind) // steps
        else:
            steps, cost = units(module, kind), macs[path]
        layers.append(Layer(path, kind, steps, cost // steps))
    return layers


def allot(layers: list[Layer], macs: int, goal: Goal) -> list[int]:
    """Steps each layer keeps, so that a net of `macs` MACs comes down to the goal's share of the dense net's.

    One pruning ratio rises from 0 for all layers at once, and a layer loses its next step when the ratio passes the
    middle of that step. A step that would take the net below the budget is passed over; finer ones, in the end single
    neurons, close the gap that rounding leaves.
    """
    dense, budget = goal.dense or macs, goal.budget
    queue = sorted(
        ((i + 0.5) / layer.steps, index)
        for index, layer in enumerate(layers)
        for i in range(layer.steps - max(1, math.ceil(goal.keep_least * layer.steps - 1e-9)))
    )
    kept = [layer.steps for layer in layers]
    gap = macs - budget * dense
    for _, index in queue:
        if layers[index].cost <= gap:
            gap -= layers[index].cost
            kept[index] -= 1
    if gap > goal.tolerance * dense:
        least = macs - sum(layers[index].cost for _, index in queue)
        raise UserError(
            f"--budget: {budget} cannot be met within {goal.tolerance}: with keep_least {goal.keep_least} this net "
            f"goes down to {least / dense:.3f} of its MACs, and the nearest to the budget is "
            f"{budget + gap / dense:.3f}; raise the budget or lower prune.keep_least"
        )
    return kept


def coupled(
    unet: UNet2DConditionModel, layers: list[Layer], latent_shape: tuple[int, int, int], text_length: int
) -> dict[str, tp.Group]:
    """The torch-pruning group behind each layer's inner channels.

    Groups are rooted where the inner channels are read, so that the halves of a GEGLU follow one neuron; rooted at its
    wide side, a neuron's index would also delete its neighbour in the other half. Raises RuntimeError if the graph
    couples weights that `lethe.models.cutting.cut` does not know of.
    """
    side = 2 ** len(unet.config.block_out_channels)  # the graph does not depend on the size
    weight = unet.conv_in.weight
    inputs = {
        "sample": weight.new_zeros(1, latent_shape[0], side, side),
        "timestep": torch.zeros(1, dtype=torch.long, device=weight.device),
        "encoder_hidden_states": weight.new_zeros(1, text_length, unet.config.cross_attention_dim),
    }
    frozen = [parameter for parameter in unet.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:  # the graph is read off autograd: a frozen net would show none
            parameter.requires_grad_(True)
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(unet, example_inputs=inputs)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    groups = {}
    for layer in layers:
        known = members(unet.get_submodule(layer.path), layer.kind)
        root = known[-1][0]
        ways_in = tp.prune_conv_in_channels if isinstance(root, nn.Conv2d) else tp.prune_linear_in_channels
        group = graph.get_pruning_group(root, ways_in, list(range(root.weight.shape[1])))
        found = {item.dep.layer for item in group if any(True for _ in item.dep.layer.parameters())}
        if found != {module for module, _ in known}:
            raise RuntimeError(
                f"{layer.path}: the dependency graph couples other weights than expected for {layer.kind}"
            )
        groups[layer.path] = group
    return groups


def select(scores: Tensor, layer: Layer, steps: int) -> list[int]:
    """Indices of the units to keep, ascending: the most important; in a residual block equally many a norm group."""
    per_unit = scores.detach().float().cpu()
    if layer.kind == "heads":
        per_unit = per_unit.view(layer.steps, -1).sum(1)
    parts = per_unit.view(-1, layer.steps)  # [norm groups, channels each]; one row for neurons and heads
    best = parts.sort(dim=1, descending=True, stable=True).indices[:, :steps].sort(dim=1).values
    return (best + layer.steps * torch.arange(len(parts))[:, None]).flatten().tolist()
