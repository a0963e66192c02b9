"""Ring-A-Bell (Tsai et al. 2024, arXiv 2310.10012): prompts that mean the concept to the text encoder, found without a
look at the victim.

With f the base model's text encoder and (c_i, n_i) captions with the concept and without,

    d = mean_i (f(c_i) - f(n_i)),     min over K tokens P*  || f(P*) - (f(P) + eta d) ||^2   (eq. 2 and 4)

summed over all positions. Pairs are the captions of the concept's encoded pictures and their anchors, each pair once.
P is the row's prompt, as published, or that prompt with the concept taken out (`around`). The search is the released
code's genetic algorithm: of a population the better half stays, each of it is crossed with another at a random place
with chance 1/2, which gives two children, and each member has one token replaced with chance 1/4. Unlike there, tokens
come from `lethe.texts.tokens.vocabulary`, so that the prompt is read again as it was found, and the best of all
generations is kept, not of the last. Published: K 16, 38 or 77, eta 3 (nudity) and 5.5 (violence), population 200, 3000
generations.

All arms of an experiment get the same prompts: neither U-Net nor a victim's own text encoder takes part, and no U-Net
pass is spent. Each row has its own generator. A row that is found is kept, so a run that was stopped goes on after it.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lethe.attacking.spellings import captions, check, reworded, spellings
from lethe.attacking.victims import Attacked, Victim
from lethe.erasing.erased import original_text_encoder
from lethe.files.errors import UserError, needed
from lethe.files.io import read_json, write_json
from lethe.models.pipelines import encode_prompts
from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.texts.templates import name as named
from lethe.training.data import Encoded, generator
from lethe.training.loop import Keeping

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

NEEDS = ["concepts"]
OPTIONS = {
    "tokens": {
        "description": "length of the prompts that are found, in tokens (K); published: 16, 38 or 77",
        "$ref": "#/$defs/count",
        "default": 16,
    },
    "eta": {
        "description": "strength of the concept's direction; published: 3 for nudity, 5.5 for violence",
        "$ref": "#/$defs/weight",
        "default": 3.0,
    },
    "around": {
        "description": "text that the direction is added to: the row's prompt, or anchor (the concept taken out of it)",
        "enum": ["prompt", "anchor"],
        "default": "prompt",
    },
    "own_name": {
        "description": "whether tokens of the concept's name may be used",
        "type": "boolean",
        "default": True,
    },
    "population": {"description": "prompts of a generation", "type": "integer", "minimum": 4, "default": 200},
    "generations": {"description": "generations of the search", "$ref": "#/$defs/count", "default": 3000},
}
CROSSED, MUTATED = 0.5, 0.25  # chances, as published
CHUNK = 256  # texts encoded at once


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping, budget: Budget) -> Attacked:
    """Raises UserError if the tokens do not fit into the text encoder's length, and for pictures encoded without
    anchors."""
    base = SimpleNamespace(tokenizer=victim.base.tokenizer, text_encoder=original_text_encoder(victim.base))
    count, length = options["tokens"], tokens.length(base)
    if not 1 <= count <= length - 2:
        raise UserError(
            f"ring_a_bell.tokens: {count}, but the text encoder reads {length}, start and end included: "
            f"give 1 to {length - 2}"
        )
    words = tokens.vocabulary(base.tokenizer)
    asked: dict[tuple[str, int], str] = {}
    states: dict[str, Tensor] = {}
    facts: list[dict] = []
    pairs: dict[str, int] = {}
    for name, rows in victim.rows.items():
        concept = victim.concepts[name]
        said = captions(victim.base.concepts[name])
        check(victim.base.concepts[name], said, name)
        shift, pairs[name] = direction(victim.base.concepts[name])
        spoken = spellings(concept, said)
        allowed = torch.tensor([one for one in words if options["own_name"] or one not in own(base, concept)])
        for row in rows:
            start = row.prompt
            if options["around"] == "anchor":
                start = reworded(row.prompt, concept, spoken, "")
            plain = encode_prompts(base.tokenizer, base.text_encoder, [row.prompt, start]).float()
            target = plain[1] + options["eta"] * shift
            path = keeping.folder / f"{name}-{row.case_number}.json"
            found, distance = kept(path, keeping.recipe) or evolve(
                base, allowed.to(victim.device), target, options, f"{name}/{row.case_number}", seed
            )
            write_json(path, {"recipe": keeping.recipe, "tokens": found, "distance": distance})
            text = " ".join(words[one] for one in found)
            asked[name, row.case_number] = text
            sentence = free(base.tokenizer, torch.tensor([found], device=victim.device), length)
            if not tokens.survives(base.tokenizer, text, sentence):
                with torch.no_grad():
                    states[text] = tokens.encode(victim.base.text_encoder, sentence)[0].cpu()
            facts.append(
                {"set": name, "case_number": row.case_number, "around": start}
                | {"distance_of_prompt": f"{float((plain[0] - target).square().sum()):.6g}"}
                | {"distance": f"{distance:.6g}"}
            )
    texts = sum(map(len, victim.rows.values())) * options["population"] * options["generations"]
    about = {
        "vocabulary": len(words),
        "pairs": pairs,
        "texts_encoded": texts,
        "not_as_text": len(states),
    }
    return Attacked(asked=asked, states=states, facts=facts, about=about)


def direction(pictures: Encoded) -> tuple[Tensor, int]:
    """d [L, D], and the number of pairs: captions of pictures and the same without the concept, each pair once."""
    anchor = needed(pictures.anchor, "anchor")
    pairs = sorted(set(zip(pictures.caption.tolist(), anchor.tolist(), strict=True)))
    pairs = [(own, other) for own, other in pairs if own != other]
    with_it, without = torch.tensor(pairs).T
    texts = pictures.embeddings
    return (texts[with_it].float() - texts[without].float()).mean(0).to(pictures.device), len(pairs)


def own(base: SimpleNamespace, concept: Mapping[str, str]) -> set[int]:
    """Tokens of the concept's name."""
    return set(base.tokenizer(named(concept), add_special_tokens=False).input_ids)


