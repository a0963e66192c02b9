"""Text states of prompts at the tokens that closed-form edits work on, aligned between prompts of unequal length.

A prompt's tokens that count are its last content token ("last"), or all from there to the end of the text ("span").
Of a text that must stay, "span" counts all tokens, since nothing has to be aligned. States are float64.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from lethe.models.pipelines import encode_prompts
from lethe.training.data import TILE


def encode(base: SimpleNamespace, texts: Sequence[str]) -> Iterator[tuple[Tensor, int]]:
    """Each text's states [L, D] float64, and the place of its last content token (that of the start, if it has none).

    Texts are encoded in tiles, as they are asked for.
    """
    for start in range(0, len(texts), TILE):
        tile = list(texts[start : start + TILE])
        states = encode_prompts(base.tokenizer, base.text_encoder, tile).double()
        ids = base.tokenizer(tile, truncation=True, max_length=states.shape[1]).input_ids
        yield from ((own, max(0, len(row) - 2)) for own, row in zip(states, ids, strict=True))


def products(base: SimpleNamespace, texts: Sequence[str], alignment: str) -> Tensor:
    """Sum of p p^T [D, D] float64 over the texts' last tokens, or over all their tokens for "span"."""
    width, device = base.text_encoder.config.hidden_size, base.text_encoder.device
    total = torch.zeros((width, width), dtype=torch.float64, device=device)
    for states, last in encode(base, texts):
        rows = states if alignment == "span" else states[last : last + 1]
        total += rows.T @ rows
    return total


def pair(one: tuple[Tensor, int], other: tuple[Tensor, int], alignment: str) -> tuple[Tensor, Tensor]:
    """Rows of two texts' states that belong together: from their last content tokens on, as many as both have."""
    (states, at), (guide, there) = one, other
    count = len(states) - max(at, there) if alignment == "span" else 1
    return states[at : at + count], guide[there : there + count]


def pairs(base: SimpleNamespace, texts: Sequence[tuple[str, str]], alignment: str) -> list[tuple[Tensor, Tensor]]:
    """States of (text, guide) pairs, [rows, D] both of a pair; every text is encoded once."""
    unique = list(dict.fromkeys(text for pair in texts for text in pair))
    known = dict(zip(unique, encode(base, unique), strict=True))
    return [pair(known[text], known[guide], alignment) for text, guide in texts]


def aligned(base: SimpleNamespace, texts: Sequence[tuple[str, str]], alignment: str) -> tuple[Tensor, Tensor]:
    """The same, all pairs' rows below each other: [n, D] of the texts, [n, D] of their guides."""
    states, guides = (torch.cat(column) for column in zip(*pairs(base, texts, alignment), strict=True))
    return states, guides


def mixer(
    base: SimpleNamespace, prompts: Mapping[str, Sequence[str]], attributes: Sequence[str], alignment: str
) -> Callable[[Mapping[str, Sequence[float]]], tuple[Tensor, Tensor]]:
    """weights of attributes by concept -> states k and guides k + sum_a c_a a, of all prompts of all concepts.

    Tokens past the end of what a prompt and an attribute share are left as they are.
    """
    unique = list(dict.fromkeys([*attributes, *(text for own in prompts.values() for text in own)]))
    known = dict(zip(unique, encode(base, unique), strict=True))

    def mixed(weights: Mapping[str, Sequence[float]]) -> tuple[Tensor, Tensor]:
        old, new = [], []
        for name, own in prompts.items():
            for text in own:
                whole, at = known[text]
                k = whole[at:] if alignment == "span" else whole[at : at + 1]
                g = k.clone()
                for weight, attribute in zip(weights[name], attributes, strict=True):
                    _, other = pair(known[text], known[attribute], alignment)
                    g[: len(other)] += weight * other
                old.append(k)
                new.append(g)
        return torch.cat(old), torch.cat(new)

    return mixed
