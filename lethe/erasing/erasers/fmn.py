"""Forget-Me-Not (Zhang et al. 2023, arXiv 2303.17591), on any U-Net of a StableDiffusionPipeline.

The attention that pictures of a concept pay to the concept's tokens in their captions is made to vanish, on noised
pictures at random t: the loss is that of lethe/training/suppressions/attention_forgetting.py. Where the words of the
captions do not catch the concept, `inversion_steps` of textual inversion on its pictures come first
(lethe/erasing/inversion.py): every caption is then "<anchor> *", and attention has to leave the learnt word.

As the release has it, with one norm over all that is paid, and, where the tokenizer pads with the end token as SD
1.x's does, all places from the end on beside the concept's words. The release decays what it trains by AdamW's 0.01,
this by nothing: over its 100 steps of 2e-5 that scales a weight by 1 - 2.0e-5, over the inversion's 500 steps of 1e-4
the word by 1 - 5.0e-4.

Per optimiser step and picture: one student forward, one backward; the same per step of inversion. A run that goes on
does the inversion again, which the state has counted.
"""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.erasing import inversion, trainable
from lethe.erasing.erased import Erased
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training.data import Encoded, generator, shares, to_device
from lethe.training.finetune import Batch, adamw, descend, draw
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import schedule
from lethe.training.suppressions import attention_forgetting

NEEDS = ["concepts"]
OPTIONS = {  # as the release has it, for styles
    "variant": {
        "description": "what is trained: x cross-attention, full everything before the last of it",
        "enum": ["x", "full"],
        "default": "x",
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 100},
    "batch": {"$ref": "#/$defs/shared_batch", "default": 1},
    "lr": {"$ref": "#/$defs/adamw_lr", "default": 2.0e-5},
    "end_token": {"$ref": "#/$defs/end_token"},
    "padding": {
        "description": "whether the padding behind it goes with the end token; null: if the tokenizer pads with it, as "
        "released",
        "type": ["boolean", "null"],
        "default": None,
        "former": False,
        "with": {True: {"end_token": True}},
    },
    "norm": {"$ref": "#/$defs/attention_norm"},
    "inversion_steps": {
        "description": "steps of textual inversion that first learn a word for the concept; 0: the captions' words",
        "type": "integer",
        "minimum": 0,
        "default": 500,
    },
    "inversion_lr": {
        "description": "AdamW learning rate of the inversion",
        "$ref": "#/$defs/adamw_lr",
        "default": 1.0e-4,
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
    """Makes `unet` look away from the concepts' words, in place.

    `base` holds scheduler, tokenizer, concepts {name: Encoded} and, for an inversion, text_encoder, which stay as they
    are. Raises UserError for captions that have no words of the concept, and for a variant that selects nothing.
    """
    pictures, size = [base.concepts[name] for name in concepts], options["batch"]
    table, facts = schedule(base.scheduler, None, "legacy", pictures[0].device), {}
    trainable.select(unet, options["variant"], "erase.fmn")  # what cannot be trained shows before the inversion
    learned = None
    if options["inversion_steps"]:
        unet.requires_grad_(False)
        learned = inversion.learn(unet, base, pictures, list(concepts.values()), table, options, seed, budget)
        facts["inversion_loss"] = ends(learned.losses)
    else:
        _check({name: base.concepts[name] for name in concepts})
    told = dict(options)
    if options["padding"] is None:
        told["padding"] = options["end_token"] and base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    optimizer = adamw(trainable.select(unet, options["variant"], "erase.fmn"), options["lr"])

    def step(k: int) -> dict[str, Tensor]:
        counts = shares(size, len(pictures), k)
        batch = draw(pictures, counts, table, generator(seed, "forget", k))
        loss = attention_forgetting.loss(unet, unet, reworded(batch, learned, counts), told, budget)
        descend(loss, optimizer, options["lr"])
        return {"loss": loss.detach()}

    unet.train()
    progress = run(Training(step, {"student": unet}, {"fmn": optimizer}), options["steps"], keeping, {"total": budget})
    unet.eval()
    return Erased(progress, facts | {"padding": told["padding"]})


def reworded(batch: Batch, learned: inversion.Learned | None, counts: list[int]) -> Batch:
    """The batch, `counts[i]` pictures of concept i, with the learnt words' sentences for captions, if there are any."""
    if learned is None:
        return batch
    rows = to_device(torch.tensor(counts), learned.text.device)
    own = {
        key: getattr(learned, key).repeat_interleave(rows, 0, output_size=len(batch.t))
        for key in ("text", "mask", "end")
    }
    return dataclasses.replace(batch, **own)


def ends(losses: Tensor) -> list[float]:
    """Mean of the first tenth and of the last."""
    share = max(1, len(losses) // 10)
    return [round(float(part.mean()), 6) for part in (losses[:share], losses[-share:])]


def _check(pictures: Mapping[str, Encoded]) -> None:
    for name, own in pictures.items():
        if own.mask is None:
            raise UserError(f"{own.folder} ({name}): pictures encoded without anchors; encode them again")
        if not own.mask.any():
            raise UserError(
                f"concepts.{name}: its captions have no word that is not its anchor's too; give it another anchor, or "
                "set erase.fmn.inversion_steps"
            )
