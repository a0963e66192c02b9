"""Contact sheets: the pictures of a samples folder at one glance, with their prompts.

A sheet is made of what stands in the folder, is no part of any recipe, and nothing reads it: a folder without one is
as good.
"""

import io
import math
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lethe.files.images import SHEET, Entry, Images
from lethe.files.io import naming

MOST = 64  # pictures; of more, as many at even steps
LARGEST = 1_000_000  # bytes
SIDE = 160  # pixels that a shown picture's longer side has at the most
GAP, LINE, LINES = 8, 12, 3  # pixels between pictures and of a prompt's line; lines of a prompt
INK, PAPER = "#1c2430", "#ffffff"

Face = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the latter where Pillow was built without FreeType


def write_sheet(folder: Path) -> None:
    """Puts SHEET beside the pictures of a samples folder: at most MOST of them, in the manifest's order, each above its
    prompt. Equal pictures make equal bytes, LARGEST at the most."""
    with Images(folder) as images:
        entries = spread(images.entries)
        pictures = [shown(images.picture(entry)) for entry in entries]
    sheet = drawn(entries, pictures)
    for quality in range(90, 0, -10):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= LARGEST:
            break
    path = Path(folder) / SHEET
    with naming(path):
        path.write_bytes(buffer.getvalue())


def spread(entries: list[Entry]) -> list[Entry]:
    """At most MOST at even steps, the first among them."""
    count = min(MOST, len(entries))
    return [entries[i * len(entries) // count] for i in range(count)]


def shown(picture: Image.Image) -> Image.Image:
    """No larger than SIDE: small ones grow by a whole factor (their pixels stay visible), large ones shrink."""
    side = max(picture.size)
    factor = SIDE // side or SIDE / side
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def drawn(entries: list[Entry], pictures: list[Image.Image]) -> Image.Image:
    """All of them in a square of rows, left to right."""
    across = math.ceil(math.sqrt(len(pictures)))
    width, height = (max(picture.size[axis] for picture in pictures) + GAP for axis in (0, 1))
    height += LINES * LINE
    sheet = Image.new("RGB", (across * width + GAP, -(-len(pictures) // across) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (entry, picture) in enumerate(zip(entries, pictures, strict=True)):
        x, y = GAP + number % across * width, GAP + number // across * height
        sheet.paste(picture, (x, y))
        for line, text in enumerate(wrapped(pen, entry.prompt, width - GAP, font(), LINES)):
            pen.text((x, y + picture.height + 1 + line * LINE), text, INK, font())
    return sheet


@cache
def font() -> Face:
    """The one that Pillow brings."""
    return ImageFont.load_default(LINE - 2)


def wrapped(pen: ImageDraw.ImageDraw, text: str, width: int, face: Face, lines: int) -> list[str]:
    """Words in lines no wider than `width` pixels; what does not fit in `lines` lines ends in an ellipsis."""
    made: list[str] = []
    for word in text.split():
        if made and pen.textlength(f"{made[-1]} {word}", face) <= width:
            made[-1] += f" {word}"
        else:
            made.append(word)
    if len(made) > lines:
        made = [*made[: lines - 1], " ".join(made[lines - 1 :])]
    return [fitted(pen, line, width, face) for line in made]


def fitted(pen: ImageDraw.ImageDraw, text: str, width: int, face: Face) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if pen.textlength(text, face) <= width:
        return text
    while text and pen.textlength(text + "…", face) > width:
        text = text[:-1]
    return text.rstrip() + "…"
