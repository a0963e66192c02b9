"""ESD: Erased Stable Diffusion (Gandikota et al. 2023, arXiv 2303.07345), on any U-Net of a StableDiffusionPipeline.

An eraser has one function, `erase`, which edits the U-Net in place, and OPTIONS, the JSON schema of its options.

ESD trains f so that f(x_t, t, c) = f*(null) - eta (f*(c) - f*(null)), where f* is a frozen copy of the model that came
in, and x_t is what a network, sampling the concept c with guidance, has at a random step of DDIM. `erase_from: anchor`
takes c out of a text c' that may stay, the concept's anchor: f(x_t, t, c') = f*(c') - eta (f*(c) - f*(null)), with x_t
of c'.

The current release starts from f*(c) where nothing is to stay, so that its eta e is e - 1 here: f*(c) - e (f*(c) -
f*(null)) = f*(null) - (e - 1) (f*(c) - f*(null)). Its default of 2 is the 1 of the paper and of the code of 2023. With
an anchor, as its --erase_from, eta means the same in both. What is trained goes by the name that the releases have for
it: x, x-strict, u and all are the current one's, which trains linear and convolutional layers; noxattn, notime and full
are those of the code of 2023, which trains norms too: with u these are 0.088 of a small net's movement in five steps
(test_esd.py). Two things differ from the releases: concepts share every batch, where those draw one a step; and, from
the code of 2023 alone, t is a step of the sampler, where that draws one of the timesteps up to the next step.

`states: frozen` has f* draw the x_t. They serve `reuse` steps, and the answers that guidance needs make the target
(lethe/training/trajectories.py). Per optimiser step and picture: at most 2 * sampler_steps / reuse teacher forwards,
one student forward, one backward; and with an anchor one more teacher forward, for f*(c).
`states: student` has the network in training draw them, as the first release did: per step and picture on average
sampler_steps - 1 student forwards without backward, and two or, with an anchor, three teacher forwards.
"""

import copy
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.erasing import trainable
from lethe.erasing.erased import Erased
from lethe.files.errors import UserError
from lethe.models.pipelines import encode_prompts
from lethe.models.schedulers import build_scheduler
from lethe.stage.record import Budget
from lethe.training.finetune import adamw, answer, ask, descend
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import mean_square
from lethe.training.trajectories import States, Trajectories, arrive, dealt

VERSION = {"variant": {"u": 2}}  # 2: without norms
OPTIONS = {  # as the first release has it
    "variant": {
        "description": "what is trained: x cross-attention, for styles, x-strict its keys and values; of linear and "
        "convolutional layers alone u all but x, for things and nudity, all everything; with norms, as the code of "
        "2023, noxattn all but x, the embedding of time and the output, notime all but these two, full everything",
        "enum": ["x", "u", "x-strict", "all", "noxattn", "notime", "full"],
        "default": "x",
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 1000},
    "batch": {"$ref": "#/$defs/shared_batch", "default": 1},
    "lr": {"description": "Adam learning rate", "$ref": "#/$defs/rate", "default": 1.0e-5},
    "eta": {
        "description": "strength of negative guidance in the target; without an anchor, 1 is the current release's 2, "
        "whose target starts from the concept's own answer",
        "$ref": "#/$defs/weight",
        "default": 1.0,
    },
    "erase_from": {
        "description": "text that the target starts from: empty, or anchor (the concept is taken out of its anchor)",
        "enum": ["empty", "anchor"],
        "default": "empty",
    },
    "states": {
        "description": "who draws the training states: the frozen model that came in, or the student, anew each step",
        "enum": ["frozen", "student"],
        "with": {"student": {"reuse": 1}},  # its trajectories change with every step
        "default": "student",
    },
    "guidance": {
        "description": "guidance of the trajectories that training states come from",
        "$ref": "#/$defs/guidance",
        "default": 3.0,
    },
    "sampler_steps": {"$ref": "#/$defs/trajectory_steps", "default": 50},
    "reuse": {
        "description": "optimiser steps that share a batch of trajectories; 1 draws anew",
        "$ref": "#/$defs/count",
        "atMost": "sampler_steps",  # each takes another state of a trajectory
        "default": 1,
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
) -> Erased:
    """Erases the concepts' prompts from `unet`, in place.

    `base` holds tokenizer, text_encoder, scheduler and latent_shape (C, h, w); `unet` and text encoder are on one
    device. `concepts` maps names to {"prompt": ..., "anchor": ...}. Raises UserError for a variant that selects
    nothing, for `reuse` above 1 with the student's states, and for an anchor that is the concept's prompt.
    """
    _check(concepts, options)
    reference = copy.deepcopy(unet).eval().requires_grad_(False)
    prompts = [concept["prompt"] for concept in concepts.values()]
    embeddings = encode_prompts(base.tokenizer, base.text_encoder, ["", *prompts]).float()
    empty, texts = embeddings[:1], embeddings[1:]  # null, c
    starts = texts  # c, or c'
    if options["erase_from"] == "anchor":
        anchors = [concept["anchor"] for concept in concepts.values()]
        starts = encode_prompts(base.tokenizer, base.text_encoder, anchors).float()
    sampler = build_scheduler("ddim", base.scheduler.config, options["sampler_steps"])
    optimizer = adamw(trainable.select(unet, options["variant"], "erase.esd"), options["lr"])
    batch, reuse = options["batch"], options["reuse"]
    frozen = Trajectories(
        reference,
        sampler,
        empty,
        lambda window: dealt(starts, batch, window),
        base.latent_shape,
        options,
        seed,
        options["steps"],
    )

    def own(k: int) -> States:
        text = dealt(starts, batch, k)
        noisy, t = arrive(unet, sampler, empty, text, base.latent_shape, options, seed, k, budget)
        both = torch.cat([empty.expand_as(text), text])
        answers = ask(reference, torch.cat([noisy, noisy]), torch.cat([t, t]), both, budget)
        return States(noisy, t, text, *answers.chunk(2))

    def step(k: int) -> dict[str, Tensor]:
        states = own(k) if options["states"] == "student" else frozen.at(k, budget)
        erased = states.conditional  # f*(c)
        if starts is not texts:
            erased = ask(reference, states.noisy, states.t, dealt(texts, batch, k // reuse), budget)
        target = _target(states, erased, options)
        loss = mean_square(answer(unet, states.noisy, states.t, states.text, budget), target)
        descend(loss, optimizer, options["lr"])
        return {"loss": loss.detach()}

    unet.train()
    training = Training(step, {"student": unet}, {"esd": optimizer})
    progress = run(training, options["steps"], keeping, {"total": budget})
    unet.eval()
    return Erased(progress)


def _check(concepts: Mapping[str, Mapping], options: Mapping) -> None:
    if options["states"] == "student" and options["reuse"] != 1:  # the schema says so too; for calls from Python
        raise UserError(
            f"erase.esd.reuse: {options['reuse']} with states student, whose trajectories change with every step; "
            "set reuse to 1, or states to frozen"
        )
    if options["erase_from"] == "anchor":
        for name, concept in concepts.items():
            if concept["anchor"] == concept["prompt"]:
                raise UserError(
                    f"erase.esd.erase_from: anchor, but the anchor of {name} is its prompt ({concept['prompt']!r}); "
                    "give it another anchor, or erase from empty"
                )


def _target(states: States, erased: Tensor, options: Mapping) -> Tensor:
    """What the student is to answer: f*(null), or f*(c') with an anchor, less eta (f*(c) - f*(null)) (eq. 7)."""
    start = states.null if options["erase_from"] == "empty" else states.conditional
    return start - options["eta"] * (erased - states.null)
