"""What the networks of a base are trained on: one function a loss."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lethe.training.finetune import warm

STRENGTH = 0.5  # norm of the critic's gradient at the picture, over that of the reconstruction loss


def cosine(lr: float, warmup: int, k: int, steps: int) -> float:
    """Learning rate of step k = 0, 1, ...: linear warm-up, times half a cosine from 1 to 0."""
    return warm(lr, warmup, k) * 0.5 * (1 + math.cos(math.pi * k / steps))


def reconstruction_loss(output: Tensor, wanted: Tensor) -> Tensor:
    """L1 on pixels and on differences of neighbouring pixels at two scales: the second keeps strokes sharp."""
    total = F.l1_loss(output, wanted)
    for scale in (1, 2):
        a, b = (output, wanted) if scale == 1 else (F.avg_pool2d(output, 2), F.avg_pool2d(wanted, 2))
        total = (
            total + 0.5 * F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + 0.5 * F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
        )
    return total


def balanced(output: Tensor, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """The gradient at `output` of both losses, the second scaled to STRENGTH times the norm of the first.

    VQGAN's adaptive weight (Esser et al. 2021, eq. 7), taken at the picture and not at the last layer.
    """
    (first,) = torch.autograd.grad(reconstruction, output)
    (second,) = torch.autograd.grad(adversarial, output)
    return first + STRENGTH * first.norm() / (second.norm() + 1e-8) * second


def supervised_contrast(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """SupCon (Khosla et al. 2020, eq. 2), as CSD is trained: same label pulls, all others push."""
    z = F.normalize(embeddings, dim=1)
    logits = z @ z.T / temperature
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    same = (labels[:, None] == labels[None]) & ~own
    log_p = logits.masked_fill(own, -torch.inf).log_softmax(dim=1).masked_fill(own, 0)
    return -((log_p * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def caption_contrast(image: Tensor, text: Tensor, scale: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's symmetric contrast (Radford et al. 2021) over normalised embeddings [B, D].

    Captions that say the same of two pictures (rows of `tokens` [B, L]) are no negatives of each other.
    """
    logits = scale.clamp(max=100) * image @ text.T
    target = (tokens[:, None] == tokens[None]).all(-1).float()
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
