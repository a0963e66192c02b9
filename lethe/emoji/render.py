"""Makes the picture set again from the pinned packages: pictures.tar, the same bytes each time, and LICENSES.md.

    make emoji                                                     # .venv-emoji, and the comparison
    .venv-emoji/bin/python -m lethe.emoji.render --packages data/emoji

Each name of names.csv in each style: 64 x 64 RGBA, the drawing 56 wide in the middle, so that it can be shifted. The
tar is an imagefolder (metadata.jsonl with file_name, text, texts, loose, style, content, group). `--check` compares
with the committed archive and names what differs.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from lethe.emoji import captions, sources
from lethe.emoji.world import ARCHIVE, SIDE, names
from lethe.files.errors import UserError
from lethe.files.images import read_tar, write_tar
from lethe.files.io import write_text

DRAWN = 56  # of SIDE


def main() -> None:
    """Renders, writes or compares."""
    made = argparse.ArgumentParser(
        prog="python -m lethe.emoji.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--packages", type=Path, required=True, help="folder of the packages; missing ones are fetched")
    made.add_argument("--out", type=Path, default=ARCHIVE, help=f"archive to write (default: {ARCHIVE})")
    made.add_argument("--check", action="store_true", help="write nothing: say which pictures differ from the archive")
    args = made.parse_args()
    if args.check:
        check(args.out, args.packages)
        return
    found = archive(args.packages)
    write_tar(args.out, found)
    write_text(args.out.with_name("LICENSES.md"), licences())
    print(f"{args.out}: {len(found) - 1} pictures")


def check(path: Path, packages: Path) -> None:
    """Raises UserError that says which members differ, and which packages are not those that are pinned."""
    made = archive(packages, pinned=False)
    told = differing(made, path)
    others = [str(package) for package in sources.packages() if not sources.is_pinned(package, packages)]
    if told:
        why = f"; not as pinned: {', '.join(others)}" if others else ""
        raise UserError(f"{path}: {len(told)} members differ: {', '.join(told[:5])}{' ...' * (len(told) > 5)}{why}")
    print(f"{path}: the same, {len(made)} members")


def differing(made: Iterable[tuple[str, bytes]], path: Path) -> list[str]:
    """Names of members that only one of them has, or whose bytes differ."""
    old = dict(read_tar(path))
    return [name for name, content in made if old.pop(name, None) != content] + sorted(old)


def archive(packages: Path, pinned: bool = True) -> list[tuple[str, bytes]]:
    """All members of the tar, its list first. `pinned`: refuse packages of other bytes."""
    for package in sources.packages():
        sources.fetch(package, packages)
        if pinned:
            sources.check(package, packages)
    known = {entry["label"]: entry for entry in labels(packages)}
    drawn = {style.word: drawings(style, packages) for style in sources.STYLES}
    lines, pictures = [], []
    for name in names():
        for style in sources.STYLES:
            picture = drawn[style.word](known[name.label]) if name.label in known else None
            if picture is None:
                raise UserError(f"{style.package} has no {name.label!r}; take it off names.csv")
            file = f"{style.word}/{sources.slug(name.label)}.png"
            lines.append({"file_name": file, **captions.row(name, style.word)})
            pictures.append((file, png(picture)))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return [("metadata.jsonl", text.encode()), *pictures]


def labels(packages: Path) -> list[dict]:
    """Official names with hexcode, group and tags."""
    file = "en/data.json"
    return json.loads(sources.members(packages / sources.LABELS.file, [file])[file])


def drawings(style: sources.Style, packages: Path) -> Callable[[dict], np.ndarray | None]:
    """Entry of the official names -> its picture in the style, uint8 RGBA [SIDE, SIDE, 4]; None if there is none."""
    path = packages / style.package.file
    if style.package.name.startswith("@iconify-json/"):
        icons = json.loads(sources.members(path, ["icons.json"])["icons.json"])
        return lambda entry: _vector(sources.svg(icons, sources.slug(entry["label"])))
    files = {f"assets/{spelt}.webp" for entry in labels(packages) for spelt in _spellings(entry["hexcode"])}
    found = sources.members(path, files)
    return lambda entry: _raster([found.get(f"assets/{spelt}.webp") for spelt in _spellings(entry["hexcode"])])


def _spellings(hexcode: str) -> list[str]:
    """A code with and without the mark that asks for colour."""
    plain = hexcode.lower().replace("-fe0f", "")
    return [hexcode.lower(), plain, f"{plain}-fe0f"]


def _vector(document: str | None) -> np.ndarray | None:
    if document is None:
        return None
    import resvg_py  # of .venv-emoji alone

    return _framed(Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=document, width=DRAWN, height=DRAWN))))


def _raster(contents: list[bytes | None]) -> np.ndarray | None:
    content = next((one for one in contents if one), None)
    if content is None:
        return None
    picture = Image.open(io.BytesIO(content)).convert("RGBA").convert("RGBa")
    return _framed(picture.resize((DRAWN, DRAWN), Image.Resampling.LANCZOS).convert("RGBA"))


def _framed(picture: Image.Image) -> np.ndarray:
    edge = (SIDE - DRAWN) // 2
    whole = np.zeros((SIDE, SIDE, 4), np.uint8)
    whole[edge : edge + DRAWN, edge : edge + DRAWN] = np.asarray(picture.convert("RGBA"))
    whole[whole[..., 3] == 0] = 0  # what is not seen costs no bytes
    return whole


def png(picture: np.ndarray) -> bytes:
    """Bytes of a PNG, as small as zlib makes it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def licences() -> str:
    """Who drew what, and under which licence it is shipped."""
    lines = [
        "# Licences of pictures.tar",
        "",
        "Rendered at 64 x 64 from these packages, otherwise unchanged.",
        "Each style is its author's work, under its licence.",
        "",
        "| style | title | author | licence | package | source |",
        "|---|---|---|---|---|---|",
    ]
    for style in sources.STYLES:
        told = (style.word, style.title, style.author, style.licence, str(style.package), style.page)
        lines.append(f"| {' | '.join(told)} |")
    lines += [
        "",
        f"Names, groups and tags of names.csv: {sources.LABELS} (MIT, {sources.LABELS_AUTHOR}), whose texts come from",
        "the Unicode CLDR (Unicode-3.0, Copyright © 1991-2026 Unicode, Inc., https://www.unicode.org/license.txt).",
        "",
        "Apache-2.0: the text is in LICENSE at the root of this repository.",
        "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/legalcode.",
        "MIT, of Microsoft Corporation, LobeHub and Miles Johnson:",
        "",
        sources.MIT,
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:  # not by lethe.stage.cli: this environment has no torch
        sys.exit(f"render: {error}")
