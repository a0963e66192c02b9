"""Erases concepts from a U-Net: the second stage of the two-stage arms, if that U-Net was fine-tuned before.

In: a base model, and weights if it is not the base model's own U-Net that is to forget.
Some erasers read encoded pictures too, of the concepts or those of fine-tuning; they say so.
Out: unet/, log.csv if the eraser trains, guidance.json if it acts while sampling, meta.json.
A run that was stopped goes on from its last checkpoint when the same command is given again.

    python -m stages.erase --base models/atelier/pipeline --eraser esd --model out/distill \\
        --concepts '{"monet": {"prompt": "a painting by monet", "anchor": "a painting"}}' --out out/esd
"""

from collections.abc import Sequence
from pathlib import Path

from lethe.erasing.inputs import read_concepts, read_needs
from lethe.files.errors import needed
from lethe.files.io import result_folder
from lethe.models import pipelines, unets
from lethe.params import registry
from lethe.params.recipe import of_model, of_result, recipe
from lethe.stage import cli
from lethe.stage.parents import check as check_parents
from lethe.stage.record import Budget, Recorder
from lethe.stage.reuse import settled

VERSION = 2


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, erases; raises UserError before anything is loaded
    if the inputs are wrong."""
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
    eraser = cli.early("eraser", words=words)
    plugin = ("erasers", registry.check("erasers", eraser)) if eraser else None
    if plugin:
        cli.add_section(made, f"erase_{eraser}", plugin)
    args = made.parse_args(words)
    eraser = needed(eraser, "eraser")  # or else the parser has ended
    args.resolution = cli.resolution(args)
    values = cli.section_values(args, f"erase_{eraser}", plugin)
    concepts = read_concepts(args.concepts)
    options = {"eraser": eraser, "seed": args.seed, "concepts": concepts, "resolution": args.resolution, **values}
    pipelines.check_base(args.base, args.revision)
    pipelines.check_resolution(args.base, args.resolution)
    needs = registry.needs("erasers", eraser)
    folders = read_needs(eraser, needs, concepts, args.concept_pictures, args.data) | (
        {"model": args.model} if args.model else {}
    )
    parents = {"base": of_model(args.base, args.revision)} | {role: of_result(path) for role, path in folders.items()}
    mine = recipe("erase", VERSION, options, parents)
    if settled(args.out, mine, args.dry_run):
        return
    check_parents(folders, args.base)
    if args.dry_run:
        names, model = ", ".join(concepts), args.model or args.base
        print(f"would erase {names} from {model} with {eraser} into {args.out}, recipe {mine}")
        return

    recorder = Recorder("erase", VERSION, mine, options, {"base": Path(args.base), **folders})
    device = cli.device(args)
    from lethe.erasing import erased
    from lethe.training import loop

    base, unet = erased.prepare(args.base, args.revision, folders, args.resolution, device)
    budget = Budget()
    keeping = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_seconds)
    found = registry.get("erasers", eraser).erase(unet, base, concepts, values, args.seed, keeping, budget)
    with result_folder(args.out) as part:
        unets.save_unet(unet, unets.read_pruning(args.model) if args.model else None, part)
        erased.save(found, base, part)
        if found.progress:
            recorder.started -= found.progress.seconds
        recorder.write(part, budget=budget, device=str(device), eraser=found.facts)
    loop.forget(keeping)
    print(f"{args.out}: {', '.join(concepts)} erased with {eraser}")


if __name__ == "__main__":
    cli.run(main)
