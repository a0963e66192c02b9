"""ESD: Erased Stable Diffusion (Gandikota et al. 2023, arXiv 2303.07345), on any U-Net of a StableDiffusionPipeline.

An eraser has one function, `erase`, which edits the U-Net in place, and OPTIONS, the JSON schema of its options.

ESD trains f so that f(x_t, t, c) = f*(null) - eta (f*(c) - f*(null)), where f* is a frozen copy of the model that came
in, and x_t is what f*, sampling the concept c with guidance, has at a random step of DDIM. Since x_t depends on the
frozen model alone, trajectories need not be drawn anew for every optimiser step: one batch of full trajectories serves
`reuse` steps, each taking for every picture another random step of its trajectory. And since guidance has f* answer to
c and to null at every state anyway, these answers are kept and make the target: training costs no teacher forwards
beside the trajectories'. Per optimiser step and picture: at most 2 * sampler_steps / reuse teacher forwards, one
student forward, one backward; all are counted.
"""

import copy
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.data import generator, shares, to_device
from lethe.errors import UserError
from lethe.finetune import adamw, answer, ask, descend
from lethe.loop import Keeping, Progress, Training, run
from lethe.losses import mean_square
from lethe.models import encode_prompts
from lethe.record import Budget
from lethe.sampling import build_scheduler
from lethe.suppressions.negative_guidance import opposite

OPTIONS = {
    "variant": {
        "description": "what is trained: x cross-attention, u all but it, x-strict its keys and values, all everything",
        "enum": ["x", "u", "x-strict", "all"],
    },
    "steps": {"description": "optimiser steps", "$ref": "#/$defs/count"},
    "batch": {"description": "pictures a step, shared equally by the concepts", "$ref": "#/$defs/count"},
    "lr": {"description": "Adam learning rate", "$ref": "#/$defs/rate"},
    "eta": {"description": "strength of negative guidance in the target", "$ref": "#/$defs/weight"},
    "guidance": {
        "description": "guidance of the trajectories that training states come from",
        "type": "number",
        "minimum": 1,
    },
    "sampler_steps": {"description": "DDIM steps of a trajectory", "$ref": "#/$defs/count"},
    "reuse": {
        "description": "optimiser steps that share a batch of trajectories; 1 draws anew",
        "$ref": "#/$defs/count",
        "atMost": "sampler_steps",  # each takes another state of a trajectory
    },
}


def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Progress:
    """Erases the concepts' prompts from `unet`, in place.

    `base` holds tokenizer, text_encoder, scheduler and latent_shape (C, h, w); `unet` and text encoder are on one
    device. `concepts` maps names to {"prompt": ...}. Raises UserError for a variant that selects nothing.
    """
    reference = copy.deepcopy(unet).eval().requires_grad_(False)
    prompts = [concept["prompt"] for concept in concepts.values()]
    embeddings = encode_prompts(base.tokenizer, base.text_encoder, ["", *prompts]).float()
    sampler = build_scheduler("ddim", base.scheduler.config, options["sampler_steps"])
    optimizer = adamw(_trainable(unet, options["variant"]), options["lr"])
    pool: dict[int, list[tuple[Tensor, ...]]] = {}  # the current window's training states

    def step(k: int) -> dict[str, Tensor]:
        window, turn = divmod(k, options["reuse"])
        if window not in pool:
            # A run that goes on within a window draws it again; it was counted when it was drawn first.
            counted = budget if turn == 0 else Budget()
            turns = min(options["reuse"], options["steps"] - window * options["reuse"])
            pool.clear()
            pool[window] = _states(
                reference, sampler, embeddings, base.latent_shape, options, turns, seed, window, counted
            )
        noisy, t, text, target = pool[window][turn]
        loss = mean_square(answer(unet, noisy, t, text, budget), target)
        descend(loss, optimizer, options["lr"])
        return {"loss": loss.detach()}

    unet.train()
    training = Training(step, {"student": unet}, {"esd": optimizer})
    progress = run(training, options["steps"], keeping, {"total": budget})
    unet.eval()
    return progress


def _trainable(unet: nn.Module, variant: str) -> list[nn.Parameter]:
    """Lets gradients flow to the variant's parameters alone, and returns them."""
    chosen = []
    for name, parameter in unet.named_parameters():
        words = name.split(".")
        cross = "attn2" in words
        keys = cross and ("to_k" in words or "to_v" in words)
        parameter.requires_grad_({"x": cross, "u": not cross, "x-strict": keys, "all": True}[variant])
        if parameter.requires_grad:
            chosen.append(parameter)
    if not chosen:
        raise UserError(f"esd.variant: {variant!r} selects no parameter of this U-Net (it has no cross-attention)")
    return chosen


@torch.no_grad()
def _states(
    reference: nn.Module,
    sampler: object,
    embeddings: Tensor,
    latent_shape: tuple[int, int, int],
    options: Mapping,
    turns: int,
    seed: int,
    window: int,
    budget: Budget,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Trajectories of a batch, cut into `turns` training batches: x_t [B, C, h, w], t [B], text [B, L, D], target.

    `embeddings` [1 + concepts, L, D], the empty prompt's first.
    """
    batch, device = options["batch"], embeddings.device
    draws = generator(seed, "trajectory", window)
    x = to_device(torch.randn((batch, *latent_shape), generator=draws), device)
    picks = torch.rand((batch, options["sampler_steps"]), generator=draws).argsort(1)[:, :turns].T  # [turns, B]
    counts = torch.tensor(shares(batch, len(embeddings) - 1, window))
    text = embeddings[1:].repeat_interleave(to_device(counts, device), 0, output_size=batch)
    both = torch.cat([embeddings[:1].expand_as(text), text])

    sampler.set_timesteps(options["sampler_steps"])
    states, targets = [], []
    for index in range(int(picks.max()) + 1):
        t = sampler.timesteps[index]  # on the CPU, where the sampler looks its tables up
        times = torch.full((2 * batch,), int(t), device=device)
        null, conditional = ask(reference, torch.cat([x, x]), times, both, budget).chunk(2)
        states.append(x)
        targets.append(opposite(null, conditional, options["eta"]))
        x = sampler.step(null + options["guidance"] * (conditional - null), t, x, return_dict=False)[0]
    times = to_device(sampler.timesteps[picks], device)
    picks, rows = to_device(picks, device), torch.arange(batch, device=device)
    states, targets = torch.stack(states), torch.stack(targets)
    return [(states[picks[i], rows], times[i], text, targets[picks[i], rows]) for i in range(turns)]
