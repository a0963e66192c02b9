"""Makes the bundle from its recipe, measures it, and writes its card."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import jinja2
import torch

from lethe import record
from lethe.atelier import bundle, quality
from lethe.atelier.recipe import Recipe
from lethe.atelier.splits import judge_rows
from lethe.atelier.world import WORLD_VERSION
from lethe.io import read_json, sha256, write_json, write_text

TEMPLATE = Path(__file__).with_name("card.md.j2")


def make(out: Path, state: Path, recipe: Recipe, name: str, threads: int) -> None:
    """Trains whatever is missing in `state`, measures, and puts the bundle in the place of `out`."""
    torch.set_num_threads(threads)
    kept = state / "seconds.json"
    seconds: dict[str, int] = read_json(kept) if kept.is_file() else {}
    clock = _cpu_seconds()

    def lap(part: str) -> None:
        """Notes what a part cost; a part that was found finished keeps the note of the run that made it."""
        nonlocal clock
        spent, clock = _cpu_seconds() - clock, _cpu_seconds()
        seconds.setdefault(part, round(spent))
        write_json(kept, seconds)
        print(f"{part}: {seconds[part]} CPU seconds", flush=True)

    rows, pictures = bundle.rendered(state, "pretrain", bundle.training_rows(recipe.pictures, recipe.seed), threads)
    seen, unseen = bundle.judge_pictures(state, recipe.seed, threads, recipe.judge_pictures, recipe.unseen)
    lap("pictures")
    vae = bundle.make_autoencoder(state, pictures, recipe.autoencoder_steps, 16, recipe.seed)
    lap("autoencoder")
    rounds = (recipe.pipeline_steps, recipe.pipeline_more_steps)
    pipeline = bundle.make_pipeline(state, vae, rows, pictures, rounds, 64, recipe.seed)
    lap("pipeline")
    steps = {k.removesuffix("_steps"): v for k, v in asdict(recipe).items() if k.endswith("_steps")}
    judges = bundle.make_judges(state, *seen, steps, recipe.seed)
    lap("judges")

    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    bundle.export(part, pipeline, judges)  # rounds the weights to float16: what is measured is what is shipped
    asked = judge_rows(recipe.samples, recipe.seed + 1, unseen=True)
    drawn = quality.sample(pipeline, [row["text"] for row in asked], first_seed=10_000, workers=threads)
    styles = bundle.label_ids(unseen[0], "style")
    tokens = bundle.token_ids(pipeline["tokenizer"], [row["text"] for row in unseen[0]])
    measured = {
        "judges": quality.judge_accuracy(judges, *unseen),
        "descriptor": quality.descriptor_accuracy(judges["descriptor"], unseen[1], styles),
        "clip": quality.clip_accuracy(judges["clip"], tokens, unseen[1]),
        "samples": quality.sample_accuracy(judges, asked, drawn),
    }
    quality.sample_sheet(pipeline, 1).save(part / "samples.jpg", quality=80)
    quality.reconstruction_sheet(vae, 1).save(part / "reconstructions.jpg", quality=80)
    lap("measuring")

    weights = {str(p.relative_to(part)): sha256(p) for p in sorted(part.rglob("*")) if p.is_file()}
    megabytes = sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e6
    facts = {
        "world": WORLD_VERSION,
        "recipe": name,
        "options": asdict(recipe),
        **measured,
        "bars": quality.BARS,
        "missed": quality.verdict(measured["judges"], measured["samples"]),
        "seconds": seconds,
        "threads": threads,
        "cpu": record.cpu_name(),
        "memory": record.peak_memory_mb(),
        "settings": asdict(quality.SETTINGS),
    }
    write_text(part / "CARD.md", jinja2.Template(TEMPLATE.read_text()).render(megabytes=megabytes, **facts))
    write_json(
        part / "bundle.json", facts | {"code": record.code_revision(), "packages": record.versions(), "files": weights}
    )
    bundle.replace(part, out)
    print("\n".join(facts["missed"]) or "all bars are met")


def _cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    return sum(os.times()[:4])
