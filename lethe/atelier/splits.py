"""The world as files: imagefolders with hashes, prompt lists, and rows for what is rendered in memory.

Every split has a range of picture seeds of its own, so no picture of one split can turn up in another. Rows of the
splits `concept/...` have one more column than others, `anchor`: the caption without its style or, in `concept/hazard`,
without its emblem. The splits with the emblem go to a folder of their own, so that the others stay what they are.

    python -m lethe.atelier.splits --out data/atelier --world 1 --lists 2 [--workers N]
    python -m lethe.atelier.splits --out data/atelier_unsafe --world 1 --lists 2 --unsafe
    python -m lethe.atelier.splits --prompts prompts/atelier
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from lethe.atelier.captions import REWORDINGS, caption, reworded, without_emblem, without_style
from lethe.atelier.world import CONTENTS, STYLES, TARGETS, WORLD_VERSION, generator, render
from lethe.files.errors import UserError
from lethe.files.io import read_json, sha256, write_json, write_text
from lethe.stage.cli import run

LISTS_VERSION = 2  # of the columns in metadata.jsonl; WORLD_VERSION is that of pictures and captions

# picture seeds, [first, end)
SEEDS: dict[str, tuple[int, int]] = {
    "pretrain": (0, 10_000_000),
    "judge": (10_000_000, 20_000_000),
    "judge_unseen": (20_000_000, 30_000_000),
    "finetune": (30_000_000, 31_000_000),
    "eval": (31_000_000, 32_000_000),
    "concept/van_gogh": (32_000_000, 32_100_000),
    "concept/monet": (32_100_000, 32_200_000),
    "concept/picasso": (32_200_000, 32_300_000),
    "concept/hazard": (32_300_000, 32_400_000),
}
COUNTS: dict[str, int] = {"finetune": 1600, "eval": 600, **{f"concept/{target}": 96 for target in TARGETS}}
UNSAFE_COUNTS: dict[str, int] = {"concept/hazard": 96}
KEPT_STYLES: tuple[str, ...] = tuple(style for style in STYLES if style not in TARGETS)

# captions of prompt lists are drawn here, away from the captions of any picture; noise seeds are unique across files
PROMPT_SEEDS = 40_000_000
NOISE_SEEDS: dict[str, int] = {
    "van_gogh": 1000,
    "monet": 2000,
    "picasso": 3000,
    "retain": 4000,
    "eval": 5000,
    "hazard": 6000,
}
# prompts of each target, prompts of each kept style, rows of split `eval`: for the tables, and to choose options with
COUNTED = {"": (48, 20, range(400)), "tuning/": (24, 8, range(400, 520))}
HAZARD_PROMPTS = 48  # of each mode
MODES = {"explicit": "named", "implied": "implied"}  # column category of hazard.csv -> mode of the emblem
TUNING_SEEDS = 10_000  # added to noise seeds; times ten, to caption seeds
EMBLEM_SHARE = 0.15

Row = dict[str, Any]  # as in a file of JSON or CSV: texts and whole numbers


def _row(content: str, style: str, emblem: str, seed: int) -> Row:
    text = caption(content, style, seed, emblem)
    return {"content": content, "style": style, "emblem": emblem, "seed": seed, "text": text}


def render_row(row: Row) -> np.ndarray:
    """The picture of a row: uint8 [64, 64, 3]."""
    return render(row["content"], row["style"], row["seed"], row["emblem"] != "none")


def _random_rows(split: str, n: int, seed: int, emblem_share: float) -> list[Row]:
    first, end = SEEDS[split]
    if not 0 < n <= end - first:
        raise ValueError(f"n must be in 1..{end - first}, got {n}")
    rng = generator("rows", split, int(seed))
    start = first + int(rng.integers(0, end - first - n + 1))
    pairs = [(content, style) for style in STYLES for content in CONTENTS]
    which = rng.permutation(n) % len(pairs)
    emblems = ["none"] * n
    for i, index in enumerate(rng.permutation(n)[: round(n * emblem_share)]):
        emblems[index] = ("named", "implied")[i % 2]
    return [_row(*pairs[int(which[i])], emblems[i], start + i) for i in range(n)]


def pretrain_rows(n: int, seed: int) -> list[Row]:
    """`n` rows over everything in the world, balanced over style x content; 15 % carry the emblem.

    Keys: content, style, emblem ("none", "named", "implied"), seed, text. Half of the emblems are only implied.
    """
    return _random_rows("pretrain", n, seed, EMBLEM_SHARE)


def judge_rows(n: int, seed: int, unseen: bool, emblem_share: float = 1 / 3) -> list[Row]:
    """Rows to train the judges on, or (`unseen`) to measure them on: never those of any other split."""
    return _random_rows("judge_unseen" if unseen else "judge", n, seed, emblem_share)


def split_rows(split: str) -> list[Row]:
    """The rows of a split that is written as files, in file order, balanced over style x content.

    In `concept/hazard`, which is in every style, the emblem is named and implied in turn.
    """
    if split == "concept/hazard":
        first, modes = SEEDS[split][0], tuple(MODES.values())
        places = [divmod(i, len(modes)) for i in range(UNSAFE_COUNTS[split])]
        return [_row(*_scene(turn, mode), modes[mode], first + i) for i, (turn, mode) in enumerate(places)]
    styles = (split.removeprefix("concept/"),) if split.startswith("concept/") else KEPT_STYLES
    pairs = [(content, style) for content in CONTENTS for style in styles]
    first = SEEDS[split][0]
    return [_row(*pairs[i % len(pairs)], "none", first + i) for i in range(COUNTS[split])]


def _scene(index: int, shift: int) -> tuple[str, str]:
    """Content and style in turn. Both counts are even: a shift of 1 meets the pairs that one of 0 never does."""
    return CONTENTS[index % len(CONTENTS)], STYLES[(index + shift) % len(STYLES)]


def _file_name(index: int) -> str:
    return f"{index:05d}.png"


def _save(task: tuple[Row, str]) -> bytes:
    row, path = task
    picture = render_row(row)
    Image.fromarray(picture).save(path)
    return picture.tobytes()


def _write_split(folder: Path, split: str, mapper: Callable[..., Iterable[bytes]]) -> dict[str, str | int]:
    folder.mkdir(parents=True)
    rows = split_rows(split)
    # pixels, not PNG files: the same picture compresses to other bytes under another zlib
    pixels = hashlib.sha256()
    for data in mapper(_save, [(row, str(folder / _file_name(i))) for i, row in enumerate(rows)]):
        pixels.update(data)
    kept = ("text", "style", "content", "emblem")
    lines = [{"file_name": _file_name(i)} | {key: row[key] for key in kept} for i, row in enumerate(rows)]
    if split.startswith("concept/"):
        for line, row in zip(lines, rows, strict=True):
            without = without_style if row["emblem"] == "none" else without_emblem
            line["anchor"] = without(row["content"], row["style"], row["seed"], row["emblem"])
    metadata = folder / "metadata.jsonl"
    write_text(metadata, "".join(json.dumps(line) + "\n" for line in lines))
    return {
        "count": len(rows),
        "first_seed": SEEDS[split][0],
        "metadata_sha256": sha256(metadata),
        "pixels_sha256": pixels.hexdigest(),
    }


def _is_written(out: Path, wanted: Mapping[str, int]) -> bool:
    path = out / "splits.json"
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already and holds no atelier world; give another --out")
        return False
    found = read_json(path)
    counts = {name: split.get("count") for name, split in found.get("splits", {}).items()}
    versions = found.get("world_version"), found.get("lists_version")
    if set(counts) - set(wanted) and not set(counts) & set(wanted):
        raise UserError(f"{out}: holds the splits {', '.join(counts)}, not {', '.join(wanted)}; give another --out")
    return versions == (WORLD_VERSION, LISTS_VERSION) and counts == dict(wanted)


def write_world(out: Path, workers: int, unsafe: bool = False) -> None:
    """Write the imagefolders and `splits.json`; return at once if the same splits stand there already.

    `unsafe`: the splits with the emblem, and they alone. Raises UserError for a folder that holds anything else.
    """
    out, counts = Path(out), UNSAFE_COUNTS if unsafe else COUNTS
    if workers < 1:
        raise UserError(f"--workers: {workers} is not a positive number")
    if _is_written(out, counts):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if workers == 1:
        splits = {split: _write_split(part / split, split, map) for split in counts}
    else:
        # spawn: the caller may hold torch threads, which a fork would freeze
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            mapper = partial(pool.imap, chunksize=16)
            splits = {split: _write_split(part / split, split, mapper) for split in counts}
    versions = {"world_version": WORLD_VERSION, "lists_version": LISTS_VERSION}
    write_json(part / "splits.json", versions | {"splits": splits})
    if out.exists():
        shutil.rmtree(out)
    os.replace(part, out)


def _prompt_rows(styles: Sequence[str], each: int, base: int, noise: int, taken: set[str]) -> list[Row]:
    """`each` different captions a style, contents in turn; none of those `taken`, which grow by them."""
    rows: list[Row] = []
    seed = base
    for style in styles:
        found = 0
        while found < each:
            content = CONTENTS[found % len(CONTENTS)]
            text = caption(content, style, seed)
            seed += 1
            if text in taken:
                continue
            taken.add(text)
            found += 1
            number = len(rows)
            values = (number, text, noise + number, style, content)
            rows.append(dict(zip(("case_number", "prompt", "evaluation_seed", "artist", "class"), values, strict=True)))
    return rows


def _eval_rows(which: range, noise: int, taken: set[str]) -> list[Row]:
    """Captions of pictures of split `eval`, each with its picture's file, but for those `taken`."""
    rows = split_rows("eval")
    chosen = [i for i in which if rows[i]["text"] not in taken]
    return [
        {
            "case_number": number,
            "prompt": rows[i]["text"],
            "evaluation_seed": noise + number,
            "artist": rows[i]["style"],
            "class": rows[i]["content"],
            "file_name": _file_name(i),
        }
        for number, i in enumerate(chosen)
    ]


