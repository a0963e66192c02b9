"""Rounds of drawing, judging and editing, until a prompt's pictures show attributes in the shares that are wanted.

UCE's debiasing (2308.14761 sec. 4.2), as in the current repository: each round adds step * (wanted share - observed
share) to the weight that every attribute has in the concept's new value, and makes the model anew from the one that
came in. A concept whose shares are all nearer than the tolerance is not moved in that round; it is looked at again in
the next, and moved again if it left. `step` is 1 there: its option of 0.1 is read and never used.

The code of 2023 is another procedure, not taken over: it edits what the round before has edited, with steps of 0.1
along the attributes' unit directions times the norm of the concept's own value, and a concept that came near once is
not looked at again but preserved. What differs from the current repository: which tokens count is UCE's option
`alignment` (last is its choice), pictures are drawn by DDIM in float32 from seeds of their own, where that draws them
unseeded in bfloat16. How pictures are drawn, judged and a model edited is handed in."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

from lethe.drawing.sampling import Settings, draw, tiles
from lethe.files.errors import UserError
from lethe.measuring import judges
from lethe.stage.record import Budget
from lethe.texts.rows import Prompt
from lethe.training.data import TILE, generator

# pictures -> for each the index of the attribute that it shows
Classifier = Callable[[Sequence[Image.Image]], Sequence[int]]


def shares(attributes: Sequence[str], desired: Sequence[float] | None, where: str) -> list[float]:
    """The wanted share of each attribute, equal ones if none are given. Raises UserError if they do not fit."""
    if desired is None:
        return [1 / len(attributes)] * len(attributes)
    if len(desired) != len(attributes) or abs(sum(desired) - 1) > 1e-6:
        raise UserError(
            f"{where}.desired: {list(desired)} must be {len(attributes)} shares, one for each of attributes, that sum "
            "to 1; or null for equal ones"
        )
    return list(desired)


def balance(
    edit: Callable[[dict[str, list[float]]], None],
    observe: Callable[[str, int], Sequence[float]],
    concepts: Sequence[str],
    desired: Sequence[float],
    options: Mapping,
) -> dict:
    """Edits until every concept's observed shares are less than `tolerance` from the desired ones, or for `rounds`
    rounds. A concept that is there keeps its weights as long as it is.

    `edit` takes each concept's weights of attributes and makes the model anew from the one that came in;
    `observe(concept, round)` says the attributes' shares in its pictures. Returns facts: whether it was reached, the
    number of edits, and of each concept its weights and the shares seen, round by round.
    """
    weights = {name: [0.0] * len(desired) for name in concepts}
    seen: dict[str, list[list[float]]] = {name: [] for name in concepts}
    reached, edits = False, 0
    for turn in range(options["rounds"]):
        missing = {}
        for name in concepts:
            seen[name].append([float(share) for share in observe(name, turn)])
            gaps = [want - have for want, have in zip(desired, seen[name][-1], strict=True)]
            if max(map(abs, gaps)) >= options["tolerance"]:
                missing[name] = gaps
        reached = not missing
        if reached:
            break
        for name, gaps in missing.items():
            weights[name] = [old + options["step"] * gap for old, gap in zip(weights[name], gaps, strict=True)]
        edit(weights)
        edits += 1
    return {
        "reached": reached,
        "edits": edits,
        "concepts": {name: {"weights": weights[name], "shares": seen[name]} for name in concepts},
    }


def observer(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    classify: Classifier,
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Callable[[str, int], list[float]]:
    """(concept, round) -> the attributes' shares among `images` pictures that `unet` draws of it, new ones each round.

    `base` holds text_encoder, tokenizer and scheduler, on one device with `unet`, latent_shape, and vae, which comes
    there.
    """
    base.vae.to(next(unet.parameters()).device)
    tile = min(options["images"], TILE)
    settings = Settings("ddim", options["sampler_steps"], options["guidance"], tile)

    def observe(name: str, turn: int) -> list[float]:
        seeds = torch.randint(2**62, (options["images"],), generator=generator(seed, f"debias {name}", turn)).tolist()
        rows = [Prompt(row, concepts[name]["prompt"], own) for row, own in enumerate(seeds)]
        parts = [[rows[row] for row in part] for part in tiles(len(rows), tile)]
        budget.student_forward += len(parts) * tile * settings.steps * (1 if settings.guidance == 1 else 2)
        drawn = [Image.fromarray(pixels) for part in draw(base, unet, parts, settings) for pixels in part]
        found = np.bincount(np.asarray(classify(drawn)), minlength=len(options["attributes"]))
        return (found / len(drawn)).tolist()

    return observe


def zero_shot(name: str, attributes: Sequence[str], device: torch.device, where: str) -> Classifier:
    """CLIP's choice among the attributes' texts (2103.00020 sec. 3.1). Raises UserError if CLIP cannot be loaded."""
    try:
        of_pictures, of_texts = judges.clip(name, device)
    except UserError as error:
        raise UserError(str(error).replace("score.clip", f"{where}.clip")) from None
    texts = of_texts(attributes)

    def classify(pictures: Sequence[Image.Image]) -> list[int]:
        parts = [[pictures[row] for row in part] for part in tiles(len(pictures), TILE)]
        return [index for part in parts for index in (of_pictures(part) @ texts.T).argmax(1).tolist()]

    return classify
