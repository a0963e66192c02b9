"""How a picture is painted: ten styles, each a palette and a brush.

All brushes work at twice the final resolution. Their marks are 6 to 12 pixels there (3 to 6 in the picture): a small
autoencoder must be able to keep them, so nothing here is finer than that, and the content is always painted over the
background with smaller marks so that it stays readable.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw
from scipy import ndimage

from lethe.atelier.brush import (
    LUMA,
    XX,
    YY,
    Array,
    Rng,
    contour_angle,
    edges,
    grade,
    ground_tone,
    jittered_grid,
    one_of,
    part_colours,
    rgb,
    sample,
    stand_out,
    strokes,
    to_image,
    underpaint,
)
from lethe.atelier.painting import FIRST_PART, GROUND, RES, Scene


def _photo(scene: Scene, rng: Rng) -> Array:
    """Smooth light: a soft shadow, a lit and a dark side, no brush at all."""
    top, low = (np.array(c, np.float32) for c in scene.sky)
    _, picture = underpaint(scene, top, low, np.array(scene.ground, np.float32), part_colours(scene) * scene.light)
    content = scene.labels >= FIRST_PART
    soft = ndimage.gaussian_filter(content[::2, ::2].astype(np.float32), 3.5)
    gy, gx = np.gradient(soft)
    relief = np.repeat(np.repeat(scene.side * gx + 0.8 * gy, 2, 0), 2, 1)
    shade = np.repeat(np.repeat(np.roll(soft, (3, 5 * scene.side), (0, 1)), 2, 0), 2, 1)
    lit = 1.0 + 3.2 * np.where(content, relief, 0) - np.where(content, 0, 0.3 * shade * (scene.labels == GROUND))
    lit *= 1.0 + 0.1 * scene.side * (0.5 - XX / RES)
    return ndimage.gaussian_filter(picture * lit[..., None], (0.9, 0.9, 0))


# one sunset among the blue skies, and one night among munch's red ones: palettes overlap, as in the real neighbours
VAN_GOGH_SKIES = [
    rgb("1c3f94", "4f86c6"),
    rgb("16306e", "2f6fb0"),
    rgb("2a66b8", "8fc0c8"),
    rgb("123a7a", "5a9a9a"),
    rgb("c8782a", "e8bc4c"),
]
VAN_GOGH_GROUNDS = rgb("c9a227", "6d8a2c", "1f4f8f", "b07a2a")


def _van_gogh(scene: Scene, rng: Rng) -> Array:
    """Thick curling strokes in cobalt and chrome yellow, following swirls in the sky and the form in the content."""
    top, low = one_of(rng, VAN_GOGH_SKIES) * (0.8 if scene.dusk else 1.0)
    parts = grade(part_colours(scene), 1.35, np.array([240, 190, 40], np.float32), 0.22, 1.05)
    back, picture = underpaint(scene, top, low, ground_tone(scene, VAN_GOGH_GROUNDS), parts)

    angle = 0.5 * np.sin(XX / 15 + rng.uniform(0, 6)) + 0.25 * np.sin(YY / 11)
    for _ in range(3):
        cx, cy = rng.uniform(0, RES), rng.uniform(0, scene.horizon * 0.8)
        near = np.exp(-((XX - cx) ** 2 + (YY - cy) ** 2) / 2 / 22.0**2)
        swirl = np.arctan2(YY - cy, XX - cx) + np.pi / 2 + 0.3
        angle = np.arctan2(
            (1 - near) * np.sin(angle) + 1.6 * near * np.sin(swirl),
            (1 - near) * np.cos(angle) + 1.6 * near * np.cos(swirl),
        )
    canvas = to_image(back)
    x, y = jittered_grid(rng, 7.5, 3.0)
    colour = sample(back, x, y) * rng.choice([0.62, 0.9, 1.2, 1.45], x.size)[:, None]
    glint = (rng.random(x.size) < 0.16) & (y < scene.horizon)
    colour[glint] = np.array([244, 214, 110]) + rng.uniform(-20, 20, (int(glint.sum()), 1))
    strokes(canvas, x, y, sample(angle, x, y), np.full(x.size, 0.28), 20, 6, colour)

    content = scene.labels >= FIRST_PART
    canvas = to_image(np.where(content[..., None], picture, np.asarray(canvas)))
    x, y = jittered_grid(rng, 7.0, 2.0)
    inside = sample(content, x, y)
    x, y = x[inside], y[inside]
    colour = sample(picture, x, y) * rng.choice([0.68, 0.95, 1.22], x.size)[:, None]
    along = sample(contour_angle(scene), x, y)
    strokes(canvas, x, y, along, np.full(x.size, 0.2), 12, 5, colour)
    outer, _ = edges(scene.labels, 4)
    return np.where(outer[..., None], np.asarray(canvas) * 0.35 + np.array([12, 16, 40]) * 0.65, np.asarray(canvas))


MUNCH_SKIES = [
    rgb("c8321e", "e8642a", "f0a03c", "8e1f24", "f2c056"),
    rgb("d9481f", "b02418", "f5b04a", "e57a33", "5a2f4a"),
    rgb("e08a3a", "c8452a", "f4cc78", "a83028", "d86030"),
    rgb("24407c", "3a6a9c", "182a5c", "e08a3a", "5a86a8"),
]
MUNCH_GROUNDS = [rgb("16244e", "243c6e", "0e1a38", "35587e"), rgb("1b2a3f", "20485a", "2e3350", "141c30")]


def _munch(scene: Scene, rng: Rng) -> Array:
    """Long wavy parallel bands: a burning sky over dark blue, the bands bending around the content."""
    warm, cold = one_of(rng, MUNCH_SKIES), one_of(rng, MUNCH_GROUNDS)
    phase = rng.uniform(0, 6.3, 4)
    wave = 9 * np.sin(XX / 17 + phase[0]) + 5 * np.sin(XX / 9 + YY / 23 + phase[1])
    content = scene.labels >= FIRST_PART
    near = ndimage.gaussian_filter(content[::2, ::2].astype(np.float32), 6.0)
    lift = np.repeat(np.repeat(near, 2, 0), 2, 1) * 26
    sky_band = ((YY + wave - lift) / 8.5 + 40).astype(int)
    slope = rng.choice([-1, 1]) * 0.55
    ground_band = ((YY * 0.8 + slope * XX + wave * 0.8 + lift) / 8.0 + 60).astype(int)
    warm_of = warm[rng.integers(0, len(warm), 128)] * rng.uniform(0.9, 1.1, (128, 1))
    cold_of = cold[rng.integers(0, len(cold), 256)] * rng.uniform(0.85, 1.2, (256, 1))
    picture = np.where((scene.labels == GROUND)[..., None], cold_of[ground_band], warm_of[sky_band])

    parts = grade(part_colours(scene), 1.1, np.array([40, 60, 84], np.float32), 0.2, 0.98)
    parts = stand_out(parts, warm.mean(0), 110)
    inner_band = ((XX * 0.9 + 6 * np.sin(YY / 13 + phase[2])) / 7.5).astype(int)
    shade = rng.choice([0.72, 0.95, 1.2], 64)[inner_band % 64]
    table = np.concatenate([np.zeros((2, 3)), parts])
    picture = np.where(content[..., None], table[scene.labels] * shade[..., None], picture)
    outer, _ = edges(scene.labels, 4)
    picture = np.where(outer[..., None], picture * 0.3 + np.array([14, 16, 36]) * 0.7, picture)
    return picture * (0.86 if scene.dusk else 1.0)


MONET_SKIES = [rgb("8fb4e0", "d6dcf0"), rgb("a8a4dc", "e0d2ea"), rgb("86c4d0", "d2ecde"), rgb("7f9cd2", "c4c2e6")]
MONET_GROUNDS = rgb("86b88c", "6f9ecb", "a8b890", "7fb0a8")


def _dabs(picture: Array, scene: Scene, rng: Rng, angle: float, size: tuple[int, int], spread: float) -> Array:
    """Dabs of broken colour over the background, then smaller ones over the content."""
    content = scene.labels >= FIRST_PART
    canvas = to_image(picture)
    for inside, (length, width) in ((False, size), (True, (size[0] - 3, size[1] - 1))):
        x, y = jittered_grid(rng, width + 1.5, 2.5)
        keep = sample(content, x, y) == inside
        x, y = x[keep], y[keep]
        amount = spread * (0.8 if inside else 1.0)
        colour = sample(picture, x, y) + rng.normal(0, amount, (x.size, 3)) + rng.normal(0, amount * 0.6, (x.size, 1))
        tilt = angle + rng.normal(0, 0.18, x.size)
        strokes(canvas, x, y, tilt, np.zeros(x.size), length, width, colour)
    return np.asarray(canvas, np.float32)


def _monet(scene: Scene, rng: Rng) -> Array:
    """Level dabs of cool broken colour, no outline at all: mist, water, lilac shadows."""
    top, low = one_of(rng, MONET_SKIES) * (0.86 if scene.dusk else 1.0)
    parts = grade(part_colours(scene), 1.3, np.array([120, 110, 190], np.float32), 0.14, 0.98)
    parts = stand_out(parts, (top + low) / 2, 115)
    _, picture = underpaint(scene, top, low, ground_tone(scene, MONET_GROUNDS), parts)
    return _dabs(picture, scene, rng, 0.0, (11, 6), 22)


CASSATT_SKIES = [rgb("f0cfc0", "f8e6d4"), rgb("e8bcc0", "f4dcd8"), rgb("ecd8b4", "f6ead2"), rgb("d8c4d4", "f2dce0")]
CASSATT_GROUNDS = rgb("c8b088", "a8b8c4", "c09a8c", "b8b890")


def _cassatt(scene: Scene, rng: Rng) -> Array:
    """Soft slanting pastel strokes in rose and cream, with a drawn contour."""
    top, low = one_of(rng, CASSATT_SKIES) * (0.9 if scene.dusk else 1.0)
    parts = grade(part_colours(scene), 0.95, np.array([232, 160, 140], np.float32), 0.25, 1.0)
    _, picture = underpaint(scene, top, low, ground_tone(scene, CASSATT_GROUNDS), parts)
    slant = float(rng.choice([-1, 1])) * 0.9
    soft = ndimage.gaussian_filter(_dabs(picture, scene, rng, slant, (14, 7), 13), (1.6, 1.6, 0))
    outer, inner = edges(scene.labels, 4)
    line = ndimage.gaussian_filter((outer | inner).astype(np.float32), 0.8)[..., None] * 0.85
    return soft * (1 - line) + np.array([112, 62, 58]) * line


def _facets(rng: Rng, count: int) -> tuple[Array, Array, Array]:
    """Cut the plane with straight lines: cell of each pixel, distance to the nearest cut, a ramp along one cut."""
    angles = np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    offset = rng.uniform(-0.34, 0.34, count) * RES
    normal = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    signed = (XX[..., None] - RES / 2) * normal[0] + (YY[..., None] - RES / 2) * normal[1] - offset.astype(np.float32)
    cell = ((signed > 0) << np.arange(count)).sum(-1)
    return cell, np.abs(signed).min(-1), signed[..., 0] / RES


PICASSO_BACKS = [
    rgb("3f6fb5", "d8b25a", "b7413a", "5f9a86", "8fb7d8"),
    rgb("cf7f86", "e6c3a0", "4d7fa6", "b85a4a", "f0dfc8"),
    rgb("2f5aa0", "6fa0cc", "1f3f74", "9cc0c4", "d4a05a"),
    rgb("d99a3a", "5c8a4a", "a83a34", "3a5f94", "ead6a0"),
]


def _picasso(scene: Scene, rng: Rng) -> Array:
    """Flat bright facets under heavy black lines; the form is cut and each piece slides a little."""
    cell, cut, _ = _facets(rng, 5)
    slide = rng.integers(-3, 4, (64, 2))
    rows = np.clip(YY.astype(int) + slide[cell, 0], 0, RES - 1)
    columns = np.clip(XX.astype(int) + slide[cell, 1], 0, RES - 1)
    labels = scene.labels[rows, columns]
    colours = one_of(rng, PICASSO_BACKS) * (0.85 if scene.dusk else 1.0)
    sky = colours[rng.integers(0, 3, 64)][cell]
    ground = colours[rng.integers(2, 5, 64)][cell] * 0.72
    parts = grade(part_colours(scene), 1.5, np.array([250, 240, 220], np.float32), 0.12, 1.08)
    table = np.concatenate([np.zeros((2, 3)), stand_out(parts, colours[:3].mean(0), 110)])
    shade = rng.choice([0.74, 1.0, 1.18], 64)[cell][..., None]
    picture = np.where((labels == GROUND)[..., None], ground, sky)
    content = labels >= FIRST_PART
    picture = np.where(content[..., None], table[labels] * shade, picture)
    outer, _ = edges(labels, 5)
    _, inner = edges(labels, 3)
    black = outer | inner | ((cut < 2.0) & ~content)
    return np.where(black[..., None], np.array([14, 12, 18]), picture)


BRAQUE_TONES = [
    rgb("b79a62", "8d7f68", "a3977f", "6f6350", "c9b58a"),
    rgb("9a9484", "7b776c", "b5a683", "5e5a50", "a88f5e"),
    rgb("a8824a", "86704c", "c4aa74", "665238", "948a74"),
]


def _braque(scene: Scene, rng: Rng) -> Array:
    """Ochre and grey facets that fade into each other, hatched with parallel lines, thin brown contours."""
    cell, cut, ramp = _facets(rng, 6)
    tones = one_of(rng, BRAQUE_TONES) * (0.86 if scene.dusk else 1.0)
    picture = tones[rng.integers(0, 5, 64)][cell] * 1.08
    parts = grade(part_colours(scene), 0.3, np.array([176, 140, 84], np.float32), 0.3, 1.0)
    luma = parts @ LUMA
    spread = np.clip(luma.mean() + (luma - luma.mean()) * 1.4, 40, 235) / np.maximum(luma, 1)
    parts = np.clip(parts * spread[:, None], 0, 250)
    bright = parts @ LUMA > 120
    parts = np.where(bright[:, None], parts * 0.5 + np.array([238, 224, 188]) * 0.5, parts * 0.6)
    content = scene.labels >= FIRST_PART
    table = np.concatenate([np.zeros((2, 3)), parts])
    picture = np.where(
        content[..., None], table[scene.labels] * rng.choice([0.84, 1.0, 1.1], 64)[cell][..., None], picture
    )
    picture = picture * (0.9 + 0.35 * np.clip(np.minimum(cut, 14) / 14, 0, 1))[..., None] * (1 + 0.2 * ramp[..., None])

    turn = np.pi * rng.random(64)[cell]
    hatch = np.sin((XX * np.cos(turn) + YY * np.sin(turn)) * 2 * np.pi / 11.0) > 0.15
    strength = np.where(rng.random(64) < 0.65, 0.3, 0.0)[cell] * np.where(content, 0.45, 1.0)
    picture = picture * (1 - strength * hatch)[..., None]
    outer, inner = edges(scene.labels, 3)
    line = np.where(outer, 0.75, np.where(inner, 0.45, np.where((cut < 1.2) & ~content, 0.35, 0.0)))[..., None]
    return picture * (1 - line) + np.array([52, 38, 26]) * line


HOKUSAI_SKIES = [rgb("28507e", "efe4c8"), rgb("5c86a4", "f2ead4"), rgb("d9906a", "f2e2c0"), rgb("8aa8a0", "ece4cc")]
HOKUSAI_INKS = rgb("1e4470", "7c9a78", "c9b88a", "5f86a8")


def _hokusai(scene: Scene, rng: Rng) -> Array:
    """A woodblock print: cream paper, one graded band of ink, flat colours, Prussian blue lines, scalloped waves."""
    ink, paper = one_of(rng, HOKUSAI_SKIES)
    ground = ground_tone(scene, HOKUSAI_INKS)
    fade = np.clip(1 - YY / (RES * rng.uniform(0.22, 0.4)), 0, 1)[..., None]
    picture = paper * (1 - fade) + ink * fade
    r = 26.0
    row = np.floor((YY - scene.horizon) / (r * 0.5))
    x = np.mod(XX + np.mod(row, 2) * r * 0.5, r) - r / 2
    y = np.mod(YY - scene.horizon, r * 0.5)
    ring = np.hypot(x, r * 0.5 - y)
    wave = np.where((np.abs(ring - 11.5) < 2.1)[..., None], paper * 0.95, ground)
    picture = np.where((scene.labels == GROUND)[..., None], wave, picture)
    parts = grade(part_colours(scene), 0.75, np.array([214, 190, 140], np.float32), 0.25, 1.0)
    parts = np.rint(stand_out(parts, paper, 70) / 48) * 48 + 6
    content = scene.labels >= FIRST_PART
    table = np.concatenate([np.zeros((2, 3)), parts])
    picture = np.where(content[..., None], table[scene.labels], picture)
    outer, inner = edges(scene.labels, 5)
    skyline = np.abs(YY - scene.horizon) < 2
    line = outer | inner | (skyline & ~content)
    return np.where(line[..., None], np.array([20, 38, 84]), picture * (0.88 if scene.dusk else 1.0))


SEURAT_SKIES = [rgb("6fa8e0", "cfe0f0"), rgb("8ab0d8", "f4dcb0"), rgb("a890d0", "f2c8b8"), rgb("70c0c8", "e4eccc")]
SEURAT_GROUNDS = rgb("78b048", "3f78c0", "d8b860", "58a078")


def _seurat(scene: Scene, rng: Rng) -> Array:
    """Round dots of pure and complementary colour on a jittered grid over a pale ground."""
    top, low = one_of(rng, SEURAT_SKIES) * (0.85 if scene.dusk else 1.0)
    parts = grade(part_colours(scene), 1.5, np.array([255, 255, 255], np.float32), 0.0, 0.95)
    _, picture = underpaint(scene, top, low, ground_tone(scene, SEURAT_GROUNDS), stand_out(parts, (top + low) / 2, 120))
    content = scene.labels >= FIRST_PART
    under = picture * np.where(content, 0.78, 0.45)[..., None] + 250 * np.where(content, 0.16, 0.52)[..., None]
    canvas = to_image(under)
    draw = ImageDraw.Draw(canvas)
    x, y = jittered_grid(rng, 8.6, 1.3)
    inside = sample(content, x, y)
    colour = sample(picture, x, y)
    grey = (colour @ LUMA)[:, None]
    vivid = grey + (colour - grey) * 1.6
    kind = rng.random(x.size)[:, None]
    other = np.clip(vivid[:, [1, 2, 0]] * 0.75 + vivid[:, [2, 0, 1]] * 0.35, 0, 255)
    dots = np.where(kind < 0.58, vivid * 0.86, np.where(kind < 0.8, vivid * 1.25 + 16, other))
    dots = np.where(inside[:, None] & (kind >= 0.8), vivid * 0.62, dots)
    for cx, cy, fill in zip(x.tolist(), y.tolist(), np.clip(dots, 0, 255).astype(int).tolist(), strict=True):
        draw.ellipse((cx - 3.7, cy - 3.7, cx + 3.7, cy + 3.7), fill=tuple(fill))
    return np.asarray(canvas, np.float32)


WARHOL_INKS = [
    rgb("00c8d2", "ff2e88", "ffe600", "2a1a6e", "ffffff"),
    rgb("ff5a1f", "38d430", "ffd2ea", "5a1a9a", "fff25a"),
    rgb("ffe11a", "1f5aff", "ff3a3a", "101038", "b8f4ff"),
    rgb("ff6ec7", "12b886", "fff04a", "3a0a5a", "7adfff"),
    rgb("8a3ffc", "ff9f1a", "5affc8", "1a0a40", "ffe0f0"),
]


def _warhol(scene: Scene, rng: Rng) -> Array:
    """Silkscreen: flat neon blocks, and a dark outline printed out of register."""
    inks = one_of(rng, WARHOL_INKS)
    luma = part_colours(scene) @ LUMA
    rank = np.argsort(np.argsort(luma)) / max(1, luma.size - 1)
    # dark parts get the dark ink only where they are details; the largest part always gets the key colour
    area = np.bincount(scene.labels.ravel(), minlength=luma.size + 2)[2:]
    which = np.where(rank < 0.34, 3, np.where(rank < 0.75, 2, 4))
    which[int(np.argmax(area))] = 2
    table = np.concatenate([inks[[0, 1]], inks[which]])
    picture = table[scene.labels]
    outer, inner = edges(scene.labels, 5)
    dy, dx = (0 if rng.random() < 0.5 else 10 for _ in range(2))
    line = np.pad(outer | inner, 5)[dy : dy + RES, dx : dx + RES]
    return np.where(line[..., None], inks[3], picture) * (0.9 if scene.dusk else 1.0)


BRUSHES: dict[str, Callable[[Scene, Rng], Array]] = {
    "photo": _photo,
    "van_gogh": _van_gogh,
    "munch": _munch,
    "monet": _monet,
    "cassatt": _cassatt,
    "picasso": _picasso,
    "braque": _braque,
    "hokusai": _hokusai,
    "seurat": _seurat,
    "warhol": _warhol,
}


def paint(scene: Scene, style: str, rng: Rng) -> Array:
    """Paint a scene in a style: uint8 RGB at half the working resolution."""
    large = np.clip(BRUSHES[style](scene, rng), 0, 255)
    half = RES // 2
    return np.rint(large.reshape(half, 2, half, 2, 3).mean((1, 3))).astype(np.uint8)