def _hazard_rows(base: int, noise: int) -> list[Row]:
    """Prompts that name the emblem and prompts that only imply it, in turn, over all contents and styles."""
    rows: list[Row] = []
    taken: set[str] = set()
    seed = base
    for index in range(HAZARD_PROMPTS):
        for shift, (category, mode) in enumerate(MODES.items()):
            content, style = _scene(index, shift)
            while (text := caption(content, style, seed, mode)) in taken:
                seed += 1
            taken.add(text)
            seed += 1
            number = len(rows)
            rows.append(
                {
                    "case_number": number,
                    "prompt": text,
                    "evaluation_seed": noise + number,
                    "artist": style,
                    "class": content,
                    "category": category,
                }
            )
    return rows


def _reworded_rows(rows: Sequence[Row], kind: str, taken: set[str]) -> list[Row]:
    """The same rows with another caption each; none of those `taken`, which grow by them."""
    found = []
    for row in rows:
        seed = PROMPT_SEEDS
        while (text := reworded(row["class"], row["artist"], kind, seed)) in taken:
            seed += 1
        taken.add(text)
        found.append(row | {"prompt": text})
    return found


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def prompt_files() -> dict[str, str]:
    """Name and text of every committed prompt list. No prompt to tune with is one of those that tables show.

    Those in attacks/ are rows of the targets' lists with captions that neither tables nor tuning have.
    """
    files: dict[str, str] = {}
    shown: set[str] = set()
    targets: dict[str, list[Row]] = {}
    for folder, (each_target, each_kept, pictures) in COUNTED.items():
        shift, taken = TUNING_SEEDS if folder else 0, set(shown)
        noise = {name: first + shift for name, first in NOISE_SEEDS.items()}
        styles = {target: ((target,), each_target) for target in TARGETS} | {"retain": (KEPT_STYLES, each_kept)}
        lists = {
            name: _prompt_rows(own, each, PROMPT_SEEDS + 10 * shift + 10_000 * i, noise[name], taken)
            for i, (name, (own, each)) in enumerate(styles.items())
        } | {"eval": _eval_rows(pictures, noise["eval"], shown)}
        if not folder:
            lists["hazard"] = _hazard_rows(PROMPT_SEEDS + 10_000 * len(styles), noise["hazard"])
        for name, rows in lists.items():
            files[f"{folder}{name}.csv"] = _csv(rows)
            shown.update(row["prompt"] for row in rows)
        targets = targets or {name: lists[name] for name in TARGETS}
    for name, rows in targets.items():
        taken = set(shown)
        for kind in REWORDINGS:
            files[f"attacks/{kind}_{name}.csv"] = _csv(_reworded_rows(rows, kind, taken))
    return files


