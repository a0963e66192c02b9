"""SAFREE (Yoon et al. 2024, arXiv 2410.12761): prompts moved out of the concepts' subspace, while sampling.

Weights stay as they are; `erase` only says what sampling is to do. Everything depends on the prompt alone, and is
computed once a prompt, in float64. With c_j the pooled embedding of concept j's text and p_i that of the prompt with
token i hidden, P_C and P_I the orthogonal projections onto the span of all c_j and of all p_i:

    d_i = |(I - P_C) p_i|                        how far the prompt is from the concepts without token i (eq. 2)
    token i is theirs if d_i > (1 + alpha) * mean of d_j over the other tokens (eq. 4)
    its embedding e_i becomes P_I (I - P_C) e_i (eqs. 3 and 5)

and the changed prompt counts for the first round(gamma * sigmoid(1 - cos(e, P_I (I - P_C) e))) steps (eq. 6), cos
averaged over the prompt's tokens; gamma is a number of 50 steps and scales with the number that is drawn. (The released
code applies the two projections in the other order, and fits the filter's sigmoid to each kind of concept.)

A token is hidden by the attention mask, in any vocabulary: no other token sees it. A prompt's only token is compared
with the prompt that shows it. `padding` adds what the paper has not: in a prompt with such a token the end token and
the padding move too, since they see the whole prompt and a U-Net may read the concept there. The paper's third part,
which damps low frequencies inside the U-Net's up blocks, is not here.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.drawing.sampling import Predict, Settings, guided
from lethe.erasing.erased import Erased
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

GUIDES = True
OPTIONS = {  # alpha and gamma as published
    "alpha": {
        "description": "a token is the concepts' if hiding it takes the prompt farther from them by this fraction",
        "$ref": "#/$defs/weight",
        "default": 0.01,
    },
    "gamma": {
        "description": "the most of 50 steps that use the changed prompt; null for all steps",
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "default": 10.0,
    },
    "padding": {
        "description": "whether a prompt's end token and padding move with its detected tokens (not in the paper)",
        "type": "boolean",
        "default": False,
    },
}
GAMMA_STEPS = 50  # gamma counts these


def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Erased:
    """The record for sampling: the concepts' prompts, and the options."""
    return Erased(guidance={"eraser": "safree", "texts": [one["prompt"] for one in concepts.values()], **options})


def guide(
    base: SimpleNamespace, unet: nn.Module, record: Mapping, settings: Settings, embeddings: Mapping[str, Tensor]
) -> Callable[[Sequence[str]], Predict]:
    """See `lethe.erasing.guidance`."""
    device = next(unet.parameters()).device
    unsafe = projection(torch.cat([pooled(base, tokens(base, text), [None]) for text in record["texts"]]))
    moved = {
        text: move(base, text, own, unsafe, record["alpha"], record["padding"]) for text, own in embeddings.items()
    }
    steps = {
        text: settings.steps if record["gamma"] is None else filtered(similarity, record["gamma"], settings.steps)
        for text, (_, similarity) in moved.items()
    }
    empty = embeddings[""].to(device)

    def begin(prompts: Sequence[str]) -> Predict:
        text = torch.stack([embeddings[prompt] for prompt in prompts]).to(device)
        safe = torch.stack([moved[prompt][0] for prompt in prompts]).to(device)
        last = torch.tensor([steps[prompt] for prompt in prompts], device=device).view(-1, 1, 1)

        def predict(latents: Tensor, t: Tensor, index: int) -> Tensor:
            return guided(unet, latents, t, torch.where(index < last, safe, text), empty, settings.guidance)

        return predict

    return begin


def move(
    base: SimpleNamespace, text: str, embedding: Tensor, unsafe: Tensor, alpha: float, padding: bool
) -> tuple[Tensor, float]:
    """The prompt's embedding [L, D] with the concepts' tokens replaced, and cos(e, P_I (I - P_C) e) over its tokens.

    `unsafe` is P_C [D, D]. An embedding without such tokens comes back bit for bit.
    """
    words = tokens(base, text)
    count = len(words) - 2  # without start and end
    if not count:
        return embedding, 1.0
    hidden = pooled(base, words, range(1, count + 1))
    away = torch.eye(len(unsafe), dtype=torch.float64) - unsafe
    shown = (pooled(base, words, [None]) @ away).norm(dim=1) if count == 1 else None
    theirs = detected((hidden @ away).norm(dim=1), alpha, shown)
    own = embedding[1:].double()
    projected = own @ away @ projection(hidden)  # projections are symmetric, and embeddings rows
    similarity = nn.functional.cosine_similarity(own[:count], projected[:count], dim=1).mean()
    rest = (theirs.any() & padding).expand(len(own) - count)
    chosen = torch.cat([theirs, rest])[:, None]
    moved = torch.where(chosen, projected.to(embedding.dtype), embedding[1:])
    return torch.cat([embedding[:1], moved]), float(similarity)


def detected(distances: Tensor, alpha: float, shown: Tensor | None) -> Tensor:
    """Which tokens [n] are the concepts', by the distances d_i [n]; a lone one is compared with `shown` [1]."""
    others = (distances.sum() - distances) / (len(distances) - 1) if shown is None else shown
    return distances > (1 + alpha) * others


def filtered(similarity: float, gamma: float, steps: int) -> int:
    """Of `steps`, how many first ones use the changed prompt (eq. 6)."""
    share = torch.tensor(1 - similarity, dtype=torch.float64).sigmoid() * gamma / GAMMA_STEPS
    return min(steps, round(float(share) * steps))


def projection(vectors: Tensor) -> Tensor:
    """Orthogonal projection [D, D] onto the span of the rows [n, D]; they may depend on each other."""
    # rows were computed in float32: what differs by its rounding is no direction of its own
    tolerance = torch.finfo(torch.float32).eps * max(vectors.shape)
    return torch.linalg.pinv(vectors, rtol=tolerance) @ vectors


def tokens(base: SimpleNamespace, text: str) -> list[int]:
    """Start, the text's tokens, end; cut to the text encoder's length."""
    length = min(base.tokenizer.model_max_length, base.text_encoder.config.max_position_embeddings)
    return base.tokenizer(text, truncation=True, max_length=length).input_ids


def pooled(base: SimpleNamespace, words: list[int], hidden: Sequence[int | None]) -> Tensor:
    """Pooled embeddings [n, D] float64 on the CPU, each with the token at one place hidden (None: with none hidden)."""
    mask = torch.ones(len(hidden), len(words), dtype=torch.long)
    for row, place in enumerate(hidden):
        if place is not None:
            mask[row, place] = 0
    rows = torch.tensor([words] * len(hidden), device=base.text_encoder.device)
    return base.text_encoder(rows, attention_mask=mask.to(rows.device)).pooler_output.double().cpu()
