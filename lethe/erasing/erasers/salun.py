"""SalUn: saliency unlearning (Fan et al. 2024, arXiv 2310.12508), on any U-Net of a StableDiffusionPipeline.

1. Saliency: the gradient of the forgetting loss, the diffusion loss of the guided answer f(null) + g (f(c) - f(null))
   on the concept's pictures, summed over `saliency_batches` batches. (With g = w + 1: (1 + w) f(c) - w f(null).)
2. Mask: the `saliency` share of all of the U-Net's weights with the largest |gradient|, ranked over all layers
   together, as released; or, with `ranked: trained`, that share of the variant's own weights.
3. Training of the variant's weights that the mask holds, be they few or many, and of no others on

    L = || f(x_t, c) - sg f(x_t, c*) ||^2 + alpha || f(x'_t, c') - y(x', e, t) ||^2

   with x, c pictures of the concept and their captions, c* these captions with the concept taken out, x', c' the
   fine-tuning pictures and theirs, y what the diffusion loss asks for, and sg a stop of the gradient.

The ranking matters: with x and saliency 0.5, 2,697 of 6,224 weights of a small net's cross-attention may move, 3,112
with `ranked: trained`, and after three steps the results are 0.36 of the movement apart (test_salun.py).

The loss's sign, which the release turns, is no matter to |gradient|. Four things differ from the release: pictures are
drawn at random for a number of steps, where that goes through its folders in epochs; the concept's captions become what
they are without it, where that takes another class's; concepts share a batch; and the share of salient weights is
rounded, not cut, which is one weight at most. The copy in the benchmark UnlearnCanvas differs in three ways, none taken
over: its null answers are to the concept's prompt, it keeps the least salient weights, and its masks are never applied.
Per optimiser step and picture: three student forwards and two backwards, two and one without alpha; per picture of a
saliency batch two and two. The mask follows from the weights that came in, so a run that goes on finds the same one.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.erasing import trainable
from lethe.erasing.erased import Erased
from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training.data import Encoded, generator, shares
from lethe.training.finetune import PictureBatch, adamw, answer, descend, draw
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import Schedule, mean_square, schedule
from lethe.training.suppressions import concept_ablation

NEEDS = ["concepts", "data"]
OPTIONS = {
    "variant": {
        "description": "what is trained, where it is salient: x cross-attention, full everything",
        "enum": ["x", "full"],
        "default": "x",
    },
    "ranked": {
        "description": "weights among which the salient ones are found: all, as released, or those that are trained",
        "enum": ["all", "trained"],
        "default": "all",
        "former": "trained",
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 1000},
    "batch": {
        "description": "pictures a step of the concepts, shared equally, and as many that must stay",
        "$ref": "#/$defs/count",
        "default": 4,
    },
    "lr": {"$ref": "#/$defs/adamw_lr", "default": 1.0e-5},
    "saliency": {
        "description": "share of the ranked weights that is salient; of it the variant's may move",
        "$ref": "#/$defs/rate",
        "default": 0.5,
    },
    "saliency_batches": {
        "description": "batches that the saliency is summed over",
        "$ref": "#/$defs/count",
        "default": 100,
    },
    "guidance": {
        "description": "guidance in the saliency's loss, 1 + 7.5 in the release; 1 is none",
        "$ref": "#/$defs/guidance",
        "default": 8.5,
    },
    "alpha": {
        "description": "weight of the diffusion loss on the fine-tuning pictures",
        "$ref": "#/$defs/weight",
        "default": 1.0,
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
    """Makes `unet` draw the concepts' captions as without the concept, in place, by its most salient weights.

    `base` holds scheduler, concepts {name: Encoded} and data (Encoded). Raises UserError for an anchor that is the
    concept's prompt, for pictures encoded without anchors, and for a variant that selects nothing or nothing salient.
    """
    _check(concepts, base.concepts)
    variant = options["variant"]
    trainable.select(unet, variant, "erase.salun")  # what cannot be trained shows before the saliency
    ranked = trainable.select(unet, "full" if options["ranked"] == "all" else variant, "erase.salun")
    pictures, size = [base.concepts[name] for name in concepts], options["batch"]
    table = schedule(base.scheduler, None, "legacy", base.data.device)

    def forget(stream: str, k: int) -> PictureBatch:
        return draw(pictures, shares(size, len(pictures), k), table, generator(seed, stream, k))

    batches = (forget("saliency", k) for k in range(options["saliency_batches"]))
    grades = saliency(unet, ranked, batches, table, options["guidance"], budget)
    salient = dict(zip(map(id, ranked), most(grades, options["saliency"]), strict=True))
    del grades  # as large as the net
    parameters = trainable.select(unet, variant, "erase.salun")
    masks = [salient[id(parameter)].clone() for parameter in parameters]
    del salient  # so is this
    moving = sum(int(mask.sum()) for mask in masks)
    if not moving:
        raise UserError(
            f"erase.salun.saliency: {options['saliency']} of all weights holds none of variant {variant!r}; raise it, "
            "or set ranked to trained"
        )
    optimizer = adamw(parameters, options["lr"])

    def step(k: int) -> dict[str, Tensor]:
        batch = forget("forget", k)
        terms = {"forget": concept_ablation.loss(unet, unet, batch, {}, budget)}
        if options["alpha"]:
            kept = draw([base.data], [size], table, generator(seed, "remain", k))
            target = table.target(kept.latents, kept.noise, kept.t)
            terms["remain"] = mean_square(answer(unet, kept.noisy, kept.t, kept.text, budget), target)
        loss = terms["forget"] + options["alpha"] * terms.get("remain", 0.0)
        descend(loss, optimizer, options["lr"])
        return {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    unet.train()
    # A weight whose gradient is always 0 has moments 0 and, without weight decay, stays what it is, bit for bit.
    handles = [
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        for parameter, mask in zip(parameters, masks, strict=True)
    ]
    training = Training(step, {"student": unet}, {"salun": optimizer})
    try:
        progress = run(training, options["steps"], keeping, {"total": budget})
    finally:
        for handle in handles:
            handle.remove()
    unet.eval()
    facts = {"salient_weights": moving, "trained_weights": sum(mask.numel() for mask in masks)}
    return Erased(progress, facts | {"ranked_weights": sum(one.numel() for one in ranked)})


def _check(concepts: Mapping[str, Mapping], pictures: Mapping[str, Encoded]) -> None:
    for name, concept in concepts.items():
        if concept["anchor"] == concept["prompt"]:
            raise UserError(
                f"concepts.{name}.anchor: {concept['anchor']!r} is its prompt, so there is nothing to forget; give "
                "it what may be drawn in its place"
            )
        if pictures[name].anchor is None:
            raise UserError(f"{pictures[name].folder} ({name}): pictures encoded without anchors; encode them again")


def saliency(
    unet: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Iterable[PictureBatch],
    table: Schedule,
    guidance: float,
    budget: Budget,
) -> list[Tensor]:
    """|sum of the gradients| of the guided answer's diffusion loss over the batches, per parameter."""
    for batch in batches:
        both = torch.cat([batch.null.expand_as(batch.text), batch.text])
        noisy, t = torch.cat([batch.noisy, batch.noisy]), torch.cat([batch.t, batch.t])
        null, text = answer(unet, noisy, t, both, budget).chunk(2)
        target = table.target(batch.latents, batch.noise, batch.t)
        mean_square(null + guidance * (text - null), target).backward()
    grades = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return grades


def most(grades: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks, 1 at the `share` of all entries together, rounded, at least one, that are largest; 0 elsewhere."""
    flat = torch.cat([grade.flatten() for grade in grades])
    mask = torch.zeros_like(flat)
    mask[flat.topk(max(1, round(share * len(flat))), sorted=False).indices] = 1
    parts = mask.split([grade.numel() for grade in grades])
    return [part.view_as(grade) for part, grade in zip(parts, grades, strict=True)]
