"""SAFREE (Yoon et al. 2024, arXiv 2410.12761): prompts moved out of the concepts' subspace, while sampling.

Weights stay as they are; `erase` only says what sampling is to do. Everything but the third part depends on the prompt
alone, and is computed once a prompt, in float64. With c_j the pooled embedding of concept j's text and p_i that of the
prompt with token i hidden, P_C and P_I the orthogonal projections onto the span of all c_j and of all p_i:

    d_i = |(I - P_C) p_i|                        how far the prompt is from the concepts without token i (eq. 2)
    token i is theirs if d_i > (1 + alpha) * mean of d_j over the other tokens (eq. 4)
    its embedding e_i becomes P_I (I - P_C) e_i (eqs. 3 and 5)

and the changed prompt counts at the steps up to number round(gamma * sigmoid(1 - cos(e, P_I (I - P_C) e))), from 0
(eq. 6), cos averaged over start token, prompt and end token; gamma is a number of 50 steps and scales with the number
that is drawn. The third part damps, at these steps, what the changed prompt makes louder in the low frequencies of skip
connections (`lethe.erasing.reattention`): for that the U-Net answers the unchanged prompt too, one text more at every
step, whether it counts there or not.

As the released code does it, and the paper does not say: a token is hidden by the number 0 in its place (in CLIP's
vocabulary the exclamation mark), and the concepts' texts, joined, stand where classifier-free guidance has the empty
one. `hide: mask` has no token see it instead, in any vocabulary: on a random text encoder that finds other tokens in 5
of 6 short prompts. `negative: false` leaves the empty text.

What is different here. The released code applies the two projections in the other order: what it puts in a token's
place is 20 % away on that encoder (norm of the difference over that of ours, mean over the tokens). Its filter is not
eq. 6 but round(gamma * sigmoid(2 k (10 (1 - cos) - m))), fitted to a kind of concept on SD 1.4: `filter: nudity` (k
2.5, m 5.333) or `artists` (3.5, 5.5), 1 to 11 steps of 50 where eq. 6 gives 6 to 10. It takes a prompt's only token for
theirs always; here that is compared with the prompt that shows it. `padding` adds what neither has: in a prompt with
such a token the end token and the padding move too, since they see the whole prompt and a U-Net may read the concept
there.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.drawing.sampling import Predict, Settings, ask
from lethe.erasing.erased import Erased
from lethe.erasing.reattention import Reattention
from lethe.files.errors import UserError
from lethe.models.pipelines import encode_prompts
from lethe.params import rules
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

GUIDES = True
PASSES = {"reattention": 1}  # of a record with this option on
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
    "hide": {
        "description": "how a token is hidden: its number becomes 0, as released, or no other token sees it",
        "enum": ["zero", "mask"],
        "default": "zero",
        "former": "mask",
    },
    "filter": {
        "description": "how many steps use the changed prompt: by the paper's eq. 6, as the released code fitted it, "
        "or by eq. 6 over the prompt's own tokens and one step less",
        "enum": ["paper", "nudity", "artists", "words"],
        "default": "paper",
        "former": "words",
    },
    "negative": {
        "description": "whether the concepts' texts are the negative prompt too, as in the released script",
        "type": "boolean",
        "default": True,
        "former": False,
    },
    "reattention": {
        "description": "whether low frequencies of skip connections are damped; asks the U-Net one text more a step",
        "type": "boolean",
        "default": True,
        "former": False,
    },
}
GAMMA_STEPS = 50  # gamma counts these
FITS = {"nudity": (2.5, 5.333), "artists": (3.5, 5.5)}  # k and m of the released code's filter


def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Erased:
    """The record for sampling: the concepts' prompts, and the options.

    Facts: tokens that the text encoder cuts off the negative prompt, as it does in the released script. Raises
    UserError if 0 is the number of a text's end: a text would end where a token is hidden.
    """
    texts = [one["prompt"] for one in concepts.values()]
    if options["hide"] == "zero" and base.tokenizer.eos_token_id == 0:
        raise UserError(
            "safree.hide: 'zero' would end a text, since 0 is the end token of this vocabulary; give 'mask'"
        )
    cut = 0
    if options["negative"]:
        whole = len(base.tokenizer(", ".join(texts)).input_ids)
        cut = whole - len(tokens(base, ", ".join(texts)))
        if cut:
            print(f"safree: the negative prompt {', '.join(texts)!r} is cut by {cut} tokens")
    return Erased(guidance={"eraser": "safree", "texts": texts, **options}, facts={"negative_tokens_cut": cut})


def guide(
    base: SimpleNamespace, unet: nn.Module, record: Mapping, settings: Settings, embeddings: Mapping[str, Tensor]
) -> Callable[[Sequence[str]], Predict]:
    """See `lethe.erasing.guidance`. A record of an older version, which lacks options, draws as it did."""
    record = {**rules.former("erasers", "safree"), **record}
    device, hide = next(unet.parameters()).device, record["hide"]
    unsafe = projection(torch.cat([pooled(base, tokens(base, text), [None], hide) for text in record["texts"]]))
    moved = {
        text: move(base, text, own, unsafe, record["alpha"], record["padding"], hide, record["filter"] == "words")
        for text, own in embeddings.items()
    }
    steps = {
        text: settings.steps
        if record["gamma"] is None
        else filtered(similarity, record["gamma"], settings.steps, record["filter"])
        for text, (_, similarity) in moved.items()
    }
    negative = embeddings[""]
    if record["negative"]:
        negative = encode_prompts(base.tokenizer, base.text_encoder, [", ".join(record["texts"])])[0]
    negative = negative.to(device)
    damper = Reattention(unet) if record["reattention"] else None

    def begin(prompts: Sequence[str]) -> Predict:
        text = torch.stack([embeddings[prompt] for prompt in prompts]).to(device)
        safe = torch.stack([moved[prompt][0] for prompt in prompts]).to(device)
        last = torch.tensor([steps[prompt] for prompt in prompts], device=device).view(-1, 1, 1)
        changed = torch.tensor([not torch.equal(moved[one][0], embeddings[one]) for one in prompts], device=device)

        def predict(latents: Tensor, t: Tensor, index: int) -> Tensor:
            texts = [torch.where(index < last, safe, text)]
            if settings.guidance != 1:
                texts = [negative, *texts]
            if damper is None:
                found = ask(unet, latents, t, texts)
            else:
                with damper.damping(changed & (index < last.flatten()), len(latents) * (len(texts) - 1)):
                    found = ask(unet, latents, t, [*texts, text], fill=True)[:-1]
            return found[0] + settings.guidance * (found[1] - found[0]) if len(found) == 2 else found[0]

        return predict

    if damper:
        weakref.finalize(begin, damper.remove)
    return begin


def move(
    base: SimpleNamespace,
    text: str,
    embedding: Tensor,
    unsafe: Tensor,
    alpha: float,
    padding: bool,
    hide: str,
    own_alone: bool = False,
) -> tuple[Tensor, float]:
    """The prompt's embedding [L, D] with the concepts' tokens replaced, and cos(e, P_I (I - P_C) e) over its tokens,
    start and end among them, or `own_alone`.

    `unsafe` is P_C [D, D]. An embedding without such tokens comes back bit for bit.
    """
    words = tokens(base, text)
    count = len(words) - 2  # without start and end
    if not count:
        return embedding, 1.0
    hidden = pooled(base, words, range(1, count + 1), hide)
    away = torch.eye(len(unsafe), dtype=torch.float64) - unsafe
    shown = (pooled(base, words, [None], hide) @ away).norm(dim=1) if count == 1 else None
    theirs = detected((hidden @ away).norm(dim=1), alpha, shown)
    own = embedding.double()
    projected = own @ away @ projection(hidden)  # projections are symmetric, and embeddings rows
    counted = slice(1, count + 1) if own_alone else slice(len(words))
    similarity = nn.functional.cosine_similarity(own[counted], projected[counted], dim=1).mean()
    start, rest = theirs.new_zeros(1), (theirs.any() & padding).expand(len(own) - count - 1)
    chosen = torch.cat([start, theirs, rest])[:, None]
    return torch.where(chosen, projected.to(embedding.dtype), embedding), float(similarity)


def detected(distances: Tensor, alpha: float, shown: Tensor | None) -> Tensor:
    """Which tokens [n] are the concepts', by the distances d_i [n]; a lone one is compared with `shown` [1]."""
    others = (distances.sum() - distances) / (len(distances) - 1) if shown is None else shown
    return distances > (1 + alpha) * others


