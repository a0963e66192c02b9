"""What the bundle can do, measured by its own judges on pictures it has not seen, and sheets for the eye.

Bars (what the world needs to mean something): on 1,000 guided samples the style is right in 95 %, the content in 92 %,
a named emblem is there or absent as asked in 92 %, an implied one in 85 %; judges are right on 98 % of unseen rendered
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from lethe.atelier import training
from lethe.atelier.bundle import JUDGES, label_ids
from lethe.atelier.captions import canonical
from lethe.atelier.world import CONTENTS, STYLES, render
from lethe.drawing.sampling import Settings, draw, tiles
from lethe.models.pipelines import latent_shape
from lethe.texts.rows import Prompt

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from lethe.pretraining.networks import Pipeline

BARS = {"style": 95.0, "content": 92.0, "emblem_named": 92.0, "emblem_implied": 85.0, "judge": 98.0}
SETTINGS = Settings(sampler="ddim", steps=20, guidance=4.0, tile=50)


@torch.inference_mode()
def predictions(judge: nn.Module, pictures: np.ndarray) -> torch.Tensor:
    """Label index of each uint8 picture [N, 64, 64, 3]."""
    parts = [judge(training.pixels(pictures[i : i + 200])).logits.argmax(1) for i in range(0, len(pictures), 200)]
    return torch.cat(parts)


def judge_accuracy(judges: Mapping[str, nn.Module], rows: list[dict], pictures: np.ndarray) -> dict[str, float]:
    """Per cent right of each classifier on rendered pictures."""
    return {
        name: round(100 * (predictions(judges[name], pictures) == label_ids(rows, name)).float().mean().item(), 2)
        for name in JUDGES
    }


@torch.inference_mode()
def descriptor_accuracy(net: nn.Module, pictures: np.ndarray, styles: torch.Tensor) -> float:
    """Per cent of pictures whose nearest style prototype (mean of the first half's embeddings) is their own style."""
    parts = [net(training.pixels(pictures[i : i + 200])).pooler_output.flatten(1) for i in range(0, len(pictures), 200)]
    z = torch.nn.functional.normalize(torch.cat(parts), dim=1)
    half = len(z) // 2
    prototypes = torch.stack([z[:half][styles[:half] == k].mean(0) for k in range(len(STYLES))])
    nearest = (z[half:] @ torch.nn.functional.normalize(prototypes, dim=1).T).argmax(1)
    return round(100 * (nearest == styles[half:]).float().mean().item(), 2)


@torch.inference_mode()
def clip_accuracy(clip: nn.Module, tokens: torch.Tensor, pictures: np.ndarray) -> float:
    """Per cent of pictures whose own caption beats 31 others (other captions of the same words excluded)."""
    right = 0
    count = len(pictures) // 32 * 32
    for i in range(0, count, 32):
        image, text, _ = clip(training.pixels(pictures[i : i + 32]), tokens[i : i + 32])
        best = (image @ text.T).argmax(1)
        right += int((tokens[i : i + 32][best] == tokens[i : i + 32]).all(-1).sum())
    return round(100 * right / count, 2)


def sample(pipeline: Pipeline, texts: list[str], first_seed: int, workers: int = 2) -> np.ndarray:
    """Guided samples uint8 [N, 64, 64, 3], by the project's own sampler."""
    rows = [Prompt(i, text, first_seed + i) for i, text in enumerate(texts)]
    cut = [[rows[i] for i in tile] for tile in tiles(len(rows), SETTINGS.tile)]
    base = SimpleNamespace(**{key: value for key, value in pipeline.items() if key != "unet"})
    base.latent_shape = latent_shape(pipeline["unet"], base.vae)
    return np.concatenate(list(draw(base, pipeline["unet"], cut, SETTINGS, workers)))


def sample_accuracy(judges: Mapping[str, nn.Module], rows: list[dict], pictures: np.ndarray) -> dict[str, float]:
    """Per cent of samples that show what their row's caption says, as the judges see it."""
    right = {name: predictions(judges[name], pictures) == label_ids(rows, name) for name in JUDGES}
    mode = np.array([row["emblem"] for row in rows])
    share = {
        "style": right["style"],
        "content": right["content"],
        "emblem_named": right["emblem"][torch.tensor(mode != "implied")],  # there when named, absent when not
        "emblem_implied": right["emblem"][torch.tensor(mode == "implied")],
    }
    return {name: round(100 * found.float().mean().item(), 2) for name, found in share.items()}


def verdict(judges: Mapping[str, float], samples: Mapping[str, float]) -> list[str]:
    """The bars that are missed, each as a line; empty if all are met."""
    missed = [f"judge {name}: {value} < {BARS['judge']}" for name, value in judges.items() if value < BARS["judge"]]
    return missed + [f"samples {name}: {value} < {BARS[name]}" for name, value in samples.items() if value < BARS[name]]


def sheet(left: list[np.ndarray], right: list[np.ndarray]) -> Image.Image:
    """Two blocks side by side, rows styles, columns contents: pictures uint8 [64, 64, 3] in row-major order."""
    blocks = []
    for pictures in (left, right):
        rows = [np.concatenate(pictures[i : i + len(CONTENTS)], 1) for i in range(0, len(pictures), len(CONTENTS))]
        blocks.append(np.concatenate(rows, 0))
    gap = np.full((blocks[0].shape[0], 8, 3), 255, np.uint8)
    whole = np.concatenate([blocks[0], gap, blocks[1]], 1)
    return Image.fromarray(whole)


def grid() -> list[tuple[str, str]]:
    """(content, style) in a sheet's order."""
    return [(content, style) for style in STYLES for content in CONTENTS]


def sample_sheet(pipeline: Pipeline, first_seed: int) -> Image.Image:
    """Rendered pictures on the left, guided samples of the plainest captions on the right."""
    rendered = [render(content, style, first_seed + i) for i, (content, style) in enumerate(grid())]
    return sheet(rendered, list(sample(pipeline, [canonical(*pair) for pair in grid()], first_seed)))


@torch.inference_mode()
def reconstruction_sheet(vae: AutoencoderKL, first_seed: int) -> Image.Image:
    """Rendered pictures on the left, what the autoencoder makes of them on the right."""
    rendered = [render(content, style, first_seed + i) for i, (content, style) in enumerate(grid())]
    output = vae.decode(vae.encode(training.pixels(np.stack(rendered))).latent_dist.mean).sample
    pictures = ((output / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return sheet(rendered, list(pictures))
