"""Our own: both levels at every step, in small steps, instead of healing ten times and suppressing hard once.

As `alternate` with an upper step after every lower one, on few pictures and at a fraction of the rate: as many concept
pictures are seen, the weights may go as far, but no step is far longer than a healing step. From each upper step the
part that climbs L_ft is taken out, tensor by tensor (PCGrad, arXiv 2001.06782). The direction of L_ft is the running
mean of its gradient that AdamW keeps: steadier than the gradient of one batch, and there without a pass.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe import gauges
from lethe.finetune import Loss, adamw, advance, detached, warm
from lethe.loop import Training

OPTIONS = {}


def solve(student: nn.Module, lower: Loss, upper: Loss, options: Mapping) -> Training:
    """A lower step, then an upper step from where it ends, each with its own AdamW; warm-ups count steps."""
    parameters = list(student.parameters())
    optimizers = {
        "lower": adamw(parameters, options["lr"], options["weight_decay"]),
        "upper": adamw(parameters, options["upper_lr"], options["weight_decay"]),
    }
    clip = options["clip_norm"]

    def step(k: int) -> dict[str, Tensor]:
        start = gauges.weights(parameters)
        loss, terms = lower(student, k)
        loss.backward()
        below = gauges.gradient(parameters)
        advance(optimizers["lower"], warm(options["lr"], options["warmup"], k), clip)
        middle = gauges.weights(parameters)
        loss, more = upper(student, k)
        loss.backward()
        terms |= more | {"cosine": gauges.cosine(below, gauges.gradient(parameters))}
        advance(optimizers["upper"], warm(options["upper_lr"], options["upper_warmup"], k), clip)
        state = optimizers["lower"].state
        moved = [p for p in parameters if p in state]  # a parameter without a gradient has no mean
        old = [weight for p, weight in zip(parameters, middle, strict=True) if p in state]
        project(moved, old, [state[p]["exp_avg"] for p in moved])
        terms["displacement"] = gauges.ratio(gauges.distance(middle, parameters), gauges.distance(start, middle))
        return detached(terms)

    return Training(step, {"student": student}, optimizers)


@torch.no_grad()
def project(parameters: list[nn.Parameter], before: list[Tensor], uphill: list[Tensor]) -> None:
    """Takes out of the step from `before`, tensor by tensor, the part along `uphill`, if it goes that way."""
    for parameter, old, up in zip(parameters, before, uphill, strict=True):
        along, length = ((parameter - old) * up).sum(), up.square().sum()
        share = along.clamp(min=0) / length.clamp(min=torch.finfo(up.dtype).tiny)
        parameter.sub_(share * up)
