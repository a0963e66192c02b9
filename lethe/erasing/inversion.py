"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): a word for what pictures show, learnt with all weights frozen.

The word stands after the anchor's words, "a painting *". Its token embedding is put in by a hook on the text encoder's
token table (`lethe.texts.tokens.put`), so that neither tokenizer nor text encoder ever change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.texts.wording import words
from lethe.training.data import Encoded, generator, shares, to_device
from lethe.training.finetune import adamw, answer, draw
from lethe.training.losses import Schedule, mean_square


@dataclass(frozen=True)
class Learned:
    """A word a concept, each in its anchor."""

    text: Tensor  # [n, L, D] float32, the embeddings of "<anchor> <word>"
    mask: Tensor  # [n, L] float32, 1 at the word
    end: Tensor  # [n] long, place of the end token
    losses: Tensor  # [steps], the diffusion loss of each step


def learn(
    unet: nn.Module,
    base: SimpleNamespace,
    pictures: Sequence[Encoded],
    concepts: Sequence[Mapping],
    schedule: Schedule,
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Learned:
    """min over the words' embeddings of || f(z_t, t, "<anchor> <word>") - y(z, e, t) ||^2 on the concepts' pictures.

    Words start as the mean of the tokens that a prompt has over its anchor. `options` holds batch, inversion_steps and
    inversion_lr; concepts share a batch equally. `unet` must not require gradients; f runs in eval mode.
    """
    ids, places, start = sentences(base, concepts, pictures[0].embeddings.shape[1])
    vectors = nn.Parameter(start)
    optimizer, history = adamw([vectors], options["inversion_lr"]), []
    for k in range(options["inversion_steps"]):
        counts = shares(options["batch"], len(pictures), k)
        batch = draw(pictures, counts, schedule, generator(seed, "inversion", k))
        text = _encode(base.text_encoder, ids, places, vectors)
        rows = text.repeat_interleave(to_device(torch.tensor(counts), text.device), 0, output_size=len(batch.t))
        target = schedule.target(batch.latents, batch.noise, batch.t)
        loss = mean_square(answer(unet, batch.noisy, batch.t, rows, budget), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append(loss.detach())
    with torch.no_grad():
        text = _encode(base.text_encoder, ids, places, vectors)
    mask = torch.zeros(text.shape[:2], device=text.device)
    mask[torch.arange(len(mask)), places] = 1
    return Learned(text, mask, places + 1, torch.stack(history) if history else torch.zeros(0))


def sentences(base: SimpleNamespace, concepts: Sequence[Mapping], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [n, length] of the anchors, with room for a word before the end token; the words' places [n] and first
    embeddings [n, W]."""
    tokenizer, table = base.tokenizer, base.text_encoder.get_input_embeddings().weight.detach()
    rows: list[list[int]] = []
    places: list[int] = []
    starts: list[Tensor] = []
    for concept in concepts:
        *own, end = tokenizer(concept["anchor"], truncation=True, max_length=length - 1).input_ids
        named = words(concept["prompt"], concept["anchor"]) or concept["prompt"]
        named = tokenizer(named, add_special_tokens=False, truncation=True, max_length=length).input_ids
        places.append(len(own))
        starts.append(table[named].mean(0))
        sentence = [*own, named[-1], end]  # which token holds the place is no matter
        rows.append(sentence + [tokenizer.pad_token_id] * (length - len(sentence)))
    ids, free = (to_device(torch.tensor(numbers), table.device) for numbers in (rows, places))
    return ids, free, torch.stack(starts)


def _encode(text_encoder: nn.Module, ids: Tensor, places: Tensor, vectors: Tensor) -> Tensor:
    """[n, L, D] as `lethe.models.pipelines.encode_prompts` makes them, with a graph to the words' embeddings."""
    rows = tokens.Sentences(ids, places[:, None], places + 1)
    return tokens.encode(text_encoder, rows, vectors[:, None])
