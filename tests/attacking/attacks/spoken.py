"""Encoded pictures with captions that speak of a concept, as files, for attacks that read the captions."""

import dataclasses

import torch

from lethe.attacking.victims import Victim
from lethe.files.io import write_json
from lethe.models.pipelines import encode_prompts
from lethe.training.data import INDEX
from tests.attacking.attacks.searching import hearing
from tests.tiny_training import encoded

PAIRS = [("a {}'s boat", "a boat"), ("a hut in the style of {}", "a hut"), ("sun by {}", "sun"), ("sun by {}", "sun")]


def speaking(path, folder, bare=False, **changed) -> Victim:
    """A victim with four pictures a concept and their captions; with `bare`, these say nothing of it."""
    own = hearing(path, **changed)
    for seed, name in enumerate(own.concepts):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        texts = [(other if bare else text.format(name), other) for text, other in PAIRS]
        unique = list(dict.fromkeys([text for text, _ in texts] + [other for _, other in texts]))
        write_json(place / INDEX, {"captions": unique})
        embeddings = encode_prompts(own.base.tokenizer, own.base.text_encoder, unique)
        numbers = [[unique.index(text) for text in column] for column in zip(*texts, strict=True)]
        own.base.concepts[name] = dataclasses.replace(
            encoded(own.unet, rows=4, seed=seed, length=embeddings.shape[1]),
            embeddings=embeddings.half(),
            caption=torch.tensor(numbers[0]),
            anchor=torch.tensor(numbers[1]),
            folder=place,
        )
    return own
