"""Concept inversion (Pham et al. 2024, "Circumventing Concept Erasure Methods", arXiv 2308.01508): a word is learnt for
each concept with the victim's own denoising loss on the concept's pictures, all weights frozen.

    min over v  mean (f(z_t, t, "... * ...") - y(z, e, t))^2,   v the token embedding of *

The target y is in the victim's own parameterisation (noise, v or z), the text encoder the victim's own; v starts as the
mean of the tokens that the concept's prompt has over its anchor. The sentence is the anchor with the word, as published
("a painting *"), or each picture's own caption with the word for the concept ("a tree by monet": "a tree *"), so that
the word need not learn what else is in the pictures.

A row then asks for its prompt in the same way: what the captions say over their anchors, or the concept's prompt over
its own, is replaced by the word; for a prompt that has nothing of it, the anchor with the word. A guided victim
(`lethe.erasing.guidance`) is inverted on its U-Net alone.

Each concept has its own word, its own generator and its own `batch` of pictures a step: fewer concepts change none.
Per step and concept: `batch` forwards and backwards. Published: 5000 steps of 16 pictures with AdamW, lr 5e-3 times 16
and constant, with its decay of 0.01, which shrinks the word by lr times that in every step. Here the rate falls
linearly to zero, and the timesteps of a step are one from each of `batch` equal parts. Over the published steps decay
alone would leave a word 14 % of its length, at a constant rate 2 %.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lethe.attacking.spellings import captions, check, reworded, spellings
from lethe.attacking.victims import Attacked, Victim
from lethe.erasing import inversion
from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.training.data import Encoded, generator, to_device
from lethe.training.finetune import adamw, advance, answer
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import mean_square, schedule

NEEDS = ["concepts"]
OPTIONS = {
    "sentences": {
        "description": "where the word stands while it is learnt: the anchor, as published, or the pictures' captions",
        "enum": ["anchor", "captions"],
        "default": "anchor",
    },
    "steps": {"$ref": "#/$defs/optimiser_steps", "default": 5000},
    "batch": {"description": "pictures of each concept a step", "$ref": "#/$defs/count", "default": 16},
    "lr": {
        "description": "AdamW learning rate of the word's embedding; published: 5.0e-3 times the batch",
        "$ref": "#/$defs/rate",
        "default": 0.08,
    },
    "weight_decay": {
        "description": "AdamW's decay of the word's embedding",
        "type": "number",
        "minimum": 0,
        "default": 0.01,
        "former": 0.0,
    },
}


class Learnt(nn.Module):
    """The words' embeddings [W], by concept."""

    def __init__(self, starts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({name: nn.Parameter(start.clone()) for name, start in starts.items()})


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping, budget: Budget) -> Attacked:
    """Learns a word for each concept of the victim; what is asked goes with its embeddings.

    `victim.base` gets copies of its tokenizer and text encoder that know the words, for an eraser that reads the text
    while sampling. Raises UserError for captions that say nothing of the concept, where sentences are captions.
    """
    base, concepts, length = victim.base, victim.concepts, tokens.length(victim.base)
    table = schedule(base.scheduler, None, "legacy", victim.device)
    said = {name: captions(base.concepts[name]) for name in concepts}
    spoken = {name: spellings(concept, said[name]) for name, concept in concepts.items()}
    texts, starts = {}, {}
    for name, concept in concepts.items():
        lines = [f"{concept['anchor']} {mark(name)}"] * len(said[name])
        if options["sentences"] == "captions":
            check(base.concepts[name], said[name], name)
            lines = [reworded(caption, concept, spoken[name], mark(name)) for caption, _ in said[name]]
        texts[name] = tokens.with_word(base.tokenizer, lines, mark(name), length, victim.device)
        starts[name] = inversion.sentences(base, [concept], length)[2][0]
    learnt = Learnt(starts)
    optimizer = adamw(learnt.parameters(), options["lr"], options["weight_decay"])

    def step(k: int) -> dict[str, Tensor]:
        terms = {}
        for name in concepts:
            draws = generator(seed, f"inversion/{name}", k)
            rows, z = latents(base.concepts[name], options["batch"], draws)
            noise = to_device(torch.randn(z.shape, generator=draws), z.device)
            t = to_device(spread(len(table), len(z), draws), z.device)
            vectors = learnt.vectors[name].expand(len(z), 1, -1)
            text = tokens.encode(base.text_encoder, texts[name].rows(rows), vectors)
            loss = mean_square(
                answer(victim.unet, table.noised(z, noise, t), t, text, budget), table.target(z, noise, t)
            )
            loss.backward()
            terms[f"loss_{name}"] = loss.detach()
        advance(optimizer, options["lr"] * (1 - k / options["steps"]))
        return terms

    progress = run(Training(step, {"student": learnt}, {"words": optimizer}), options["steps"], keeping, {"a": budget})
    asked, states = {}, {}
    for name, row in victim.pictures():
        text = reworded(row.prompt, concepts[name], spoken[name], mark(name))
        asked[name, row.case_number] = text
        if text not in states:
            sentence = tokens.with_word(base.tokenizer, [text], mark(name), length, victim.device)
            with torch.no_grad():
                states[text] = tokens.encode(base.text_encoder, sentence, learnt.vectors[name][None, None])[0].cpu()
    tokens.teach(base, {mark(name): learnt.vectors[name].detach() for name in concepts})
    pairs = {name: len(set(own)) for name, own in said.items()}
    return Attacked(asked=asked, states=states, about={"captions": pairs}, progress=progress)


def mark(name: str) -> str:
    """How the learnt word of a concept is written in what is asked."""
    return f"<{name}>"


def latents(pictures: Encoded, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` rows, and their latents [B, C, h, w] drawn from the posterior."""
    rows = pictures.rows(draws, count)
    noise = torch.randn((count, *pictures.mean.shape[1:]), generator=draws)
    return rows, to_device(torch.addcmul(pictures.mean[rows], pictures.std[rows], noise), pictures.device)


def spread(size: int, count: int, draws: torch.Generator) -> Tensor:
    """`count` timesteps below `size`, one from each of as many equal parts: uniform in all, with less noise between
    steps than if each were drawn alone."""
    parts = (torch.arange(count) + torch.rand(count, generator=draws)) / count
    return (parts * size).long().clamp(max=size - 1)
