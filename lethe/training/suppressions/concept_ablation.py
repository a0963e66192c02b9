"""Concept ablation, model-based (Kumari et al. 2023, arXiv 2303.13516): the concept is answered as its anchor is.

There on pictures of the anchor; here on those of the batch, which show the concept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.stage.record import Budget
from lethe.training.finetune import Batch, answer
from lethe.training.losses import mean_square

NEEDS = ["anchor"]
OPTIONS: dict[str, dict] = {}


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """Mean square of f(z_t, t, c) - sg f(z_t, t, a), a float32 scalar (arXiv 2303.13516, eq. 5).

    a is c with the concept taken out, sg stops the gradient; both answers are the current student's, the teacher is not
    asked.
    """
    output = answer(student, batch.noisy, batch.t, batch.text, budget)
    with torch.no_grad():
        target = answer(student, batch.noisy, batch.t, needed(batch.anchor, "anchor"), budget)
    return mean_square(output, target)
