"""Redirection: the student answers to the concept as the dense teacher answers without it."""

from collections.abc import Mapping

from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.stage.record import Budget
from lethe.training.finetune import Batch, answer, ask
from lethe.training.losses import mean_square

NEEDS = ["anchor"]
OPTIONS: dict[str, dict] = {}


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """Mean square of f(z_t, t, c) - f_T(z_t, t, a), a float32 scalar; a is c with the concept taken out.

    Concept ablation's model-based loss (arXiv 2303.13516, eq. 5) with the frozen teacher in the place of the student's
    own answer, so the target stays where it is.
    """
    output = answer(student, batch.noisy, batch.t, batch.text, budget)
    return mean_square(output, ask(teacher, batch.noisy, batch.t, needed(batch.anchor, "anchor"), budget))
