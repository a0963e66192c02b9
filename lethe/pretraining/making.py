"""Makes a base from a picture set, measures it, and writes its card."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import jinja2
import torch

from lethe.files.io import remove, sha256, write_json, write_text
from lethe.pretraining import autoencoder, bundle, diffusion, judging, pictures, quality
from lethe.pretraining.networks import SIZE
from lethe.pretraining.recipe import Recipe
from lethe.stage import record

TEMPLATE = Path(__file__).with_name("card.md.j2")
SHOWN = 36  # pairs on a sheet


def make(
    out: Path,
    state: Path,
    source: Path,
    weights: Path,
    recipe: Recipe,
    name: str,
    device: torch.device,
    seconds: float | None,
    graphs: bool,
) -> None:
    """Trains whatever is missing in `state`, writes the bundle beside `out`, measures it, and puts it in its place.

    `weights`: the ImageNet trunk of the judges. `seconds`: of training in all, in place of the recipe's steps.
    """
    started = time.monotonic()
    found_set = pictures.read(source, SIZE, recipe.hold_out / 100, recipe.contents or None)
    print(f"{len(found_set.rows)} pictures, {int(found_set.held.sum())} held out, {time.monotonic() - started:.1f} s")
    left = None if seconds is None else seconds - (time.monotonic() - started)
    parts = bundle.Parts(found_set, recipe, state, device, weights, left, graphs)
    found = parts.make()

    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    bundle.export(part, found, parts.labels)  # rounds the weights: what is measured is what is shipped
    print(f"exported, {time.monotonic() - started:.1f} s", flush=True)
    clock = time.monotonic()
    told = measured(parts, found, part)
    missed = quality.missed(told["samples"])
    facts = {
        "recipe": name,
        "options": asdict(recipe),
        "source": source.name,
        "rows": len(found_set.rows),
        "contents": len(found_set.contents),
        "styles": found_set.styles,
        "pairs": len({(row.style, row.content) for row in found_set.rows}),
        "held": len({(r.style, r.content) for r, held in zip(found_set.rows, found_set.held, strict=True) if held}),
        **told,
        "bars": {f"{kind} {what}": bar for (kind, what), bar in quality.BARS.items()},
        "costs": parts.costs,
        "decided": seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else record.cpu_name(),
        "torch": torch.__version__,
        "memory": record.peak_memory_mb(),
        "settings": asdict(quality.SETTINGS),
        "missed": missed,
    }
    facts |= {"measuring": round(time.monotonic() - clock), "total": round(time.monotonic() - started)}
    weights_of = {str(p.relative_to(part)): sha256(p) for p in sorted(part.rglob("*")) if p.is_file()}
    megabytes = sum(p.stat().st_size for p in part.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6
    write_text(part / "CARD.md", jinja2.Template(TEMPLATE.read_text()).render(megabytes=megabytes, **facts))
    more = {"code": record.code_revision(), "packages": record.versions(), "files": weights_of}
    write_json(part / "bundle.json", facts | more)
    remove(out)
    part.rename(out)
    print("\n".join(missed) or "all bars are met", flush=True)


def measured(parts: bundle.Parts, found: bundle.Networks, folder: Path) -> dict[str, dict]:
    """Accuracies of judges and samples; sheets and the list of samples go into the folder."""
    still = parts.still(parts.pixels)
    rows = quality.asked(parts)
    own = quality.judged(parts, found)
    held = parts.held.nonzero()[:, 0]
    ids = parts.captions.ids[parts.captions.grounds[held, 0]]
    share = judging.caption_accuracy(found["clip"], still[held], ids)
    own["text-image, own caption among 32, held-out pairs"] = None if share is None else round(100 * share, 2)
    both = torch.nn.ModuleDict({"unet": found["unet"], "text_encoder": found["text_encoder"]})
    latents = diffusion.latents(found["vae"], parts.pixels, 2, parts.recipe.seed + 1)
    losses = {}
    for kind, some in {"seen": parts.seen, "held": held}.items():
        if not len(some):
            continue
        job = diffusion.job(both, found["scheduler"], latents, parts.captions, some, parts.recipe.pipeline_batch)
        losses[kind] = round(diffusion.loss_on(job, 4, parts.recipe.seed + 2), 5)
    both.eval()
    print(own, losses, flush=True)
    texts = [parts.pictures.rows[row].text for row in rows]
    drawn = quality.sample(found, texts)
    samples, listed = quality.drawn_right(parts, found, rows, drawn)
    print(samples, flush=True)
    write_text(folder / "samples.csv", listed)
    real = quality.on_white(parts.pictures.pixels)
    kinds = {"samples": False, "held_out": True}
    for name, wanted in kinds.items():
        own_rows = [i for i, row in enumerate(rows) if parts.pictures.held[row] == wanted]
        chosen = own_rows[:: max(1, len(own_rows) // (1 + wanted) // SHOWN)][:SHOWN]
        if chosen:
            quality.sheet([(real[rows[i]], drawn[i]) for i in chosen], 6).save(folder / f"{name}.jpg", quality=85)
    spread = list(range(0, len(real), max(1, len(real) // SHOWN)))[:SHOWN]
    rebuilt = autoencoder.rebuilt(found["vae"], still[spread])[..., :3].cpu().numpy()
    pairs = list(zip(real[spread], rebuilt, strict=True))
    quality.sheet(pairs, 6).save(folder / "reconstructions.jpg", quality=85)
    return {"judges": own, "samples": samples, "losses": losses}
