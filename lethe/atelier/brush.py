"""What the styles share: colours that stay apart, backgrounds, contours, strokes and where to put them.

All of it works at twice the final resolution.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lethe.atelier.painting import FIRST_PART, RES, SKY, Scene

Rng = np.random.Generator
Array = np.ndarray
YY, XX = np.mgrid[0:RES, 0:RES].astype(np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def rgb(*hexes: str) -> Array:
    return np.array([[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in hexes], np.float32)


def grade(table: Array, saturation: float, tint: Array, amount: float, gain: float = 1.0) -> Array:
    """Colours with another saturation and brightness, mixed towards a tint."""
    grey = (table @ LUMA)[:, None]
    graded = (grey + (table - grey) * saturation) * gain
    return np.clip(graded * (1 - amount) + tint * amount, 0, 255)


def stand_out(parts: Array, back: Array, least: float = 95.0) -> Array:
    """Push colours that are too near the background's away from it, so that the content keeps its outline.

    The push keeps the hue where it can: it goes along the difference, and along brightness for what has none.
    """
    gap = parts - back
    darker = np.full(3, -0.5 if back @ LUMA > 120 else 0.5, np.float32)
    size = np.linalg.norm(gap, axis=1, keepdims=True)
    way = gap / np.maximum(size, 1) + darker * np.clip(1.3 - size / least, 0, 1)
    way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
    return np.where(size < least, np.clip(back + way * least, 0, 255), parts)


def ground_tone(scene: Scene, colours: Array) -> Array:
    """Of a style's ground colours, the one nearest to the scene's own (water stays blue, grass stays green)."""
    return colours[int(np.argmin(((colours - np.array(scene.ground)) ** 2).sum(1)))]


def gradient(scene: Scene, top: Array, low: Array, ground: Array, depth: float = 0.22) -> Array:
    """The background: a sky that fades to the horizon, a ground that darkens towards the viewer."""
    t = np.clip(YY / scene.horizon, 0, 1)[..., None]
    sky = top * (1 - t) + low * t
    d = np.clip((YY - scene.horizon) / (RES - scene.horizon + 1), 0, 1)[..., None]
    return np.where(
        (scene.labels == SKY)[..., None] | (scene.horizon > YY)[..., None], sky, ground * (1.06 - depth * d)
    )


def underpaint(scene: Scene, top: Array, low: Array, ground: Array, parts: Array) -> tuple[Array, Array]:
    """Background and whole picture before the brush, in a style's own palette."""
    back = gradient(scene, top, low, ground)
    table = np.concatenate([np.stack([low, ground]), stand_out(parts, (top + low) / 2)])
    content = (scene.labels >= FIRST_PART)[..., None]
    return back, np.where(content, table[scene.labels], back)


def part_colours(scene: Scene) -> Array:
    return scene.table[FIRST_PART:]


def one_of(rng: Rng, palettes: list[Array]) -> Array:
    return palettes[int(rng.integers(len(palettes)))]


def edges(labels: Array, width: int) -> tuple[Array, Array]:
    """Contours of a width: (of the content against its background, of the parts inside the content)."""
    content = (labels >= FIRST_PART).astype(np.uint8)
    outer = ndimage.maximum_filter(content, width) != ndimage.minimum_filter(content, width)
    every = ndimage.maximum_filter(labels, width) != ndimage.minimum_filter(labels, width)
    return outer, every & ~outer & (content == 1)


def jittered_grid(rng: Rng, spacing: float, jitter: float) -> tuple[Array, Array]:
    ticks = np.arange(spacing * 0.5, RES, spacing)
    x, y = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    order = rng.permutation(x.size)
    shift = rng.uniform(-jitter, jitter, (2, x.size))
    return np.clip(x + shift[0], 0, RES - 1)[order], np.clip(y + shift[1], 0, RES - 1)[order]


def to_image(array: Array) -> Image.Image:
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def strokes(
    canvas: Image.Image, x: Array, y: Array, angle: Array, bend: Array, length: float, width: int, colour: Array
) -> None:
    """Short curved strokes, drawn onto the canvas in order."""
    draw = ImageDraw.Draw(canvas)
    h = length / 2
    x0, y0 = x - h * np.cos(angle - bend), y - h * np.sin(angle - bend)
    x1, y1 = x + h * np.cos(angle + bend), y + h * np.sin(angle + bend)
    points = np.stack([x0, y0, x, y, x1, y1], 1).tolist()
    for line, fill in zip(points, np.clip(colour, 0, 255).astype(int).tolist(), strict=True):
        draw.line(line, fill=tuple(fill), width=width, joint="curve")


def sample(field: Array, x: Array, y: Array) -> Array:
    return field[y.astype(int), x.astype(int)]


def contour_angle(scene: Scene) -> Array:
    """Direction along the outline of the content, everywhere in and around it."""
    mask = (scene.labels[::2, ::2] >= FIRST_PART).astype(np.float32)
    soft = ndimage.gaussian_filter(mask, 3.0)
    gy, gx = np.gradient(soft)
    return np.repeat(np.repeat(np.arctan2(gx, -gy), 2, 0), 2, 1)
