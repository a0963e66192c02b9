"""Negative guidance from the dense teacher: the upper loss of arXiv 2412.15341, ESD's objective (arXiv 2303.07345)."""

import torch
from torch import Tensor, nn

from lethe.finetune import Batch, answer, ask
from lethe.losses import mean_square
from lethe.record import Budget

OPTIONS = {}


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, eta: float, budget: Budget) -> Tensor:
    """L_CU = mean square of f(z_t, t, c) - [f_T(null) - eta (f_T(c) - f_T(null))], a float32 scalar.

    `batch.text` are captions that show the concept. Linear in the prediction, so it holds for epsilon, v and sample.
    """
    output = answer(student, batch.noisy, batch.t, batch.text, budget)
    return mean_square(output, target(teacher, batch, eta, budget))


def target(teacher: nn.Module, batch: Batch, eta: float, budget: Budget) -> Tensor:
    """f_T(null) - eta (f_T(c) - f_T(null)), [B, C, h, w]: both passes of the teacher in one forward of 2B."""
    text = torch.cat([batch.null.expand_as(batch.text), batch.text])
    noisy, t = torch.cat([batch.noisy, batch.noisy]), torch.cat([batch.t, batch.t])
    return opposite(*ask(teacher, noisy, t, text, budget).chunk(2), eta)


def opposite(null: Tensor, text: Tensor, eta: float) -> Tensor:
    """The prediction guided away from the text (ESD, eq. 7): null - eta (text - null)."""
    return null - eta * (text - null)
