"""Encoded pictures of a concept: captions with anchors, concept tokens and end tokens."""

import dataclasses

import torch

from lethe.training.data import Encoded
from tests.tiny_training import encoded

OPTIONS = {"retain_weight": 0.0, "upper_source": "pictures", "upper_sampler_steps": 4, "upper_reuse": 2}
GUIDED = {"eta": 1.0, "away_from": "empty"}


def anchored(unet, rows: int = 6, seed: int = 0, length: int = 8) -> Encoded:
    """As `tiny_training.encoded`; all rows have one of two anchors, and one or two tokens of the concept."""
    plain = encoded(unet, rows, seed, length)
    draws = torch.Generator().manual_seed(seed + 100)
    anchors = torch.randn((2, *plain.embeddings.shape[1:]), generator=draws).half()
    mask = torch.zeros((rows, length), dtype=torch.uint8)
    mask[:, 2] = 1
    mask[::2, 3] = 1
    return dataclasses.replace(
        plain,
        embeddings=torch.cat([plain.embeddings, anchors]),
        anchor=rows + torch.arange(rows) % 2,
        mask=mask,
        end=torch.full((rows,), 5),
    )
