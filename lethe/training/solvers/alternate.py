"""Alternating steps on one set of weights, as in the released code of arXiv 2412.15341."""

from collections.abc import Mapping

from torch import Tensor, nn

from lethe.training import gauges
from lethe.training.finetune import Loss, adamw, advance, detached, warm
from lethe.training.loop import Training

OPTIONS = {
    "upper_every": {
        "description": "lower steps to one upper step, as released",
        "$ref": "#/$defs/count",
        "atMost": "steps",
        "default": 10,
    },
}


def solve(student: nn.Module, lower: Loss, upper: Loss, options: Mapping) -> Training:
    """A lower step each time, then an upper step after every `upper_every`-th one.

    Each level has its own AdamW, hence its own moments, which makes the balance between the levels one of learning
    rates and not of the losses' scales. The upper warm-up counts upper steps. `cosine` compares the lower gradient
    before the lower step with the upper one after it: those that the two steps are made of.
    """
    parameters = list(student.parameters())
    optimizers = {
        "lower": adamw(parameters, options["lr"], options["weight_decay"]),
        "upper": adamw(parameters, options["upper_lr"], options["weight_decay"]),
    }
    clip = options["clip_norm"]

    def step(k: int) -> dict[str, Tensor]:
        due = (k + 1) % options["upper_every"] == 0
        start = gauges.weights(parameters) if due else []
        loss, terms = lower(student, k)
        loss.backward()
        below = gauges.gradient(parameters) if due else []
        advance(optimizers["lower"], warm(options["lr"], options["warmup"], k), clip)
        if due:
            count = (k + 1) // options["upper_every"] - 1
            descended = gauges.distance(start, parameters)
            start = gauges.weights(parameters)  # in place of the older copy: two of large weights would be felt
            loss, more = upper(student, count)
            loss.backward()
            terms |= more | {"cosine": gauges.cosine(below, gauges.gradient(parameters, copy=False))}
            del below
            advance(optimizers["upper"], warm(options["upper_lr"], options["upper_warmup"], count), clip)
            terms["displacement"] = gauges.ratio(gauges.distance(start, parameters), descended)
        return detached(terms)

    return Training(step, {"student": student}, optimizers)
