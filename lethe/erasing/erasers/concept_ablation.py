"""Concept Ablation, model-based (Kumari et al. 2023, arXiv 2303.13516), on any U-Net of a StableDiffusionPipeline.

The model that came in draws `pictures` of each anchor once. Noised, they are where the model learns to answer to the
concept's prompt as it answers to the anchor's:

    L = C mean (f(z_t, t, c) - sg f(z_t, t, c*))^2 + regularization * mean (f(z_t, t, c*) - y(z, e, t))^2

with c the concept's prompt, c* its anchor, sg a stop of the gradient (the answer is that of the network in training, as
released), and y what the diffusion loss asks for. C is the number of the latents' channels, 4 of Stable Diffusion: the
release divides the first sum by the entries of a mask of one channel, and the second by all entries, so its prior
weight w counts w / C against the mean square of the paper; `ablation: mean` leaves C out. To AdamW alone w / C is all
that matters; `clip_norm` makes the size of L count, too. As in the release, gradients are clipped to a norm of 1,
weights decay by 0.01 times the learning rate a step, and no gradient flows through keys and values of cross-attention
at the first token, which is the same in every prompt. Clipping and decay move a small net by 0.002 of its movement in
24 steps, where no gradient is as large as the limit (test_concept_ablation.py).

What differs from the release: a concept has one prompt and one anchor, where that draws from 200 anchors and words the
style in several ways; pictures keep their size and words, where that shrinks or enlarges most, says so in the prompt
and masks the rest; the regularization is on the same pictures, noise and t, where that takes a second batch, and
towards y, where that takes the noise also for networks that answer v; and with regularization the release trains at
twice its learning rate.

Per optimiser step and picture: two student forwards and one backward, three and two with regularization; before the
first step 2 * pictures * sampler_steps teacher forwards an anchor.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.erasing import trainable
from lethe.erasing.erased import Erased
from lethe.files.errors import UserError, needed
from lethe.models.pipelines import encode_prompts
from lethe.models.schedulers import build_scheduler
from lethe.stage.record import Budget
from lethe.training import losses
from lethe.training.data import generator, shares, to_device
from lethe.training.finetune import PictureBatch, adamw, answer, descend
from lethe.training.loop import Keeping, Training, run
from lethe.training.suppressions import concept_ablation as ablation
from lethe.training.trajectories import pictures

OPTIONS = {  # as the release has it for styles, on one GPU
    "variant": {
        "description": "what is trained: x cross-attention, x-strict its keys and values, full everything",
        "enum": ["x", "x-strict", "full"],
        "default": "x-strict",
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 200},
    "batch": {"$ref": "#/$defs/shared_batch", "default": 4},
    "lr": {
        "description": "AdamW learning rate; the release's 2.0e-6, which it scales by batch and GPUs",
        "$ref": "#/$defs/adamw_lr",
        "default": 8.0e-6,
    },
    "regularization": {
        "description": "weight of the diffusion loss on the anchor's pictures under the anchor, as the release counts "
        "its prior_loss_weight",
        "$ref": "#/$defs/weight",
        "default": 0.0,
    },
    "ablation": {
        "description": "what regularization stands beside: the ablation's mean square times the channels, as released, "
        "or its mean square",
        "enum": ["channels", "mean"],
        "default": "channels",
        "former": "mean",
    },
    "clip_norm": {
        "description": "gradient norm limit; null for none",
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "default": 1.0,
        "former": None,
    },
    "weight_decay": {
        "description": "AdamW weight decay",
        "$ref": "#/$defs/weight",
        "default": 0.01,
        "former": 0.0,
    },
    "pictures": {"description": "pictures drawn of each anchor", "$ref": "#/$defs/count", "default": 200},
    "guidance": {"description": "guidance of the anchor's pictures", "$ref": "#/$defs/guidance", "default": 6.0},
    "sampler_steps": {"description": "DDIM steps of the anchor's pictures", "$ref": "#/$defs/picture_steps"},
}


def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Erased:
    """Makes `unet` answer to the concepts' prompts as to their anchors', in place.

    `base` holds tokenizer, text_encoder, scheduler and latent_shape (C, h, w). A run that goes on draws the pictures
    again, which the state has counted. Raises UserError for an anchor that is the concept's prompt, and for a variant
    that selects nothing.
    """
    for name, concept in concepts.items():
        if concept["anchor"] == concept["prompt"]:
            raise UserError(
                f"concepts.{name}.anchor: {concept['anchor']!r} is its prompt, so there is nothing to ablate; give "
                "it what may be drawn in its place"
            )
    chosen = trainable.select(unet, options["variant"], "erase.concept_ablation")
    optimizer = adamw(chosen, options["lr"], options["weight_decay"])
    schedule = losses.schedule(base.scheduler, None, "legacy", next(unet.parameters()).device)
    batches = _batches(copy.deepcopy(unet), base, concepts, schedule, options, seed, budget)

    def step(k: int) -> dict[str, Tensor]:
        batch = batches(k)
        terms = {"ablation": ablation.loss(unet, unet, batch, {}, budget)}
        if options["regularization"]:
            target = schedule.target(batch.latents, batch.noise, batch.t)
            anchor = needed(batch.anchor, "anchor")
            terms["diff"] = losses.mean_square(answer(unet, batch.noisy, batch.t, anchor, budget), target)
        own = batch.noisy.shape[1] * terms["ablation"] if options["ablation"] == "channels" else terms["ablation"]
        loss = own + options["regularization"] * terms.get("diff", 0.0)
        descend(loss, optimizer, options["lr"], options["clip_norm"])
        return {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    unet.train()
    with first_token_held(unet):
        training = Training(step, {"student": unet}, {"concept_ablation": optimizer})
        progress = run(training, options["steps"], keeping, {"total": budget})
    unet.eval()
    return Erased(progress)


def _batches(
    network: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    schedule: losses.Schedule,
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Callable[[int], PictureBatch]:
    """Draws the pictures; returns what makes step k's batch: noised pictures of the anchors, with the concepts' prompts
    for captions."""
    known = list(dict.fromkeys(concept["anchor"] for concept in concepts.values()))
    place = torch.tensor([known.index(concept["anchor"]) for concept in concepts.values()])
    prompts = [concept["prompt"] for concept in concepts.values()]
    text = encode_prompts(base.tokenizer, base.text_encoder, ["", *prompts, *known]).float()
    empty, texts, anchors = text[:1], text[1 : 1 + len(prompts)], text[1 + len(prompts) :]
    sampler = build_scheduler("ddim", base.scheduler.config, options["sampler_steps"])
    frozen, captions = network.eval().requires_grad_(False), anchors.repeat_interleave(options["pictures"], 0)
    latents = pictures(frozen, sampler, empty, captions, base.latent_shape, options, seed, budget)

    def batch(k: int) -> PictureBatch:
        draws, size = generator(seed, "concept_ablation", k), options["batch"]
        which = torch.arange(len(prompts)).repeat_interleave(torch.tensor(shares(size, len(prompts), k)))
        rows = place[which] * options["pictures"] + torch.randint(options["pictures"], (size,), generator=draws)
        noise = torch.randn((size, *latents.shape[1:]), generator=draws)
        t = torch.randint(len(schedule), (size,), generator=draws)
        rows, noise, t = (to_device(value, text.device) for value in (rows, noise, t))
        own, other = to_device(which, text.device), to_device(place[which], text.device)
        z = latents[rows]
        return PictureBatch(z, noise, schedule.noised(z, noise, t), t, texts[own], empty, anchors[other])

    return batch


@contextmanager
def first_token_held(unet: nn.Module) -> Iterator[None]:
    """Within, cross-attention's keys and values at the first token pass no gradient on."""

    def hold(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)

    names = ("attn2.to_k", "attn2.to_v")
    handles = [module.register_forward_hook(hold) for name, module in unet.named_modules() if name.endswith(names)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
