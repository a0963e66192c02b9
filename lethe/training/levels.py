"""The gradients of both levels at one set of weights, for solvers that take them together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lethe.training import gauges
from lethe.training.finetune import Loss


def gradients(
    student: nn.Module, lower: Loss, upper: Loss, numbers: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Gradients of L_ft and L_CU on the batches of these numbers, and the terms for the log, `cosine` among them.

    Leaves the student without gradients.
    """
    parameters = list(student.parameters())
    found: list[list[Tensor]] = []
    terms: dict[str, Tensor] = {}
    for level, number in zip((lower, upper), numbers, strict=True):
        loss, more = level(student, number)
        loss.backward()
        found.append(gauges.gradient(parameters))
        student.zero_grad(set_to_none=True)
        terms |= more
    below, above = found
    return below, above, terms | {"cosine": gauges.cosine(below, above)}


def weighted(upper: Sequence[Tensor], lower: Sequence[Tensor], weight: Tensor | float) -> list[Tensor]:
    """(g_upper + weight g_lower) / (1 + weight): the gradient of the penalty function with respect to theta.

    The division keeps gradients in range; AdamW, unless gradients are clipped or the weight changes, does not see it.
    """
    scaled = torch._foreach_mul(list(lower), weight)
    total = torch._foreach_add(list(upper), scaled)
    return list(torch._foreach_div(total, 1 + weight))


def assign(parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> None:
    """Makes this the gradient that the optimiser sees."""
    for parameter, value in zip(parameters, gradient, strict=True):
        parameter.grad = value