def filtered(similarity: float, gamma: float, steps: int, fit: str = "paper") -> int:
    """Of `steps`, how many first ones use the changed prompt: those with a number, from 0, of at most eq. 6, or below
    it if `fit` is words."""
    away = 1 - similarity
    if fit in FITS:
        slope, middle = FITS[fit]
        away = 2 * slope * (10 * away - middle)
    share = torch.tensor(away, dtype=torch.float64).sigmoid() * gamma / GAMMA_STEPS
    return min(steps, round(float(share) * steps) + (fit != "words"))


def projection(vectors: Tensor) -> Tensor:
    """Orthogonal projection [D, D] onto the span of the rows [n, D]; they may depend on each other."""
    # rows were computed in float32: what differs by its rounding is no direction of its own
    tolerance = torch.finfo(torch.float32).eps * max(vectors.shape)
    return torch.linalg.pinv(vectors, rtol=tolerance) @ vectors


def tokens(base: SimpleNamespace, text: str) -> list[int]:
    """Start, the text's tokens, end; cut to the text encoder's length."""
    length = min(base.tokenizer.model_max_length, base.text_encoder.config.max_position_embeddings)
    return base.tokenizer(text, truncation=True, max_length=length).input_ids


def pooled(base: SimpleNamespace, words: list[int], hidden: Sequence[int | None], hide: str) -> Tensor:
    """Pooled embeddings [n, D] float64 on the CPU, each with the token at one place hidden (None: with none hidden)."""
    rows, mask = torch.tensor([words] * len(hidden)), torch.ones(len(hidden), len(words), dtype=torch.long)
    for row, place in enumerate(hidden):
        if place is not None:
            (rows if hide == "zero" else mask)[row, place] = 0
    device = base.text_encoder.device
    return base.text_encoder(rows.to(device), attention_mask=mask.to(device)).pooler_output.double().cpu()
