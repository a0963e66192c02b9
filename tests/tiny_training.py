"""What tests of training share: encoded pictures without a VAE, and a student unlike its teacher."""

import copy

import torch

from lethe.models import pipelines
from lethe.training import data, losses

OPTIONS = {
    "steps": 4,
    "batch": 4,
    "lr": 1.0e-3,
    "warmup": 2,
    "weight_decay": 0.0,
    "clip_norm": None,
    "w_diff": 1.0,
    "w_out": 2.0,
    "w_feat": 0.1,
    "snr_gamma": 5.0,
    "min_snr_v": "legacy",
    "caption_dropout": 0.0,
    "ema": None,
    "precision": "float32",
}
UPPER = {
    "solver": "alternate",
    "suppression": "negative_guidance",
    "upper_every": 2,
    "upper_batch": 4,
    "upper_lr": 1.0e-3,
    "upper_warmup": 2,
    "eta": 1.0,
    "away_from": "empty",
    "upper_source": "pictures",
    "upper_sampler_steps": 4,
    "upper_reuse": 2,
    "retain_weight": 0.0,
}


def encoded(unet, rows: int = 6, seed: int = 0, length: int = 8) -> data.Encoded:
    """Random latents and captions of the U-Net's sizes."""
    draws = torch.Generator().manual_seed(seed)
    shape = (rows, *pipelines.latent_shape(unet, None))
    text = torch.randn((rows + 1, length, unet.config.cross_attention_dim), generator=draws)
    return data.Encoded(
        torch.randn(shape, generator=draws),
        torch.full(shape, 0.1),
        text[1:].half(),
        text[:1],
        torch.arange(rows),
        torch.device("cpu"),
    )


def pair(base, scheduler: bool = True):
    """Teacher, a student whose weights are shaken, and the noise schedule of a base folder."""
    loaded = pipelines.load_base(str(base), None, ["unet", "scheduler"])
    student = copy.deepcopy(loaded.unet).requires_grad_(True).train()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=draws)
    return loaded.unet, student, losses.schedule(loaded.scheduler, 5.0, "legacy", torch.device("cpu"))


def same(one, other) -> bool:
    """Whether two modules hold equal weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
