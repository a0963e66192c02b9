"""Alternating steps on one set of weights, as in the released code of arXiv 2412.15341.

A solver has one function, `solve(student, lower, upper, options)`. `lower` and `upper` are losses (`finetune.Loss`):
called with any model and a number they return the level's loss on the batch of that number, so a solver may keep copies
of the student and compare them on equal draws. `options` holds the sections `distill` and `bilevel`, the solver's own
keys among them. The answer is a `loop.Training`: one step, counted as a lower step, and every module and optimizer that
steps change; the module "student" is the result.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from lethe.finetune import Loss, adamw, descend, detached, warm
from lethe.loop import Training

OPTIONS = {
    "upper_every": {"description": "lower steps to one upper step", "$ref": "#/$defs/count"},
}


def solve(student: nn.Module, lower: Loss, upper: Loss, options: Mapping) -> Training:
    """A lower step each time, then an upper step after every `upper_every`-th one.

    Each level has its own AdamW, hence its own moments, which makes the balance between the levels one of learning
    rates and not of the losses' scales. The upper warm-up counts upper steps.
    """
    optimizers = {
        "lower": adamw(student.parameters(), options["lr"], options["weight_decay"]),
        "upper": adamw(student.parameters(), options["upper_lr"], options["weight_decay"]),
    }
    clip = options["clip_norm"]

    def step(k: int) -> dict[str, Tensor]:
        loss, terms = lower(student, k)
        descend(loss, optimizers["lower"], warm(options["lr"], options["warmup"], k), clip)
        if (k + 1) % options["upper_every"] == 0:
            count = (k + 1) // options["upper_every"] - 1
            loss, more = upper(student, count)
            descend(loss, optimizers["upper"], warm(options["upper_lr"], options["upper_warmup"], count), clip)
            terms |= more
        return detached(terms)

    return Training(step, {"student": student}, optimizers)
