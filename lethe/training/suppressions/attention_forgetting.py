"""Forget-Me-Not's attention resteering (Zhang et al. 2023, arXiv 2303.17591): looking away from the concept."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.models.attention import recorded
from lethe.stage.record import Budget
from lethe.training.finetune import Batch, answer

NEEDS = ["mask"]
OPTIONS = {"end_token": {"$ref": "#/$defs/end_token"}}


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """Mean over cross-attention layers, pictures, heads and queries q of sum_i m_i P_qi^2, a float32 scalar.

    P are the student's attention probabilities on (z_t, t, c), m marks the concept's tokens in c (arXiv 2303.17591,
    eq. 3, there a sum over queries: the mean gives layers of all resolutions the same say). The teacher is not asked;
    weights behind the last cross-attention get no gradient.
    """
    mask = tokens(batch, options["end_token"])
    with recorded(student) as maps:
        answer(student, batch.noisy, batch.t, batch.text, budget)
    return torch.stack([attended(probabilities, mask) for probabilities in maps]).mean()


def tokens(batch: Batch, end_token: bool) -> Tensor:
    """[B, L] float32, 1 at the tokens that attention is to leave."""
    mask = needed(batch.mask, "mask")
    return mask.scatter(1, needed(batch.end, "end")[:, None], 1.0) if end_token else mask


def attended(probabilities: Tensor, mask: Tensor) -> Tensor:
    """[B, H, Q, L] and [B, L] -> mean over B, H, Q of the squared norm of the probabilities where the mask is 1."""
    return (probabilities.float().square() * mask[:, None, None]).sum(-1).mean()
