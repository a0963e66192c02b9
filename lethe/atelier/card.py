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

CARD = """# The atelier bundle

A small Stable Diffusion (`pipeline/`) and the judges that score it (`judges/`), made from nothing but the painted world
in `lethe/atelier/` and a seed. No picture, text or weight from anywhere else went in. Harmless by construction: eight
things in ten styles, 64x64 pixels; the "unsafe" concept is a yellow warning triangle.

    python -m stages.pretrain --out models/atelier

World version {{ world }}, recipe `{{ recipe }}`: {{ options }}.
Weights are float16 safetensors, {{ "%.1f"|format(megabytes) }} MB in all. Networks are float32 when loaded.

## Accuracies
{{ options.unseen }} rendered pictures that no judge has seen, right in per cent (bar {{ bars.judge }}):
{% for name, value in judges.items() %}- {{ name }}: {{ value }}
{% endfor %}- descriptor, nearest style prototype: {{ descriptor }}
- clip, own caption among 32: {{ clip }}

{{ options.samples }} guided samples (DDIM, {{ settings.steps }} steps, guidance {{ settings.guidance }}; captions of unseen rows), right in
per cent as the judges see it:
{% for name, value in samples.items() %}- {{ name }}: {{ value }} (bar {{ bars[name] }})
{% endfor %}
{% if missed %}Bars that are missed: {{ missed|join("; ") }}.{% else %}All bars are met.{% endif %}

`reconstructions.png`: rendered pictures, and what the autoencoder makes of them.
`samples.png`: rendered pictures, and guided samples of the plainest captions. Rows are styles, columns contents.

## Cost
CPU seconds of all {{ threads }} threads together ({{ cpu }}); half of it is the time on a machine that does nothing else:
{% for name, value in seconds.items() %}- {{ name }}: {{ value }}
{% endfor %}
Peak memory {{ memory }} MB.
"""


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
    pipeline = bundle.make_pipeline(state, vae, rows, pictures, recipe.pipeline_steps, 64, recipe.seed)
    lap("pipeline")
    steps = {k.removesuffix("_steps"): v for k, v in asdict(recipe).items() if k.endswith("_steps")}
    judges = bundle.make_judges(state, *seen, steps, recipe.seed)
    lap("judges")

    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    bundle.export(part, pipeline, judges)  # rounds the weights to float16: what is measured is what is shipped
    asked = judge_rows(recipe.samples, recipe.seed + 1, unseen=True)
    drawn = quality.sample(pipeline, [row["text"] for row in asked], first_seed=10_000, workers=threads)
    measured = {
        "judges": quality.judge_accuracy(judges, *unseen),
        "descriptor": quality.descriptor_accuracy(
            judges["descriptor"], unseen[1], bundle.label_ids(unseen[0], "style")
        ),
        "clip": quality.clip_accuracy(
            judges["clip"], bundle.token_ids(pipeline["tokenizer"], [r["text"] for r in unseen[0]]), unseen[1]
        ),
        "samples": quality.sample_accuracy(judges, asked, drawn),
    }
    quality.sample_sheet(pipeline, 1).save(part / "samples.png", optimize=True)
    quality.reconstruction_sheet(vae, 1).save(part / "reconstructions.png", optimize=True)
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
    write_text(part / "CARD.md", jinja2.Template(CARD).render(megabytes=megabytes, **facts))
    write_json(
        part / "bundle.json", facts | {"code": record.code_revision(), "packages": record.versions(), "files": weights}
    )
    bundle.replace(part, out)
    print("\n".join(facts["missed"]) or "all bars are met")


def _cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    return sum(os.times()[:4])
