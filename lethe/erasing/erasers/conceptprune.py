"""ConceptPrune (Chavhan et al. 2024, arXiv 2405.19237): finds the weights that serve a concept and sets them to zero.

Pairs of prompts, without the concept and with it, are sampled from the same noise by the model that came in. Weights of
the chosen layers that rank among the highest of their row by Wanda score with the concept, and score higher than
without it, go (see lethe.erasing.wanda). Those of several steps, and those of several concepts, are united.

Only the first `timesteps` steps of sampling have a say, and a step does not hear of later ones: sampling stops there,
which changes nothing. Keys and values of cross-attention see the caption alone, the same in every step: one step does.
Concepts share subjects and noise, so equal prompts, such as all those without a concept, are sampled once.

As released: one start noise for all prompts, the sampler PNDM (that of SD 1.4's pipeline, whose 50 steps are 51 calls;
`timesteps` counts calls), and a share of a row that is cut to an integer: 1 % of 1,280 columns are 12. A layer with
fewer than 1 / skill_ratio columns loses nothing, which is counted in the facts; if all are so narrow, that is refused.
`noise: own` gives each subject its own noise, and `sampler: ddim` is the one that pictures are drawn with: on a tiny
random net the weights that go have 65 % in common under the two noises, and 94 % under the two samplers (intersection
over union).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor, nn

from lethe.drawing.sampling import tiles
from lethe.erasing.erased import Erased
from lethe.erasing.wanda import highest, linears, listening, serving
from lethe.files.errors import UserError
from lethe.models.pipelines import encode_prompts
from lethe.models.schedulers import build_scheduler
from lethe.stage.record import Budget
from lethe.texts.templates import pairs
from lethe.texts.wording import check_anchors
from lethe.training.data import TILE, generator, to_device
from lethe.training.finetune import answer
from lethe.training.loop import Keeping

ZEROES = True
OPTIONS = {  # as the release has it for artists, but for the subjects
    "task": {
        "description": "kind of concept: decides the templates that are not given",
        "enum": ["style", "unsafe", "object", "attribute", "memorised"],
        "default": "style",
    },
    "subjects": {
        "description": "things, for unsafe humans, for object scenes; one pair of prompts each; one/other: its forms "
        "without and with it",
        "$ref": "#/$defs/texts",
        "default": ["house", "tree", "boat", "dog", "cat", "car", "chair", "flower", "mountain", "bridge"],
    },
    "base_template": {
        "description": "prompt without the concept, with {subject}; null: the task's own",
        "type": ["string", "null"],
        "default": None,
    },
    "target_template": {
        "description": "prompt with the concept: {subject}, {concept} (its name), {prompt}; null: the task's own",
        "type": ["string", "null"],
        "default": None,
    },
    "layers": {
        "description": "what is pruned: out or in layer of feed-forwards, cross-attention, the text encoder's fc2",
        "enum": ["ffn.2", "ffn.0", "attn2.to_k", "attn2.to_v", "text"],
        "default": "ffn.2",
    },
    "skill_ratio": {
        "description": "share of a row's weights that may go in a step; published: 0.01, for objects 0.02",
        "$ref": "#/$defs/rate",
        "default": 0.01,
    },
    "timesteps": {
        "description": "first sampling steps that have a say; published: 10, for nudity 9",
        "$ref": "#/$defs/count",
        "atMost": "sampler_steps",
        "default": 10,
    },
    "select_ratio": {
        "description": "share of these steps in which a weight must be found, and more; 0 is any",
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.0,
    },
    "sampler_steps": {"$ref": "#/$defs/picture_steps"},
    "sampler": {
        "description": "what samples the pairs: pndm, as SD 1.4's pipeline does, or ddim",
        "enum": ["pndm", "ddim"],
        "default": "pndm",
        "former": "ddim",
    },
    "noise": {
        "description": "whether all prompts share one start noise, as released, or each subject has its own",
        "enum": ["shared", "own"],
        "default": "shared",
        "former": "own",
    },
    "shares": {
        "description": "how skill_ratio becomes a number of a row's weights: cut to an integer, as released, or "
        "rounded and at least one",
        "enum": ["cut", "rounded"],
        "default": "cut",
        "former": "rounded",
    },
    "guidance": {"$ref": "#/$defs/guidance", "default": 7.5},
}
ENDS = {
    "ffn.2": "ff.net.2",
    "ffn.0": "ff.net.0.proj",
    "attn2.to_k": "attn2.to_k",
    "attn2.to_v": "attn2.to_v",
    "text": "mlp.fc2",
}
Norms = dict[str, Tensor]  # layer -> [steps, columns], A of each step


@torch.no_grad()
def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping | None,
    budget: Budget,
) -> Erased:
    """Zeroes weights of `unet`, in place, or of `base.text_encoder` for layers "text" (facts: edited).

    `base` holds tokenizer, text_encoder, scheduler and latent_shape (C, h, w); networks are on one device. Raises
    UserError if the net has no such layer, for templates that make no pairs, and for an anchor that is the prompt.
    """
    check_anchors(concepts)
    prompts = {
        name: pairs(
            concept,
            options["subjects"],
            options["task"],
            options["base_template"],
            options["target_template"],
            "conceptprune",
        )
        for name, concept in concepts.items()
    }
    edited = base.text_encoder if options["layers"] == "text" else unet
    layers = linears(edited, ENDS[options["layers"]])
    if not layers:
        raise UserError(
            f"conceptprune.layers: {options['layers']!r} selects nothing, this model has no layer "
            f"*.{ENDS[options['layers']]}; choose other layers or another eraser"
        )
    share, rounded = options["skill_ratio"], options["shares"] == "rounded"
    narrow = [name for name, layer in layers.items() if not highest(share, layer.weight.shape[1], rounded)]
    if len(narrow) == len(layers):
        widest = max(layer.weight.shape[1] for layer in layers.values())
        raise UserError(
            f"conceptprune.skill_ratio: {options['skill_ratio']:g} is less than one of the {widest} columns that these "
            f"layers have at most; give at least {math.ceil(1e4 / widest) / 1e4:.4f}"
        )
    measure = _measure(unet, base, layers, options, seed, budget)
    known: dict[tuple[str, ...], Norms] = {}

    def norms(texts: tuple[str, ...]) -> Norms:
        if texts not in known:
            known[texts] = measure(texts)
        return known[texts]

    united: dict[str, Tensor] = {}
    counts = {}
    for name, own in prompts.items():
        without, told = zip(*own, strict=True)
        found = masks(layers, norms(told), norms(without), options)
        counts[name] = sum(int(mask.sum()) for mask in found.values())
        united = {layer: mask | united[layer] if united else mask for layer, mask in found.items()}
    for layer, mask in united.items():
        layers[layer].weight.masked_fill_(mask, 0.0)
    facts = _facts(edited, layers, united, counts, options["layers"])
    return Erased(facts=facts | {"too_narrow": len(narrow)})


def masks(layers: Mapping[str, nn.Linear], target: Norms, base: Norms, options: Mapping) -> dict[str, Tensor]:
    """For each layer the weights that serve one concept, over all steps."""
    how = options["skill_ratio"], options["select_ratio"], options["shares"] == "rounded"
    return {name: serving(layer.weight, target[name], base[name], *how) for name, layer in layers.items()}


def _measure(
    unet: nn.Module,
    base: SimpleNamespace,
    layers: Mapping[str, nn.Linear],
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Callable[[Sequence[str]], Norms]:
    """prompts -> norms, over all of the prompts, all tokens and, with guidance, the empty prompt beside each."""
    guided = options["guidance"] != 1

    def encode(texts: Sequence[str]) -> Tensor:
        return encode_prompts(base.tokenizer, base.text_encoder, list(texts)).float()

    def of_text_encoder(prompts: Sequence[str]) -> Norms:
        with listening(layers, 1) as (sums, _):
            for rows in tiles(len(prompts), TILE):
                encode([prompts[row] for row in rows])
                if guided:
                    encode([""] * len(rows))
        return {name: total.sqrt() for name, total in sums.items()}

    if options["layers"] == "text":
        return of_text_encoder

    steps = 1 if options["layers"].startswith("attn2") else options["timesteps"]
    sampler = _sampler(base, options)
    null = encode([""])

    def of_unet(prompts: Sequence[str]) -> Norms:
        with listening(layers, steps) as (sums, at):
            for rows in tiles(len(prompts), TILE):
                sampler.set_timesteps(options["sampler_steps"])  # PNDM keeps earlier answers
                x = torch.cat([_noise(base, seed, row if options["noise"] == "own" else 0) for row in rows])
                x, text = to_device(x, null.device), encode([prompts[row] for row in rows])
                text = torch.cat([null.expand_as(text), text]) if guided else text
                for step, t in enumerate(sampler.timesteps[:steps]):
                    at(step)
                    times = torch.full((len(text),), int(t), device=x.device)
                    output = answer(unet, torch.cat([x, x]) if guided else x, times, text, budget)
                    if guided:
                        empty, conditional = output.chunk(2)
                        output = empty + options["guidance"] * (conditional - empty)
                    x = sampler.step(output, t, x, return_dict=False)[0]
        return {name: total.sqrt() for name, total in sums.items()}

    return of_unet


def _sampler(base: SimpleNamespace, options: Mapping) -> DDIMScheduler | PNDMScheduler:
    """Over the base's own noise schedule. Raises UserError for a prediction or schedule that PNDM does not know."""
    config = base.scheduler.config
    made = build_scheduler("ddim", config, options["sampler_steps"])
    if options["sampler"] == "ddim":
        return made
    if config.get("rescale_betas_zero_snr"):
        raise UserError("conceptprune.sampler: pndm cannot rescale betas to zero SNR, as this model does; give ddim")
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"conceptprune.sampler: pndm knows no prediction {config.prediction_type!r}, which this model makes; give "
            "ddim"
        )
    return PNDMScheduler.from_config(config, skip_prk_steps=True)


def _noise(base: SimpleNamespace, seed: int, row: int) -> Tensor:
    """The noise [1, C, h, w] of subject `row`, the same with and without a concept."""
    return torch.randn((1, *base.latent_shape), generator=generator(seed, "conceptprune", row))


def _facts(
    edited: nn.Module,
    layers: Mapping[str, nn.Linear],
    united: Mapping[str, Tensor],
    counts: Mapping[str, int],
    kind: str,
) -> dict:
    """What went, as counts and as shares of all weights of the edited network and of its layers of that kind."""
    weights, among = sum(p.numel() for p in edited.parameters()), sum(p.weight.numel() for p in layers.values())

    def of(zeroed: int) -> dict:
        return {"zeroed": zeroed / weights, "zeroed_of_layers": zeroed / among, "zeroed_weights": zeroed}

    return {
        "edited": "text_encoder" if kind == "text" else "unet",
        "layers": {"kind": kind, "number": len(layers), "weights": among},
        **of(sum(int(mask.sum()) for mask in united.values())),
        "concepts": {name: of(count) for name, count in counts.items()},
    }