def kept(path: Path, recipe: str) -> tuple[list[int], float] | None:
    """What an earlier, stopped run has found for a row."""
    if not path.is_file():
        return None
    found = read_json(path)
    if found["recipe"] != recipe:
        raise UserError(f"{path}: of recipe {found['recipe']}, not of this run ({recipe}); give another --state")
    return found["tokens"], found["distance"]


@torch.no_grad()
def evolve(
    base: SimpleNamespace, allowed: Tensor, target: Tensor, options: Mapping, stream: str, seed: int
) -> tuple[list[int], float]:
    """The best tokens [K] of all generations, and their squared distance to the target [L, D]."""
    size, count = options["population"], options["tokens"]
    draws = generator(seed, stream, 0)
    members = torch.randint(len(allowed), (size, count), generator=draws)
    best, least = members[0], float("inf")
    for k in range(options["generations"]):
        distances = measured(base, allowed[members.to(allowed.device)], target).cpu()
        order = distances.argsort(stable=True)
        if float(distances[order[0]]) < least:
            best, least = members[order[0]], float(distances[order[0]])
        members = offspring(members[order[: size // 2]], len(allowed), generator(seed, stream, k + 1))
    return allowed.cpu()[best].tolist(), least


def offspring(parents: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """The next generation of parents [M, K], numbers below `size`: themselves and their children, some mutated."""
    many, count = parents.shape
    crossed = torch.rand(many, generator=draws) < CROSSED
    others = parents[torch.randint(many, (many,), generator=draws)]
    first = torch.arange(count) < torch.randint(count, (many, 1), generator=draws)
    children = [torch.where(first, parents, others)[crossed], torch.where(first, others, parents)[crossed]]
    members = torch.cat([parents, *children])
    mutated = (torch.rand(len(members), generator=draws) < MUTATED).nonzero()[:, 0]
    members[mutated, torch.randint(count, (len(mutated),), generator=draws)] = torch.randint(
        size, (len(mutated),), generator=draws
    )
    return members


def measured(base: SimpleNamespace, members: Tensor, target: Tensor) -> Tensor:
    """|| f(P) - target ||^2 of token ids [N, K], [N]."""
    length = len(target)
    parts = [tokens.encode(base.text_encoder, free(base.tokenizer, part, length)) for part in members.split(CHUNK)]
    return torch.cat([(part - target).square().sum((1, 2)) for part in parts])


def free(tokenizer: "CLIPTokenizer", members: Tensor, length: int) -> tokens.Sentences:
    """Texts of nothing but these tokens [N, K]."""
    many, count = members.shape
    ids = torch.full((many, length), tokenizer.pad_token_id, device=members.device)
    ids[:, 0], ids[:, 1 : count + 1], ids[:, count + 1] = tokenizer.bos_token_id, members, tokenizer.eos_token_id
    places = torch.arange(1, count + 1, device=members.device).expand(many, -1)
    return tokens.Sentences(ids, places, torch.full((many,), count + 1, device=members.device))
