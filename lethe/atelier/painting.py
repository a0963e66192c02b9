"""What is in a picture: the eight contents, drawn as labelled shapes that a style then paints.

A scene is a label map at twice the final resolution and one plain colour per label. Labels 0 and 1 are the sky and the
ground, all others are parts of the content. Shapes live in a unit frame (x right, y down, the content fills [-1, 1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RES = 128
SKY, GROUND, FIRST_PART = 0, 1, 2
HALF_EXTENT = 47.0  # pixels of one unit at size 1.0

Colour = tuple[int, int, int]
Point = tuple[float, float]

# sky top, sky low, ground, light: the ground of boat and fish is replaced by water and sand
SCHEMES: dict[str, tuple[Colour, Colour, Colour, float]] = {
    "noon": ((78, 146, 222), (176, 212, 240), (98, 158, 74), 1.0),
    "morning": ((150, 190, 226), (246, 222, 196), (136, 168, 92), 1.0),
    "dusk": ((84, 76, 140), (240, 146, 98), (92, 88, 66), 0.82),
    "overcast": ((150, 160, 172), (204, 208, 210), (112, 132, 96), 0.92),
    "evening": ((40, 58, 116), (132, 128, 178), (58, 84, 78), 0.8),
    "summer": ((60, 172, 206), (208, 236, 226), (190, 172, 92), 1.05),
}
WATERS: tuple[Colour, ...] = ((38, 88, 148), (34, 118, 138), (66, 108, 168))
SANDS: tuple[Colour, ...] = ((206, 184, 130), (150, 132, 112), (104, 128, 104))
DUSKY = ("dusk", "evening")


@dataclass(frozen=True)
class Scene:
    """One composition before any style: labels, a plain colour per label, and how it is lit."""

    labels: np.ndarray
    table: np.ndarray
    sky: tuple[Colour, Colour]
    ground: Colour
    light: float
    side: int
    dusk: bool
    horizon: float
    centre: Point
    unit: float


class Pen:
    """Draws parts in the unit frame of the content; every colour opens a label of its own."""

    def __init__(self, centre: Point, unit: float, flip: int, turn: float) -> None:
        self.image = Image.new("L", (RES, RES), SKY)
        self.draw = ImageDraw.Draw(self.image)
        self.table: list[Colour] = [(0, 0, 0), (0, 0, 0)]
        self._centre, self._unit, self._flip = centre, unit, flip
        self._cos, self._sin = math.cos(turn), math.sin(turn)

    def label(self, colour: Colour) -> int:
        """Open a new part in this colour."""
        self.table.append(colour)
        return len(self.table) - 1

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        """Unit coordinates to pixels."""
        (cx, cy), unit = self._centre, self._unit
        turned = [(x * self._cos - y * self._sin, x * self._sin + y * self._cos) for x, y in points]
        return [(cx + unit * self._flip * x, cy + unit * y) for x, y in turned]

    def polygon(self, points: Sequence[Point], part: int) -> None:
        self.draw.polygon(self.pixels(points), fill=part)

    def box(self, x0: float, y0: float, x1: float, y1: float, part: int) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], part)

    def ellipse(self, x: float, y: float, rx: float, ry: float, part: int, turn: float = 0.0) -> None:
        angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        ex, ey = rx * np.cos(angles), ry * np.sin(angles)
        cos, sin = math.cos(turn), math.sin(turn)
        self.polygon(list(zip(x + ex * cos - ey * sin, y + ex * sin + ey * cos, strict=True)), part)

    def line(self, points: Sequence[Point], width: float, part: int) -> None:
        self.draw.line(self.pixels(points), fill=part, width=max(3, round(width * self._unit)), joint="curve")


Rng = np.random.Generator


def _pick(rng: Rng, *colours: Colour, jitter: float = 16.0) -> Colour:
    chosen = np.array(colours[rng.integers(len(colours))]) + rng.uniform(-jitter, jitter, 3)
    r, g, b = np.clip(chosen, 0, 255).astype(int).tolist()
    return r, g, b


def _scaled(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


def _house(pen: Pen, rng: Rng) -> None:
    wide, eaves, peak = rng.uniform(0.68, 0.86), rng.uniform(-0.2, 0.02), rng.uniform(-1.0, -0.82)
    wall = _pick(rng, (226, 196, 160), (206, 112, 96), (236, 232, 220), (222, 190, 96), (150, 172, 190))
    roof = pen.label(_pick(rng, (140, 52, 40), (92, 64, 58), (72, 82, 104), (176, 88, 48)))
    if rng.random() < 0.7:
        pen.box(0.36, peak + 0.02, 0.6, eaves, pen.label(_pick(rng, (120, 74, 62), (86, 80, 80))))
    pen.box(-wide, eaves - 0.02, wide, 0.95, pen.label(wall))
    pen.polygon([(-wide - 0.2, eaves), (rng.uniform(-0.12, 0.12), peak), (wide + 0.2, eaves)], roof)
    door = rng.uniform(-0.4, -0.1)
    pen.box(door - 0.17, 0.38, door + 0.17, 0.95, pen.label(_pick(rng, (82, 50, 34), (40, 70, 92), (58, 84, 50))))
    pane = pen.label(_pick(rng, (250, 226, 120), (176, 214, 236), (60, 70, 96)))
    pen.box(0.2, 0.22, 0.54, 0.56, pane)
    if rng.random() < 0.5:
        pen.box(-wide + 0.1, 0.06, -wide + 0.34, 0.3, pane)


def _tree(pen: Pen, rng: Rng) -> None:
    trunk = pen.label(_pick(rng, (98, 64, 40), (78, 58, 48), (122, 92, 66)))
    leaf = _pick(rng, (52, 124, 50), (92, 146, 48), (206, 112, 40), (38, 98, 72), (222, 140, 160))
    dark, light = pen.label(_scaled(leaf, 0.74)), pen.label(_scaled(leaf, 1.18))
    if rng.random() < 0.3:
        pen.box(-0.14, 0.4, 0.14, 1.0, trunk)
        for top, low, wide in ((0.0, 0.68, 0.78), (-0.5, 0.22, 0.6), (-1.0, -0.22, 0.42)):
            pen.polygon([(-wide, low), (0, top), (wide, low)], dark)
            pen.polygon([(0, low), (0, top), (wide, low)], light)
        return
    thick = rng.uniform(0.12, 0.18)
    pen.polygon([(-thick, -0.1), (thick, -0.1), (thick * 1.5, 1.0), (-thick * 1.5, 1.0)], trunk)
    pen.line([(0, 0.3), (0.36, -0.1)], 0.12, trunk)
    for x, y, r in ((-0.48, -0.1, 0.4), (0.46, -0.16, 0.42), (0.0, -0.05, 0.42)):
        pen.ellipse(x + rng.uniform(-0.07, 0.07), y + rng.uniform(-0.06, 0.06), r, r * 0.86, dark)
    pen.ellipse(rng.uniform(-0.12, 0.12), -0.5, rng.uniform(0.46, 0.58), 0.46, dark)
    pen.ellipse(rng.uniform(-0.3, -0.1), -0.58, 0.32, 0.26, light)
    pen.ellipse(rng.uniform(0.18, 0.42), -0.22, 0.26, 0.2, light)


def _boat(pen: Pen, rng: Rng) -> None:
    mast, top = rng.uniform(-0.14, 0.06), rng.uniform(-1.05, -0.85)
    pen.line([(mast, top - 0.03), (mast, 0.45)], 0.09, pen.label((74, 52, 40)))
    sail = _pick(rng, (246, 242, 230), (240, 222, 176), (204, 76, 56), (232, 170, 70))
    pen.polygon([(mast + 0.08, top), (mast + 0.86, 0.24), (mast + 0.08, 0.24)], pen.label(sail))
    if rng.random() < 0.75:
        jib = pen.label(_scaled(sail, 0.84))
        pen.polygon([(mast - 0.08, top + 0.24), (mast - 0.7, 0.24), (mast - 0.08, 0.24)], jib)
    hull = _pick(rng, (128, 56, 40), (66, 44, 40), (226, 216, 200), (38, 92, 96), (196, 140, 60))
    pen.polygon([(-1.0, 0.36), (1.0, 0.36), (0.68, 0.8), (-0.72, 0.8)], pen.label(hull))
    pen.polygon([(-1.0, 0.36), (1.0, 0.36), (0.92, 0.5), (-0.93, 0.5)], pen.label(_scaled(hull, 1.3)))


def _mountain(pen: Pen, rng: Rng) -> None:
    rock = _pick(rng, (104, 92, 120), (110, 104, 96), (86, 110, 124), (136, 96, 80))
    far = pen.label(_scaled(rock, 1.22))
    x, top = rng.uniform(-0.2, 0.1), rng.uniform(-1.0, -0.8)
    second = rng.uniform(0.62, 0.82)
    if rng.random() < 0.8:
        pen.polygon([(second - 0.62, 0.85), (second, rng.uniform(-0.3, 0.0)), (second + 0.68, 0.85)], far)
    if rng.random() < 0.4:
        pen.polygon([(-1.4, 0.85), (-0.85, rng.uniform(-0.1, 0.15)), (-0.2, 0.85)], far)
    left, right = (-1.15, 0.85), (1.05, 0.85)
    pen.polygon([left, (x - 0.5, -0.02), (x, top), (x + 0.48, 0.0), right], pen.label(rock))
    ridge = [(x, top), (x + 0.48, 0.0), right, (x + 0.3, 0.85), (x + 0.12, 0.25), (x + 0.22, -0.1), (x, top)]
    pen.polygon(ridge, pen.label(_scaled(rock, 0.7)))
    deep = rng.uniform(0.42, 0.56)
    cap = [(x, top), (x + deep * 0.58, top + deep * 1.1), (x + 0.12, top + deep * 0.75), (x, top + deep * 1.15)]
    cap += [(x - 0.13, top + deep * 0.75), (x - deep * 0.6, top + deep * 1.1)]
    pen.polygon(cap, pen.label((244, 246, 252)))


def _sun(pen: Pen, rng: Rng) -> None:
    disc = _pick(rng, (255, 214, 52), (252, 168, 44), (238, 98, 48), (255, 236, 150))
    ray = pen.label(_scaled(disc, 0.9))
    count, start = int(rng.integers(9, 13)), rng.uniform(0, 1)
    half = math.pi / count * rng.uniform(0.42, 0.6)
    for i in range(count):
        mid, reach = 2 * math.pi * (i + start) / count, rng.uniform(0.92, 1.05)
        spread = ((0.58, mid - half), (reach, mid), (0.58, mid + half))
        pen.polygon([(r * math.cos(a), r * math.sin(a)) for r, a in spread], ray)
    pen.ellipse(0, 0, 0.52, 0.52, pen.label(disc))
    if rng.random() < 0.6:
        pen.ellipse(0, 0, 0.32, 0.32, pen.label(_scaled(disc, 1.16)))


def _flower(pen: Pen, rng: Rng) -> None:
    green = _pick(rng, (54, 120, 54), (92, 138, 60))
    pen.line([(0, 0.0), (rng.uniform(-0.1, 0.1), 1.15)], 0.14, pen.label(green))
    leaf = pen.label(_scaled(green, 1.2))
    low = rng.uniform(0.7, 0.84)
    pen.ellipse(-0.32, low, 0.34, 0.14, leaf, turn=0.5)
    pen.ellipse(0.32, low + 0.08, 0.34, 0.14, leaf, turn=-0.5)
    petal = _pick(rng, (216, 52, 92), (244, 238, 240), (150, 84, 188), (240, 150, 60), (84, 108, 214), (236, 130, 170))
    count, start = int(rng.integers(5, 8)), rng.uniform(0, 1)
    shades = pen.label(petal), pen.label(_scaled(petal, 0.84))
    for i in range(count):
        angle = 2 * math.pi * (i + start) / count
        wide = 1.5 / count
        pen.ellipse(0.42 * math.cos(angle), -0.34 + 0.42 * math.sin(angle), 0.32, wide, shades[i % 2], turn=angle)
    heart = _pick(rng, (246, 206, 60), (96, 60, 36)) if petal[2] < 200 else (246, 200, 50)
    pen.ellipse(0, -0.34, 0.24, 0.24, pen.label(heart))


def _fish(pen: Pen, rng: Rng) -> None:
    body = _pick(rng, (246, 150, 44), (226, 80, 60), (240, 214, 84), (214, 224, 232), (238, 128, 150))
    fin, deep = pen.label(_scaled(body, 0.78)), rng.uniform(0.4, 0.54)
    pen.polygon([(-0.45, 0), (-1.05, -0.46), (-0.9, 0), (-1.05, 0.46)], fin)
    pen.polygon([(-0.3, -deep * 0.75), (0.0, -deep - 0.26), (0.34, -deep * 0.75)], fin)
    pen.polygon([(-0.1, deep * 0.7), (-0.18, deep + 0.22), (0.22, deep * 0.7)], fin)
    pen.ellipse(0.2, 0, 0.78, deep, pen.label(body))
    if rng.random() < 0.6:
        band = pen.label(_pick(rng, (250, 246, 236), (70, 66, 92)))
        for x in (-0.22, 0.14):
            high = deep * 0.84 if x < 0 else deep * 0.96
            pen.polygon([(x - 0.07, -high), (x + 0.08, -high), (x + 0.08, high), (x - 0.07, high)], band)
    else:
        pen.ellipse(0.16, deep * 0.45, 0.5, deep * 0.4, pen.label(_scaled(body, 1.25)))
    pen.ellipse(0.62, -0.1, 0.15, 0.15, pen.label((250, 250, 244)))
    pen.ellipse(0.64, -0.1, 0.08, 0.08, pen.label((24, 24, 34)))


def _figure(pen: Pen, rng: Rng) -> None:
    skin = pen.label(_pick(rng, (240, 200, 168), (190, 136, 100), (128, 86, 62), jitter=8))
    cloth = _pick(rng, (186, 52, 48), (52, 92, 160), (226, 178, 62), (90, 140, 84), (240, 234, 226), (128, 72, 140))
    shirt, hair = pen.label(cloth), pen.label(_pick(rng, (58, 40, 32), (150, 96, 48), (34, 34, 44), (206, 170, 92)))
    reach = rng.uniform(0.5, 0.62)
    hands = [(side * reach, -0.42 if rng.random() < 0.25 else rng.uniform(0.16, 0.3)) for side in (-1, 1)]
    skirt = rng.random() < 0.45
    legs = skin if skirt else pen.label(_pick(rng, (48, 56, 92), (70, 62, 58), (110, 104, 96)))
    pen.polygon([(-0.28, 0.2), (-0.02, 0.2), (-0.06, 1.02), (-0.28, 1.02)], legs)
    pen.polygon([(0.02, 0.2), (0.28, 0.2), (0.28, 1.02), (0.06, 1.02)], legs)
    for side, hand in zip((-1, 1), hands, strict=True):
        pen.line([(side * 0.26, -0.28), hand], 0.17, shirt)
        pen.ellipse(hand[0], hand[1], 0.11, 0.11, skin)
    pen.polygon([(-0.34, -0.4), (0.34, -0.4), (0.3, 0.34), (-0.3, 0.34)], shirt)
    if skirt:
        pen.polygon([(-0.24, 0.05), (0.24, 0.05), (0.52, 0.72), (-0.52, 0.72)], pen.label(_scaled(cloth, 0.8)))
    pen.ellipse(0, -0.72, 0.32, 0.33, hair)
    pen.ellipse(0.02, -0.66, 0.25, 0.28, skin)
    if rng.random() < 0.5:
        hat = pen.label(_pick(rng, (70, 52, 44), (226, 196, 120), (150, 40, 44)))
        pen.box(-0.27, -1.12, 0.27, -0.84, hat)
        pen.box(-0.48, -0.9, 0.48, -0.78, hat)


# shape, and how far below the centre the horizon lies (in units)
SHAPES: dict[str, tuple[Callable[[Pen, Rng], None], tuple[float, float]]] = {
    "house": (_house, (0.4, 0.75)),
    "tree": (_tree, (0.35, 0.8)),
    "boat": (_boat, (0.2, 0.55)),
    "mountain": (_mountain, (0.66, 0.8)),
    "sun": (_sun, (0.75, 1.05)),
    "flower": (_flower, (0.3, 0.85)),
    "fish": (_fish, (0.75, 1.1)),
    "figure": (_figure, (0.3, 0.8)),
}


def _ground_of(content: str, scheme_ground: Colour, rng: Rng) -> Colour:
    if content == "fish":
        return _pick(rng, *SANDS)
    if content == "boat" or (content in ("sun", "mountain") and rng.random() < 0.5):
        return _pick(rng, *WATERS)
    return _pick(rng, scheme_ground)


def compose(content: str, rng: Rng) -> Scene:
    """Lay out one content: size, place, flip, colours, light and background all come from `rng`."""
    shape, (near, far) = SHAPES[content]
    size = rng.uniform(0.8, 1.2)
    unit = HALF_EXTENT * size
    room = 3.0 + 10.0 * (1.2 - size) / 0.4
    centre = (RES / 2 + rng.uniform(-room, room), RES / 2 + rng.uniform(-room, room))
    flip = 1 if rng.random() < 0.5 else -1
    scheme = tuple(SCHEMES)[rng.integers(len(SCHEMES))]
    top, low, plain, light = SCHEMES[scheme]
    top, low = _pick(rng, top), _pick(rng, low)
    if content == "fish":
        water = _pick(rng, *WATERS)
        top, low = _scaled(water, 1.3 * light), _scaled(water, 0.85 * light)
    ground = _ground_of(content, plain, rng)
    horizon = float(np.clip(centre[1] + unit * rng.uniform(near, far), RES * 0.5, RES * 0.92))

    pen = Pen(centre, unit, flip, rng.uniform(-0.07, 0.07))
    if content != "mountain":
        pen.draw.rectangle((0, horizon, RES, RES), fill=GROUND)
    shape(pen, rng)
    if content == "mountain":  # the foot of the mountain stands behind the ground
        pen.draw.rectangle((0, horizon, RES, RES), fill=GROUND)
    pen.table[SKY], pen.table[GROUND] = low, ground
    return Scene(
        labels=np.asarray(pen.image),
        table=np.array(pen.table, np.float32),
        sky=(top, low),
        ground=ground,
        light=light,
        side=1 if rng.random() < 0.5 else -1,
        dusk=scheme in DUSKY,
        horizon=horizon,
        centre=centre,
        unit=unit,
    )
