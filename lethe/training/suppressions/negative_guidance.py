"""Negative guidance from the dense teacher: the upper loss of arXiv 2412.15341, ESD's objective (arXiv 2303.07345)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.stage.record import Budget
from lethe.training.finetune import Batch, answer, ask
from lethe.training.losses import mean_square

OPTIONS = {
    "eta": {
        "description": "strength of negative guidance in the upper target; 1 as released",
        "$ref": "#/$defs/weight",
        "default": 1.0,
    },
    "away_from": {
        "description": "what the target starts from: the answer to the empty caption, as published, or to the anchor",
        "enum": ["empty", "anchor"],
        "default": "empty",
    },
}


def needs(options: Mapping) -> list[str]:
    """The anchor, if the target starts from it."""
    return ["anchor"] if options["away_from"] == "anchor" else []


def loss(student: nn.Module, teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """L_CU = mean square of f(z_t, t, c) - [f_T(o) - eta (f_T(c) - f_T(o))], a float32 scalar.

    The origin o is the empty caption; with `away_from: anchor` it is c with the concept taken out, so that the target
    moves against the concept's direction alone, and not against what else c says. Linear in the prediction, so it holds
    for epsilon, v and sample.
    """
    output = answer(student, batch.noisy, batch.t, batch.text, budget)
    return mean_square(output, target(teacher, batch, options, budget))


def target(teacher: nn.Module, batch: Batch, options: Mapping, budget: Budget) -> Tensor:
    """f_T(o) - eta (f_T(c) - f_T(o)), [B, C, h, w]: both passes of the teacher in one forward of 2B.

    None at states of its own trajectories, where it has answered before.
    """
    if batch.answers and options["away_from"] == "empty":
        return opposite(*batch.answers, options["eta"])
    anchored = options["away_from"] == "anchor"
    origin = needed(batch.anchor, "anchor") if anchored else batch.null.expand_as(batch.text)
    both = torch.cat([origin, batch.text])
    noisy, t = torch.cat([batch.noisy, batch.noisy]), torch.cat([batch.t, batch.t])
    start, text = ask(teacher, noisy, t, both, budget).chunk(2)
    return opposite(start, text, options["eta"])


def opposite(origin: Tensor, text: Tensor, eta: float) -> Tensor:
    """The prediction guided away from the text (ESD, eq. 7): origin - eta (text - origin)."""
    return origin - eta * (text - origin)
