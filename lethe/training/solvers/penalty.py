"""The paper's form, with two copies of the weights (arXiv 2412.15341, Algorithm 1): a first-order penalty method.

    G(theta, vartheta) = L_CU(theta) + lambda (L_ft(theta) - L_ft(vartheta)),   min over theta, max over vartheta

vartheta descends L_ft: `inner_steps` (K) steps a round. Then theta takes one step along the gradient of
L_CU + lambda L_ft. The batch of the last inner step serves theta's L_ft too, and the gap L_ft(theta) - L_ft(vartheta),
of both as the round leaves them: draws are equal, and the teacher answers once for all.

vartheta does not occur in theta's gradient. With a fixed lambda and no coupling theta therefore walks as under
`weighted_sum`, and vartheta's cost buys the gap in the log, no more. It gets a say by

- `coupling`: `reset` starts theta's step from vartheta, and vartheta's next round from theta: what K healing steps
  gained and what suppression did both last. `interpolate` draws theta a part of the way (`pull`) towards vartheta,
  which goes its own way;
- `lambda_growth`: lambda is multiplied by it, up to `lambda_most`, after each round whose gap is above
  `gap_tolerance`, and divided by it, down to its first value, after others.

Two copies and their moments cost memory: `second_copy: cpu` keeps the copy that is not at work in main memory (both
change places twice a round).
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lethe.files.errors import UserError
from lethe.training import gauges, levels
from lethe.training.finetune import Loss, adamw, advance, detached, warm
from lethe.training.loop import Training

OPTIONS = {  # lambda and inner_steps (K) are the paper's; how it couples the copies is not told
    "lambda": {"$ref": "#/$defs/lambda", "default": 100.0},
    "inner_steps": {
        "description": "K: fine-tuning steps of the second copy to an outer one",
        "$ref": "#/$defs/count",
        "atMost": "steps",
        "default": 20,
    },
    "coupling": {
        "description": "what the second copy does to the first, before each outer step",
        "enum": ["none", "reset", "interpolate"],
        "default": "none",
    },
    "pull": {
        "description": "coupling interpolate: the part of the way to the second copy",
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0.5,
    },
    "lambda_growth": {
        "description": "factor on lambda after a round with too wide a gap; 1 keeps it",
        "type": "number",
        "minimum": 1,
        "default": 1.0,
    },
    "lambda_most": {"description": "the most that lambda grows to", "$ref": "#/$defs/weight", "default": 1000.0},
    "gap_tolerance": {
        "description": "gap of fine-tuning losses that is borne",
        "$ref": "#/$defs/weight",
        "default": 0.0,
    },
    "second_copy": {
        "description": "where the copy that is not at work is kept: the device, or main memory (cpu)",
        "enum": ["device", "cpu"],
        "default": "device",
    },
}


class Multiplier(nn.Module):
    """lambda, where checkpoints find it, and how it follows the gap. Raises UserError if it has no room to grow."""

    value: Tensor

    def __init__(self, options: Mapping, device: torch.device):
        super().__init__()
        self.first, self.most, self.growth = options["lambda"], options["lambda_most"], options["lambda_growth"]
        self.tolerance = options["gap_tolerance"]
        if self.growth > 1 and not 0 < self.first <= self.most:
            raise UserError(
                f"bilevel.lambda: {self.first} cannot grow to lambda_most ({self.most}); begin above 0 and not above "
                "that"
            )
        self.register_buffer("value", torch.tensor(float(self.first), device=device))

    def after(self, gap: Tensor) -> Tensor:
        """lambda of a round that left this gap; the next round's is set."""
        used = self.value.clone()
        if self.growth > 1:
            wider = torch.where(gap > self.tolerance, used * self.growth, used / self.growth)
            self.value.copy_(wider.clamp(self.first, self.most))
        return used


def solve(student: nn.Module, lower: Loss, upper: Loss, options: Mapping) -> Training:
    """Step k is vartheta's; after every `inner_steps`-th one theta, the student, takes its own.

    theta has AdamW at `upper_lr`, warmed up over outer steps; vartheta at `lr`. Logs `multiplier` (lambda) as well.
    """
    other = copy.deepcopy(student)
    theta, vartheta = list(student.parameters()), list(other.parameters())
    device, rest = theta[0].device, torch.device("cpu")
    multiplier = Multiplier(options, device)
    optimizers = {
        "theta": adamw(theta, options["upper_lr"], options["weight_decay"]),
        "vartheta": adamw(vartheta, options["lr"], options["weight_decay"]),
    }
    clip = options["clip_norm"]

    def work(name: str) -> None:
        """Brings one copy to the device and, if both are not to stay there, takes the other from it."""
        if options["second_copy"] == "cpu":
            names = {"theta": student, "vartheta": other}
            for key in sorted(names, key=lambda key: key == name):  # the one that leaves goes first
                _move(names[key], optimizers[key], device if key == name else rest)

    work("theta")

    def step(k: int) -> dict[str, Tensor]:
        work("vartheta")
        due = (k + 1) % options["inner_steps"] == 0
        start = gauges.weights(vartheta) if due else []
        loss, terms = lower(other, k)
        loss.backward()
        advance(optimizers["vartheta"], warm(options["lr"], options["warmup"], k), clip)
        if due:
            inner = gauges.distance(start, vartheta)
            del start  # two copies of large weights are enough
            terms |= outer(k, inner)
        return detached(terms)

    def outer(k: int, inner: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            reached, _ = lower(other, k)
        count = (k + 1) // options["inner_steps"] - 1
        _couple(theta, vartheta, options["coupling"], options["pull"])
        work("theta")
        start = gauges.weights(theta)
        below, above, terms = levels.gradients(student, lower, upper, (k, count))
        levels.assign(theta, levels.weighted(above, below, multiplier.value))
        advance(optimizers["theta"], warm(options["upper_lr"], options["upper_warmup"], count), clip)
        moved = gauges.distance(start, theta)
        with torch.no_grad():
            gap = lower(student, k)[0] - reached
        if options["coupling"] == "reset":
            _couple(vartheta, theta, "reset", 1.0)
        # the log's fine-tuning losses are vartheta's
        terms = {key: value for key, value in terms.items() if key not in ("loss", "diff", "out", "feat")}
        return terms | {"gap": gap, "multiplier": multiplier.after(gap), "displacement": gauges.ratio(moved, inner)}

    modules = {"student": student, "vartheta": other, "multiplier": multiplier}
    return Training(step, modules, optimizers)


@torch.no_grad()
def _couple(target: list[nn.Parameter], source: list[nn.Parameter], coupling: str, pull: float) -> None:
    if coupling == "none":
        return
    for mine, theirs in zip(target, source, strict=True):
        if coupling == "reset":
            mine.copy_(theirs)
        else:
            mine.lerp_(theirs.to(mine.device), pull)


def _move(module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """A module and its optimiser's moments; parameters stay the same objects."""
    module.to(device)
    for state, key, value in _moments(optimizer):
        state[key] = value.to(device)


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict, str, Tensor]]:
    for parameter, state in optimizer.state.items():
        for key, value in list(state.items()):
            if torch.is_tensor(value) and value.shape == parameter.shape:
                yield state, key, value