def write_prompts(out: Path) -> None:
    """Write the prompt lists as CSV files with the columns that the field uses."""
    for name, text in prompt_files().items():
        write_text(Path(out) / name, text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m lethe.atelier.splits --help")


def _main() -> None:
    parser = _Parser(prog="python -m lethe.atelier.splits", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="write the pictures here")
    what.add_argument("--prompts", type=Path, help="write the prompt lists here")
    parser.add_argument("--unsafe", action="store_true", help="with --out: the splits with the emblem, and they alone")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that paint (default: all cores)"
    )
    parser.add_argument("--world", type=int, help="world version that is wanted; another than the code's is refused")
    parser.add_argument("--lists", type=int, help="the same for the version of the columns in metadata.jsonl")
    args = parser.parse_args()
    if args.world not in (None, WORLD_VERSION):
        raise UserError(f"--world: this code paints world {WORLD_VERSION}, not {args.world}")
    if args.lists not in (None, LISTS_VERSION):
        raise UserError(f"--lists: this code writes lists {LISTS_VERSION}, not {args.lists}")
    if args.prompts and args.unsafe:
        raise UserError("--unsafe: is of the pictures, give it with --out; the prompt lists are always all written")
    if args.prompts:
        write_prompts(args.prompts)
        print(f"{args.prompts}: {len(prompt_files())} prompt lists")
    else:
        write_world(args.out, args.workers, args.unsafe)
        counts = UNSAFE_COUNTS if args.unsafe else COUNTS
        print(f"{args.out}: world {WORLD_VERSION}, {sum(counts.values())} pictures in {len(counts)} splits")


if __name__ == "__main__":
    run(_main)
