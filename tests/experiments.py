"""An experiment of seconds in its own folder: smoke values, a tiny base, few prompts, pictures that are copied."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import yaml

from lethe.params import options

ROOT = Path(__file__).resolve().parents[1]
THINGS = ("boat", "house", "tree", "sun")
STYLES = ("van_gogh", "monet", "munch")
MAKE = (
    "for d in finetune eval concept/van_gogh concept/monet concept/picasso;"
    " do mkdir -p data/atelier/$d; cp pictures/* data/atelier/$d; done"
)


def copy_repository(root: Path) -> None:
    """The checkout's files in another folder, without models, prompts and results."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if name.startswith(("models/", "prompts/", "reports/atelier", "dvc.lock")) or not (ROOT / name).exists():
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name, follow_symlinks=False)


def write(root: Path, base: Path, pictures: Path, judges: Path | None = None) -> dict:
    """Puts base, judges, prompt CSVs and pictures where the default experiment has them; returns its params.

    `judges`: folder with clip, descriptor, style and content; without it they are names only, good for planning.
    """
    shutil.copytree(base, root / "models/atelier/pipeline", dirs_exist_ok=True)
    if judges:
        shutil.copytree(judges, root / "models/atelier/judges", dirs_exist_ok=True)
    else:
        known = {"style": (*STYLES, "cassatt", "picasso", "braque"), "content": THINGS}
        for name in ("clip", "descriptor", "style", "content"):
            folder = root / "models/atelier/judges" / name
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(known.get(name, ())))}))
            for file in ("preprocessor_config.json", "open_clip_config.json", "model.safetensors"):
                (folder / file).write_text("{}")
    shutil.copytree(pictures, root / "pictures")
    values = options.load(ROOT / "params/smoke.yaml")
    values["pictures"]["make"] = MAKE
    values["grid"] |= {"sets": {"all": ["monet"]}, "arms": ["base", "distill", "bilevel", "esd"]}
    values["attacks"]["arms"] = []
    (root / "prompts/atelier").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*values["concepts"], "retain", "eval"]):
        style = values["concepts"].get(name, {}).get("style")
        write_prompts(root / f"prompts/atelier/{name}.csv", 4 if name == "eval" else 2, 100 * number, style)
    save(root, values)
    return values


def write_prompts(path: Path, count: int, seed: int, style: str | None = None) -> None:
    """A prompt CSV of the field; without a style, all of STYLES in turn."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case_number", "prompt", "evaluation_seed", "artist", "class"])
        for i in range(count):
            artist, thing = style or STYLES[i % len(STYLES)], THINGS[i % len(THINGS)]
            rows.writerow([i, f"a {thing} by {artist.replace('_', ' ')}", seed + i, artist, thing])


def save(root: Path, values: dict) -> None:
    """Writes params.yaml."""
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
