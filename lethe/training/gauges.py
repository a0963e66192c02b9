"""What a solver logs about its two levels: the angle between their gradients, and how far each moves the weights.

All answers are float32 scalars on the device, detached: nothing here makes the host wait.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Vector = Sequence[Tensor]  # one tensor a parameter


def gradient(parameters: Sequence[nn.Parameter], copy: bool = True) -> list[Tensor]:
    """The gradients that are there, or a copy of them; zeros where there is none."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
    return [own.clone() for own in found] if copy else found


def weights(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """A copy of the weights."""
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def dot(left: Vector, right: Vector) -> Tensor:
    """Inner product over all parameters."""
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(left, right, strict=True)]).sum()


@torch.no_grad()
def norm(vector: Vector) -> Tensor:
    """Euclidean length over all parameters."""
    return torch.linalg.vector_norm(torch.stack([n.float() for n in torch._foreach_norm(list(vector))]))


def cosine(left: Vector, right: Vector) -> Tensor:
    """Cosine of the angle between two vectors; 0 if one of them is 0."""
    return dot(left, right) / (norm(left) * norm(right)).clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def distance(before: Vector, after: Vector) -> Tensor:
    """How far weights moved."""
    return norm(torch._foreach_sub(list(after), list(before)))


def ratio(upper: Tensor, lower: Tensor) -> Tensor:
    """Length of the upper step over that of the lower step; 0 if that did not move."""
    return torch.where(lower > 0, upper / lower.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
