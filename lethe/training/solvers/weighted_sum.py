"""The control: one model, one optimiser, min over theta of L_CU + lambda L_ft, both on every step.

At a fixed lambda and without coupling `penalty` takes exactly these steps with theta, one for every `inner_steps` of
its other copy: the gradient of the penalty function with respect to theta does not contain vartheta.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from lethe.training import levels
from lethe.training.finetune import Loss, adamw, advance, detached, warm
from lethe.training.loop import Training

OPTIONS = {"lambda": {"$ref": "#/$defs/lambda", "default": 1.0}}


def solve(student: nn.Module, lower: Loss, upper: Loss, options: Mapping) -> Training:
    """Descends (L_CU + lambda L_ft) / (1 + lambda) with AdamW at `upper_lr`; the warm-up counts these steps."""
    parameters = list(student.parameters())
    optimizer = adamw(parameters, options["upper_lr"], options["weight_decay"])

    def step(k: int) -> dict[str, Tensor]:
        below, above, terms = levels.gradients(student, lower, upper, (k, k))
        levels.assign(parameters, levels.weighted(above, below, options["lambda"]))
        advance(optimizer, warm(options["upper_lr"], options["upper_warmup"], k), options["clip_norm"])
        return detached(terms)

    return Training(step, {"student": student}, {"theta": optimizer})
