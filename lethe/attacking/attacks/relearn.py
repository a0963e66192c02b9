"""Relearning: the victim is fine-tuned a little, and asked again. Erasure that only hides a concept comes undone.

Plain diffusion loss (Ho et al. 2020, eq. 14, in the model's own prediction type), on

    source "data"      the fine-tuning pictures, which need not show the concept at all: what a user would do who adapts
                       the model to something else ("benign fine-tuning")
    source "concepts"  `count` pictures of each concept with their captions, drawn once by the seed: few-shot

of all weights, or, with a `rank`, of a low-rank addition to the attention's linear layers (LoRA, Hu et al. 2021,
2106.09685, eq. 3, with alpha = rank): W + B A, A uniform as a linear layer begins, B zero. The addition is put into the
weights in the end. Steps are numbered as pure functions, so 50 steps are the first 50 of 200, and rows of the report
that differ in `steps` alone are one curve.

Captions come as the base model's text encoder reads them, also where an eraser has edited the victim's own. What acts
while sampling acts on the relearnt weights too, but not on the training. One student forward and backward per step and
picture.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.attacking.victims import Attacked, Victim
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training.data import Encoded, generator, shares
from lethe.training.finetune import adamw, answer, descend, draw
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import mean_square, schedule

NEEDS = {"source": {"data": ["data"], "concepts": ["concepts"]}}
OPTIONS = {
    "source": {
        "description": "what is learnt from: the fine-tuning pictures, or those of the concepts",
        "enum": ["data", "concepts"],
        "default": "data",
    },
    "count": {
        "description": "pictures of each concept, or of the fine-tuning set, that are learnt from; null: all",
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
    },
    "rank": {
        "description": "rank of what is added to the attention's linear layers; null: all weights are trained",
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 200},
    "batch": {"$ref": "#/$defs/shared_batch", "default": 4},
    "lr": {"$ref": "#/$defs/adamw_lr", "default": 2.0e-4},
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping, budget: Budget) -> Attacked:
    """The victim's U-Net, fine-tuned in place. Raises UserError if there are fewer pictures than `count`."""
    unet, count = victim.unet, options["count"]
    named = {"data": victim.base.data} if options["source"] == "data" else victim.base.concepts
    sources = [few(own, count, seed, f"{own.folder} ({name})") for name, own in named.items()]
    table = schedule(victim.base.scheduler, None, "legacy", victim.device)
    added = [] if options["rank"] is None else add_low_rank(unet, options["rank"], seed)
    student = nn.ModuleList([own for _, own in added]) if added else unet.requires_grad_(True)
    optimizer = adamw(student.parameters(), options["lr"])

    def step(k: int) -> dict[str, Tensor]:
        batch = draw(sources, shares(options["batch"], len(sources), k), table, generator(seed, "relearn", k))
        target = table.target(batch.latents, batch.noise, batch.t)
        loss = mean_square(answer(unet, batch.noisy, batch.t, batch.text, budget), target)
        descend(loss, optimizer, options["lr"])
        return {"loss": loss.detach()}

    unet.train()
    training = Training(step, {"student": student}, {"relearn": optimizer})
    progress = run(training, options["steps"], keeping, {"total": budget})
    for layer, _ in added:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    unet.eval().requires_grad_(False)
    pictures = {name: len(own.caption) for name, own in zip(named, sources, strict=True)}
    weights = sum(parameter.numel() for parameter in student.parameters())
    return Attacked(progress=progress, about={"pictures": pictures, "trained_weights": weights})


def few(own: Encoded, count: int | None, seed: int, where: str) -> Encoded:
    """`count` of the pictures, drawn without replacement by the seed; all if it is None."""
    if count is None:
        return own
    if count > len(own.caption):
        raise UserError(f"{where}: has {len(own.caption)} pictures, count is {count}; lower it, or give more")
    rows = torch.randperm(len(own.caption), generator=generator(seed, "few", 0))[:count]
    per_row = ("mean", "std", "caption", "anchor", "mask", "end")
    return replace(own, **{key: getattr(own, key)[rows] for key in per_row if getattr(own, key) is not None})


class LowRank(nn.Module):
    """W -> W + B A for a linear layer's weight [out, in]: A [rank, in], B [out, rank]."""

    def __init__(self, layer: nn.Linear, rank: int, draws: torch.Generator):
        super().__init__()
        rows, columns = layer.weight.shape
        first = (torch.rand((rank, columns), generator=draws) * 2 - 1) / columns**0.5
        self.a = nn.Parameter(first.to(layer.weight))
        self.b = nn.Parameter(layer.weight.new_zeros((rows, rank)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def add_low_rank(unet: nn.Module, rank: int, seed: int) -> list[tuple[nn.Linear, LowRank]]:
    """Puts a LowRank on each linear layer of the attentions, in place. Raises UserError if there is none."""
    layers = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{end}" for end in ATTENTION))
    ]
    if not layers:
        raise UserError("rank: this U-Net has no attention to add to; set rank to null, which trains all weights")
    added = [(layer, LowRank(layer, rank, generator(seed, "low_rank", i))) for i, layer in enumerate(layers)]
    for layer, own in added:
        parametrize.register_parametrization(layer, "weight", own)
    return added
