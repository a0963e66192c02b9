"""Erases concepts from a U-Net: the second stage of the two-stage arms, if that U-Net was fine-tuned before.

In: a base model, and weights if it is not the base model's own U-Net that is to forget.
Some erasers read encoded pictures too, of the concepts or those of fine-tuning; they say so.
Out: unet/, log.csv if the eraser trains, guidance.json if it acts while sampling, meta.json.
A run that was stopped goes on from its last checkpoint when the same command is given again.

    python -m stages.erase --params params.yaml --base models/atelier/pipeline --eraser esd --model out/distill \\
        --concepts '{"monet": {"prompt": "a painting by monet", "anchor": "a painting"}}' --seed 0 --out out/esd
"""

import json
from pathlib import Path

from lethe import cli, models, registry
from lethe.errors import UserError
from lethe.io import read_json, result_folder
from lethe.recipe import of_model, of_result, recipe
from lethe.record import Budget, Recorder
from lethe.reuse import settled
from lethe.wording import check_anchors

VERSION = 2


def main() -> None:
    made = cli.parser("erase", __doc__)
    cli.add_base(made)
    cli.add_resolution(made)
    made.add_argument("--eraser", required=True, help=f"one of {', '.join(registry.names('erasers'))}")
    made.add_argument(
        "--model", type=Path, help="weights folder, such as a result of stage distill; without it, the base model"
    )
    made.add_argument("--concepts", required=True, help="JSON, or @FILE: {name: {prompt, anchor}}")
    made.add_argument(
        "--concept-pictures",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="results of encode: the concepts' pictures",
    )
    made.add_argument("--data", type=Path, help="result of stage encode: the fine-tuning pictures")
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
    needs = registry.needs("erasers", eraser)
    folders = read_needs(eraser, needs, concepts, args.concept_pictures, args.data) | (
        {"model": args.model} if args.model else {}
    )
    parents = {"base": of_model(args.base, args.revision)} | {role: of_result(path) for role, path in folders.items()}
    mine = recipe("erase", VERSION, options, parents)
    if settled(args.out, mine, args.dry_run):
        return
    if args.dry_run:
        names, model = ", ".join(concepts), args.model or args.base
        print(f"would erase {names} from {model} with {eraser} into {args.out}, recipe {mine}")
        return

    recorder = Recorder("erase", VERSION, mine, options, {"base": Path(args.base), **folders})
    device = cli.device(args)
    from lethe import erasing, loop

    base, unet = erasing.prepare(args.base, args.revision, folders, args.resolution, device)
    budget = Budget()
    keeping = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_seconds)
    erased = registry.get("erasers", eraser).erase(unet, base, concepts, values, args.seed, keeping, budget)
    with result_folder(args.out) as part:
        models.save_unet(unet, models.read_pruning(args.model) if args.model else None, part)
        erasing.save(erased, base, part)
        if erased.progress:
            recorder.started -= erased.progress.seconds
        recorder.write(part, budget=budget, device=str(device), eraser=erased.facts)
    loop.forget(keeping)
    print(f"{args.out}: {', '.join(concepts)} erased with {eraser}")


def read_needs(name: str, needs: list[str], concepts: dict, pictures: list[str], data: Path | None) -> dict[str, Path]:
    """The encoded pictures that a plug-in needs, by role; others are left out. Raises UserError for missing ones."""
    found = cli.named_paths(pictures, "--concept-pictures") if "concepts" in needs else {}
    missing = [concept for concept in concepts if concept not in found] if "concepts" in needs else []
    if missing:
        raise UserError(f"--concept-pictures: {name} needs encoded pictures of {', '.join(missing)}: give NAME=FOLDER")
    if "data" in needs and not data:
        raise UserError(f"--data: {name} needs the fine-tuning pictures: give a result of stage encode")
    own = {f"concept:{concept}": found[concept] for concept in concepts if found}
    return ({"data": data} if "data" in needs else {}) | own


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
    check_anchors(found)
    return {name: {key: found[name][key] for key in ("prompt", "anchor")} for name in sorted(found)}


if __name__ == "__main__":
    cli.run(main)
