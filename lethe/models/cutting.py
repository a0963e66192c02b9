"""The only surgery on a U-Net: units that a record names stay, all others go.

The pruner applies it to weights, the loader to an empty skeleton, so the two cannot disagree.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from lethe.models.dropped import in_place_of

if TYPE_CHECKING:
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    Block: TypeAlias = FeedForward | Attention | ResnetBlock2D  # what has units to lose

Part = nn.Linear | nn.Conv2d | nn.GroupNorm  # what a block holds its weights in


def cut(unet: nn.Module, layers: Mapping[str, Mapping]) -> None:
    """Keeps only the units that `layers` names, in place: {path: {"kind", "total", "kept": [index, ...]}}.

    kind "ffn": neurons of a FeedForward; "heads": whole heads of an Attention; "resnet": inner channels of a
    ResnetBlock2D, equally many from each group of norm2; "groups": whole groups of norm2 with their channels;
    "dropped": a ResnetBlock2D or Transformer2DModel that goes altogether (total 1, kept []): it passes on what it is
    given, without the skip channels that an up block appends. Raises ValueError if a layer is not as recorded.
    """
    for path, layer in layers.items():
        module: Block = unet.get_submodule(path)
        kept = torch.tensor(layer["kept"], dtype=torch.long)
        if layer["kind"] == "dropped":
            _drop(unet, path, layer)
            continue
        if units(module, layer["kind"]) != layer["total"] or not len(kept) or int(kept.max()) >= layer["total"]:
            raise ValueError(
                f"{path} has {units(module, layer['kind'])} units of kind {layer['kind']}, not {layer['total']}"
            )
        if layer["kind"] == "resnet":
            share = kept * module.norm2.num_groups // layer["total"]  # the norm group of each channel
            if len(set(torch.bincount(share, minlength=module.norm2.num_groups).tolist())) > 1:
                raise ValueError(f"{path}: unequal numbers of channels kept in the groups of norm2")
        width = channels(module, layer["kind"])
        rows = torch.arange(width).view(layer["total"], -1)[kept].flatten()
        for part, dim in members(module, layer["kind"]):
            repeats = part.weight.shape[dim] // width  # GEGLU and scale-shift: two halves of the same units
            _keep(part, dim, torch.cat([rows + width * r for r in range(repeats)]))
        if layer["kind"] == "groups":
            module.norm2.num_groups = len(kept)
        if layer["kind"] == "heads":
            module.heads = module.sliceable_head_dim = len(kept)
            module.inner_dim = module.inner_kv_dim = len(rows)


def _drop(unet: nn.Module, path: str, layer: Mapping) -> None:
    module = unet.get_submodule(path)
    if (layer["total"], layer["kept"]) != (1, []):
        raise ValueError(f"{path}: a dropped layer has total 1 and keeps nothing")
    unet.set_submodule(path, in_place_of(module, path).train(module.training))


def members(module: "Block", kind: str) -> list[tuple[Part, int]]:
    """The layers that lose weights with a unit of `module`, each with the dimension of its weight that shrinks."""
    if kind == "ffn":
        return [(module.net[0].proj, 0), (module.net[2], 1)]
    if kind == "heads":
        return [(module.to_q, 0), (module.to_k, 0), (module.to_v, 0), (module.to_out[0], 1)]
    if kind in ("resnet", "groups"):
        times = [(module.time_emb_proj, 0)] if module.time_emb_proj is not None else []
        return [(module.conv1, 0), *times, (module.norm2, 0), (module.conv2, 1)]
    raise ValueError(f"unknown kind of layer {kind!r}")


def channels(module: "Block", kind: str) -> int:
    """Inner width in channels."""
    part, dim = members(module, kind)[-1]
    return part.weight.shape[dim]


def units(module: "Block", kind: str) -> int:
    """Inner width in units that can be removed: neurons, heads, channels, norm groups."""
    if kind == "heads":
        return module.heads
    return module.norm2.num_groups if kind == "groups" else channels(module, kind)


def _keep(module: Part, dim: int, index: Tensor) -> None:
    """Selects rows (dim 0: outputs, with the bias) or columns (dim 1: inputs) of a layer, and its width attributes."""
    index = index.to(module.weight.device)
    for name in ("weight", "bias") if dim == 0 else ("weight",):
        old = getattr(module, name)
        if old is not None:
            new = old.detach().index_select(dim, index)
            setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    names = ("out_features", "out_channels", "num_channels") if dim == 0 else ("in_features", "in_channels")
    for name in names:
        if hasattr(module, name):
            setattr(module, name, len(index))
