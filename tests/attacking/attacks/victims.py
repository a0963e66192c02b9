"""A victim without stages: a tiny base's parts, random pictures, a few rows."""

import copy

import torch

from lethe.attacking.victims import Victim
from lethe.drawing.sampling import Settings
from lethe.models import pipelines
from lethe.texts.rows import Prompt
from tests.tiny_training import encoded

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
CONCEPTS = {
    "monet": {"prompt": "a painting by monet", "anchor": "a painting"},
    "picasso": {"prompt": "a painting by picasso", "anchor": "a painting"},
}
ROWS = {name: [Prompt(number, f"a boat by {name}", 10 * number) for number in (0, 2, 5)] for name in CONCEPTS}


def victim(path, **changed) -> Victim:
    """Of the base itself, or with some fields changed."""
    base = pipelines.load_base(str(path), None, PARTS)
    base.latent_shape = pipelines.latent_shape(base.unet)
    base.base_text = [parameter.detach().clone() for parameter in base.text_encoder.parameters()]
    base.data = encoded(base.unet, seed=9)
    base.concepts = {name: encoded(base.unet, seed=seed) for seed, name in enumerate(CONCEPTS)}
    keys = [(name, row.case_number) for name, rows in ROWS.items() for row in rows]
    found = {
        "base": base,
        "unet": copy.deepcopy(base.unet),
        "dense": lambda: base.unet,
        "guidance": None,
        "concepts": CONCEPTS,
        "rows": ROWS,
        "settings": Settings("ddim", 5, 4.0, 4),
        "originals": {
            key: torch.randn(base.latent_shape, generator=torch.Generator().manual_seed(i))
            for i, key in enumerate(keys)
        },
        "device": torch.device("cpu"),
    }
    return Victim(**found | changed)
