"""Makes the bundle from its recipe, measures it, and writes its card."""

import shutil
from dataclasses import asdict
from pathlib import Path

import jinja2
import torch

from lethe.atelier import bundle, quality
from lethe.atelier.recipe import Recipe
from lethe.atelier.splits import judge_rows
from lethe.atelier.world import WORLD_VERSION
from lethe.files.io import sha256, write_json, write_text
from lethe.stage import record

TEMPLATE = Path(__file__).with_name("card.md.j2")


def make(out: Path, state: Path, recipe: Recipe, name: str, threads: int) -> None:
    """Trains whatever is missing in `state`, measures, and puts the bundle in the place of `out`."""
    torch.set_num_threads(threads)
    written = bundle.training_rows(recipe.pictures, recipe.seed)
    rows, pictures = bundle.rendered(recipe, state, "pretrain", written, threads)
    seen, unseen = bundle.judge_pictures(recipe, state, threads)
    vae = bundle.make_autoencoder(recipe, state, pictures)
    pipeline = bundle.make_pipeline(recipe, state, vae, rows, pictures)
    judges = bundle.make_judges(recipe, state, *seen)

    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    bundle.export(part, pipeline, judges)  # rounds the weights to float16: what is measured is what is shipped
    clock = bundle.cpu_seconds()
    asked = judge_rows(recipe.samples, recipe.seed + 1, unseen=True)
    drawn = quality.sample(pipeline, [row["text"] for row in asked], first_seed=10_000, workers=threads)
    styles = bundle.label_ids(unseen[0], "style")
    tokens = bundle.token_ids(pipeline["tokenizer"], [row["text"] for row in unseen[0]])
    right = quality.judge_accuracy(judges, *unseen)
    described = quality.descriptor_accuracy(judges["descriptor"], unseen[1], styles)
    matched = quality.clip_accuracy(judges["clip"], tokens, unseen[1])
    shown = quality.sample_accuracy(judges, asked, drawn)
    quality.sample_sheet(pipeline, 1).save(part / "samples.jpg", quality=80)
    quality.reconstruction_sheet(vae, 1).save(part / "reconstructions.jpg", quality=80)

    weights = {str(p.relative_to(part)): sha256(p) for p in sorted(part.rglob("*")) if p.is_file()}
    megabytes = sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e6
    missed = quality.verdict(right, shown)
    facts = {
        "world": WORLD_VERSION,
        "recipe": name,
        "options": asdict(recipe),
        "judges": right,
        "descriptor": described,
        "clip": matched,
        "samples": shown,
        "bars": quality.BARS,
        "missed": missed,
        "costs": bundle.costs(recipe, state)
        | {"measuring": {"cpu_seconds": round(bundle.cpu_seconds() - clock), "threads": threads}},
        "cpu": record.cpu_name(),
        "memory": record.peak_memory_mb(),
        "settings": asdict(quality.SETTINGS),
    }
    write_text(part / "CARD.md", jinja2.Template(TEMPLATE.read_text()).render(megabytes=megabytes, **facts))
    write_json(
        part / "bundle.json", facts | {"code": record.code_revision(), "packages": record.versions(), "files": weights}
    )
    bundle.replace(part, out)
    print("\n".join(missed) or "all bars are met")
