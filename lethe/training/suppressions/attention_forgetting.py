"""Forget-Me-Not's attention resteering (Zhang et al. 2023, arXiv 2303.17591): looking away from the concept."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.models.attention import recorded
from lethe.stage.record import Budget
from lethe.training.finetune import Batch, answer

NEEDS = ["mask"]
OPTIONS = {
    "end_token": {"$ref": "#/$defs/end_token"},
    "padding": {"$ref": "#/$defs/end_padding", "default": False, "former": False, "with": {True: {"end_token": True}}},
    "norm": {"$ref": "#/$defs/attention_norm"},
}


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """What is paid to the concept's tokens, a float32 scalar: P are the student's attention probabilities on
    (z_t, t, c) at head and query q, m marks the tokens in c (arXiv 2303.17591, eq. 3).

    `norm` all, as the released code has it: the square root of the sum of m_i P_qi^2 over all cross-attention layers,
    pictures, heads, queries and tokens, so layers of a high resolution, with more queries, have more say. mean: the
    mean over layers, pictures, heads and queries of sum_i m_i P_qi^2, where every layer has the same; on two tiny
    random nets the two gradients have the cosines 0.97 and 0.83. The teacher is not asked; weights behind the last
    cross-attention get no gradient.
    """
    mask = tokens(batch, options["end_token"], options["padding"])
    with recorded(student) as maps:
        answer(student, batch.noisy, batch.t, batch.text, budget)
    if options["norm"] == "all":
        return torch.linalg.vector_norm(torch.stack([total(probabilities, mask) for probabilities in maps]))
    return torch.stack([attended(probabilities, mask) for probabilities in maps]).mean()


def tokens(batch: Batch, end_token: bool, padding: bool = False) -> Tensor:
    """[B, L] float32, 1 at the tokens that attention is to leave; `padding`: the end token's with all behind it."""
    mask = needed(batch.mask, "mask")
    if not end_token:
        return mask
    end = needed(batch.end, "end")[:, None]
    if not padding:
        return mask.scatter(1, end, 1.0)
    return mask.masked_fill(torch.arange(mask.shape[1], device=mask.device) >= end, 1.0)


def total(probabilities: Tensor, mask: Tensor) -> Tensor:
    """[B, H, Q, L] and [B, L] of 0 and 1 -> the norm of the probabilities where the mask is 1; without any its gradient
    is 0, that of a square root would be none."""
    return torch.linalg.vector_norm(probabilities.float() * mask[:, None, None])


def attended(probabilities: Tensor, mask: Tensor) -> Tensor:
    """[B, H, Q, L] and [B, L] -> mean over B, H, Q of the squared norm of the probabilities where the mask is 1."""
    return (probabilities.float().square() * mask[:, None, None]).sum(-1).mean()
