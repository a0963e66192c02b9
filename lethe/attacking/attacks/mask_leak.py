"""Revival of what pruning erased, from the places of its zeros. Nothing is trained, and no picture is read.

An eraser that sets weights to zero tells which weights served the concept: a trained weight is never exactly zero.
"Roots Beneath the Cut" (2603.06640) has shown that these places are a side channel by which the concept can be brought
back without data or training. Of that work only this idea is taken; how the weights are estimated here is ours:

    low_rank  each matrix is completed from the weights that survive: the entries at the zeros are those of the nearest
              matrix of rank `rank`, found by replacing them again and again (Mazumder et al. 2010, soft-impute, with a
              fixed rank for the soft threshold). It sees the victim alone, and can only tell what the layer's own
              structure tells; weights that are nearly independent of each other stay unknown.
    dense     the entries of the public base model that the victim was made from, cut to the units that its pruning
              record names: what anyone can do who knows the base model. Fine-tuning moves weights little.

Both are multiplied by `scale`. Rows of zeros, columns of zeros, and the zeros of biases and norms are left alone by
low_rank, for nothing tells what they were.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lethe.attacking.victims import Attacked, Victim
from lethe.files.errors import UserError
from lethe.models.cutting import cut
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

NEEDS = ["zeros", "dense"]
OPTIONS = {
    "estimate": {
        "description": "what the weights at the zeros are: completed from the others, or the dense base model's",
        "enum": ["low_rank", "dense"],
        "default": "low_rank",
    },
    "rank": {"description": "of low_rank: rank of the completed matrices", "$ref": "#/$defs/count", "default": 4},
    "rounds": {
        "description": "of low_rank: how often the entries are replaced",
        "$ref": "#/$defs/count",
        "default": 50,
    },
    "scale": {"description": "what the estimates are multiplied by", "$ref": "#/$defs/scale", "default": 1.0},
}
LEAST = 0.0005  # share of a matrix that must be zero: weights once stored in half precision hold a few by rounding


@torch.no_grad()
def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping | None, budget: Budget) -> Attacked:
    """Fills the zeros of U-Net and text encoder, in place. Raises UserError for a victim that has none."""
    found = {f"{where}.{name}": own for where, net in _nets(victim) for name, own in zeros(net)}
    if not found:
        raise UserError(
            f"mask_leak: no matrix of this victim is exactly zero in {LEAST:.2%} of its places or more, so none leaks; "
            "attack weights whose eraser zeroes some, such as conceptprune's, before any further training"
        )
    known = _dense(victim) if options["estimate"] == "dense" else {}
    filled = 0
    for name, (weight, mask) in found.items():
        if known:
            estimate = known.get(name)
            if estimate is None or estimate.shape != weight.shape:
                raise UserError(f"mask_leak: the dense base has no {name} of {list(weight.shape)}; estimate low_rank")
        else:
            mask, estimate = _completed(weight, mask, options["rank"], options["rounds"])
        weight.copy_(torch.where(mask, options["scale"] * estimate.to(weight), weight))
        filled += int(mask.sum())
    zero = sum(int(mask.sum()) for _, mask in found.values())
    return Attacked(about={"zeros": zero, "filled": filled, "matrices": len(found)})


def zeros(net: nn.Module) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Matrices and kernels of which a share is exactly zero, but not all, each with the mask of these."""
    for name, weight in net.named_parameters():
        mask = weight == 0
        if weight.dim() > 1 and LEAST <= mask.float().mean() < 1:
            yield name, (weight, mask)


def complete(weight: Tensor, mask: Tensor, rank: int, rounds: int) -> Tensor:
    """Matrix [R, C] whose entries where `mask` is true are unknown -> a matrix of `rank` that is near the others.

    Each round takes the best approximation of that rank (Eckart and Young) of the weights with the last round's entries
    at the unknown places, which begin at zero: the distance over the known entries never grows.
    """
    filled = weight = weight.double()
    for _ in range(rounds):
        left, sizes, right = torch.linalg.svd(filled, full_matrices=False)
        near = (left[:, :rank] * sizes[:rank]) @ right[:rank]
        filled = torch.where(mask, near, weight)
    return near


def _completed(weight: Tensor, mask: Tensor, rank: int, rounds: int) -> tuple[Tensor, Tensor]:
    """The entries that can be known, and the estimate; a kernel [out, in, h, w] counts as the matrix [out, in h w]."""
    flat, own = weight.flatten(1), mask.flatten(1)
    own = own & ~own.all(1, keepdim=True) & ~own.all(0, keepdim=True)
    estimate = complete(flat, mask.flatten(1), min(rank, *flat.shape), rounds)
    return own.view_as(mask), estimate.view_as(weight)


def _nets(victim: Victim) -> list[tuple[str, nn.Module]]:
    return [("unet", victim.unet), ("text_encoder", victim.base.text_encoder)]


def _dense(victim: Victim) -> dict[str, Tensor]:
    """The base model's weights by name, the U-Net's cut as the victim's."""
    unet = copy.deepcopy(victim.dense())
    cut(unet, victim.pruning)
    names = [name for name, _ in victim.base.text_encoder.named_parameters()]
    text = dict(zip(names, victim.base.base_text, strict=True))
    own = {f"unet.{name}": weight for name, weight in unet.named_parameters()}
    return own | {f"text_encoder.{name}": weight for name, weight in text.items()}
