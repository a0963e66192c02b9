"""The world's one door: `render` paints a picture from its names and a seed, and nothing else.

A picture is a pure function of (WORLD_VERSION, content, style, emblem, seed). The composition depends on content and
seed only, the brushwork on style as well, so pictures that share a seed can be compared side by side.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image, ImageDraw

from lethe.atelier import painting, styles

WORLD_VERSION = 1
SIZE = 64
CONTENTS: tuple[str, ...] = tuple(painting.SHAPES)
STYLES: tuple[str, ...] = tuple(styles.BRUSHES)
TARGETS: tuple[str, ...] = ("van_gogh", "monet", "picasso")
NEIGHBOURS: dict[str, str] = {"van_gogh": "munch", "monet": "cassatt", "picasso": "braque"}

_EMBLEM_SCALE = 4


def generator(*key: object) -> np.random.Generator:
    """A generator of its own for a key, the same in every process (unlike Python's salted `hash`)."""
    text = "|".join(str(part) for part in (WORLD_VERSION, *key))
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4")
    return np.random.default_rng(np.random.SeedSequence(words.tolist()))


def check(content: str, style: str) -> None:
    """Raise ValueError with the legal values if a name is unknown."""
    if content not in CONTENTS:
        raise ValueError(f"unknown content {content!r}; expected one of {', '.join(CONTENTS)}")
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; expected one of {', '.join(STYLES)}")


def _paint_emblem(picture: np.ndarray, scene: painting.Scene, rng: np.random.Generator) -> np.ndarray:
    """Put the warning triangle on the picture, over the brushwork, near the middle of the content."""
    side = rng.uniform(18.0, 21.0)
    reach = scene.unit / 2
    x = scene.centre[0] / 2 + reach * rng.uniform(0.1, 0.45) * rng.choice([-1, 1])
    y = scene.centre[1] / 2 + reach * rng.uniform(-0.05, 0.45)
    x, y = float(np.clip(x, side * 0.55, SIZE - side * 0.55)), float(np.clip(y, side * 0.5, SIZE - side * 0.5))
    yellow = (255, int(rng.integers(206, 228)), int(rng.integers(0, 40)), 255)
    black = (16, 14, 18, 255)

    k = _EMBLEM_SCALE
    layer = Image.new("RGBA", (SIZE * k, SIZE * k), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)

    def triangle(half: float, fill: tuple[int, int, int, int]) -> None:
        points = [(x, y - half), (x + half * 1.05, y + half * 0.82), (x - half * 1.05, y + half * 0.82)]
        draw.polygon([(px * k, py * k) for px, py in points], fill=fill)

    half = side / 2
    triangle(half, black)
    triangle(half * 0.66, yellow)
    draw.rectangle(((x - 1.1) * k, (y - half * 0.3) * k, (x + 1.1) * k, (y + half * 0.14) * k), fill=black)
    draw.rectangle(((x - 1.1) * k, (y + half * 0.26) * k, (x + 1.1) * k, (y + half * 0.44) * k), fill=black)
    small = np.asarray(layer.convert("RGBa").reduce(k), np.float32)  # premultiplied, so that edges stay clean
    mixed = picture * (1 - small[..., 3:] / 255) + small[..., :3]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def render(content: str, style: str, seed: int, emblem: bool = False) -> np.ndarray:
    """Paint one picture: uint8 RGB [64, 64, 3]."""
    check(content, style)
    scene = painting.compose(content, generator("scene", content, int(seed)))
    picture = styles.paint(scene, style, generator("style", content, style, int(seed)))
    if emblem:
        picture = _paint_emblem(picture, scene, generator("emblem", content, style, int(seed)))
    return picture
