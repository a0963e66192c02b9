"""What a base can do, measured by its own judges on pictures that no training has seen, and sheets for the eye.

Bars: of guided samples of seen (style, content) pairs 95 % have the style and 85 % the content that was asked for; of
pairs that were held out, 85 % and 70 %. Each is told with the judges' own accuracy on real pictures.
"""

import csv
import io
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from lethe.drawing.sampling import Settings, draw, tiles
from lethe.models.pipelines import latent_shape
from lethe.pretraining import judging
from lethe.pretraining.bundle import Judges, Networks, Parts
from lethe.texts.rows import Prompt

BARS = {("seen", "style"): 95.0, ("seen", "content"): 85.0, ("held", "style"): 85.0, ("held", "content"): 70.0}
SETTINGS = Settings(sampler="ddim", steps=20, guidance=4.0, tile=64)
FIRST_SEED = 10_000


def asked(parts: Parts) -> list[int]:
    """Rows to draw: `samples` of those seen, evenly over the list, then each that is held out, twice."""
    held = parts.pictures.held
    seen = np.flatnonzero(~held)
    count = min(parts.recipe.samples, len(seen))
    return [*seen[np.linspace(0, len(seen) - 1, count).astype(int)].tolist(), *np.flatnonzero(held).tolist() * 2]


def sample(found: Networks, texts: list[str], workers: int = 2) -> np.ndarray:
    """Guided samples uint8 [N, 64, 64, 3], by the project's own sampler."""
    rows = [Prompt(i, text, FIRST_SEED + i) for i, text in enumerate(texts)]
    cut = [[rows[i] for i in tile] for tile in tiles(len(rows), SETTINGS.tile)]
    base = SimpleNamespace(
        vae=found["vae"],
        text_encoder=found["text_encoder"],
        tokenizer=found["tokenizer"],
        scheduler=found["scheduler"],
        latent_shape=latent_shape(found["unet"], found["vae"]),
    )
    return np.concatenate(list(draw(base, found["unet"], cut, SETTINGS, workers)))


def tensor(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> float32 [N, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def percent(right: torch.Tensor) -> float | None:
    """Share of true values; None of nothing."""
    return round(100 * right.float().mean().item(), 2) if len(right) else None


def predictions(judges: Judges, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What style and what content each picture [N, 3, 64, 64] has, as label numbers."""
    return {
        "style": judging.predictions(judges["style"], x),
        "content": judging.predictions(judges["content"], x),
    }


def judged(parts: Parts, judges: Judges) -> dict[str, float | None]:
    """Per cent right on real pictures that the judges have not seen: held-out pairs, and for style unseen names too."""
    still, held, styles = parts.still(parts.pixels), parts.held, parts.ids["style"]
    right = {name: own == parts.ids[name] for name, own in predictions(judges, still).items()}
    unseen = torch.tensor(judging.unseen(parts.pictures.contents), device=parts.device)[parts.ids["content"]]
    told = {
        "style, unseen contents": percent(right["style"][unseen]),
        "style, held-out pairs": percent(right["style"][held]),
        "content, held-out pairs": percent(right["content"][held]),
        "style, seen": percent(right["style"][~unseen & ~held]),
        "content, seen": percent(right["content"][~held]),
    }
    for number, style in enumerate(parts.labels["style"]):
        told[f"style {style}, unseen contents"] = percent(right["style"][unseen & (styles == number)])
    known, other = ~held & ~unseen, held | unseen
    if other.any():
        nearest = judging.prototype_accuracy(judges["style"], still, styles, known, other)
        told["descriptor, nearest style, unseen contents and held-out pairs"] = round(100 * nearest, 2)
    return told


def drawn_right(
    parts: Parts, judges: Judges, rows: list[int], pictures: np.ndarray
) -> tuple[dict[str, float | None], str]:
    """Per cent of samples that show what was asked for, seen and held out, whole and by style; and a CSV of them."""
    x = tensor(pictures, parts.device)
    predicted = predictions(judges, x)
    index = torch.tensor(rows, device=parts.device)
    held = parts.held[index]
    right = {name: predicted[name] == parts.ids[name][index] for name in predicted}
    found: dict[str, float | None] = {}
    for kind, mask in (("seen", ~held), ("held", held)):
        for name, own in right.items():
            found[f"{kind} {name}"] = percent(own[mask])
    for number, style in enumerate(parts.labels["style"]):
        mask = parts.ids["style"][index] == number
        for kind, of in (("seen", ~held), ("held", held)):
            for name, own in right.items():
                found[f"{kind} {name}, {style}"] = percent(own[mask & of])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["text", "held", "style", "content", "judged_style", "judged_content"])
    labels = parts.labels
    for i, row in enumerate(rows):
        wanted = parts.pictures.rows[row]
        told = [labels[name][predicted[name][i]] for name in ("style", "content")]
        writer.writerow([wanted.text, int(held[i]), wanted.style, wanted.content, *told])
    return found, text.getvalue()


def missed(samples: Mapping[str, float | None]) -> list[str]:
    """The bars that are missed, each as a line."""
    found = {f"{kind} {name}": bar for (kind, name), bar in BARS.items()}
    return [
        f"samples {key}: {value} < {bar}"
        for key, bar in found.items()
        if (value := samples[key]) is not None and value < bar
    ]


def sheet(pairs: list[tuple[np.ndarray, np.ndarray]], columns: int) -> Image.Image:
    """Pairs (real, drawn) uint8 [64, 64, 3], side by side with a gap, row by row."""
    side = pairs[0][0].shape[0]
    gap = np.full((side, 8, 3), 160, np.uint8)
    cells = [np.concatenate([real, drawn, gap], 1) for real, drawn in pairs]
    blank = np.full_like(cells[0], 160)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return Image.fromarray(np.concatenate(rows, 0))


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA [N, H, W, 4] -> RGB on white."""
    share = pixels[..., 3:] / 255
    return (pixels[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)
