"""Erases concepts from a U-Net: the second stage of the two-stage arms, if that U-Net was fine-tuned before.

In: a base model, and weights if it is not the base model's own U-Net that is to forget.
Out: unet/, log.csv if the eraser trains, meta.json.
A run that was stopped goes on from its last checkpoint when the same command is given again.

    python -m stages.erase --params params.yaml --base models/atelier/pipeline --eraser esd --model out/distill \\
        --concepts '{"monet": {"prompt": "a painting by monet", "anchor": "a painting"}}' --seed 0 --out out/esd
"""

import json
from pathlib import Path

from lethe import cli, models, registry
from lethe.errors import UserError
from lethe.io import is_finished, read_json, result_folder, write_text
from lethe.recipe import of_model, of_result, recipe
from lethe.record import Budget, Recorder

VERSION = 1


def main() -> None:
    made = cli.parser("erase", __doc__)
    cli.add_base(made)
    cli.add_resolution(made)
    made.add_argument("--eraser", required=True, help=f"one of {', '.join(registry.names('erasers'))}")
    made.add_argument(
        "--model", type=Path, help="weights folder, such as a result of stage distill; without it, the base model"
    )
    made.add_argument("--concepts", required=True, help="JSON, or @FILE: {name: {prompt, anchor}}")
    cli.add_training(made)
    eraser = cli.early("eraser")
    plugin = ("erasers", registry.check("erasers", eraser)) if eraser else None
    if plugin:
        cli.add_section(made, f"erase_{eraser}", plugin)
    args = made.parse_args()
    args.resolution = cli.resolution(args)
    values = cli.section_values(args, f"erase_{eraser}", plugin)
    concepts = read_concepts(args.concepts)
    options = {"eraser": eraser, "seed": args.seed, "concepts": concepts, "resolution": args.resolution, **values}
    models.check_base(args.base, args.revision)
    models.check_resolution(args.base, args.resolution)
    parents = {"base": of_model(args.base, args.revision)} | ({"model": of_result(args.model)} if args.model else {})
    mine = recipe("erase", VERSION, options, parents)
    if is_finished(args.out, mine):
        print(f"{args.out}: finished, recipe {mine}")
        return
    if args.dry_run:
        names, model = ", ".join(concepts), args.model or args.base
        print(f"would erase {names} from {model} with {eraser} into {args.out}, recipe {mine}")
        return

    folders = {"base": Path(args.base)} | ({"model": args.model} if args.model else {})
    recorder = Recorder("erase", VERSION, mine, options, folders)
    device = cli.device(args)
    from lethe import loop

    parts = ["tokenizer", "text_encoder", "scheduler", "vae", *([] if args.model else ["unet"])]
    base = models.load_base(args.base, args.revision, parts)
    base.text_encoder.to(device)
    unet, budget = (models.load_unet(args.model) if args.model else base.unet).to(device), Budget()
    base.latent_shape = models.latent_shape(unet, base.vae, args.resolution)
    keeping = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_every)
    progress = registry.get("erasers", eraser).erase(unet, base, concepts, values, args.seed, keeping, budget)
    recorder.started -= progress.seconds
    with result_folder(args.out) as part:
        models.save_unet(unet, models.read_pruning(args.model) if args.model else None, part)
        if progress.rows:
            write_text(part / loop.LOG, loop.log_text(progress.rows))
        recorder.write(part, budget=budget, device=str(device))
    loop.forget(keeping)
    print(f"{args.out}: {', '.join(concepts)} erased with {eraser}")


def read_concepts(text: str) -> dict[str, dict[str, str]]:
    """{name: {prompt, anchor}} sorted by name, further keys dropped. Raises UserError if it is not that."""
    try:
        found = read_json(Path(text[1:])) if text.startswith("@") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--concepts: not JSON ({error}); give {{name: {{prompt, anchor}}}}, or @FILE") from None
    if not isinstance(found, dict) or not found:
        raise UserError("--concepts: names no concept; give {name: {prompt, anchor}}")
    for name, concept in found.items():
        for key in ("prompt", "anchor"):
            if not isinstance(concept, dict) or not isinstance(concept.get(key), str):
                raise UserError(f"--concepts: {name} has no text {key!r}; give {{name: {{prompt, anchor}}}}")
    return {name: {key: found[name][key] for key in ("prompt", "anchor")} for name in sorted(found)}


if __name__ == "__main__":
    cli.run(main)
