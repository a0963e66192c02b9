"""Heals a pruned U-Net and makes it forget concepts, in one run: distillation below, suppression above.

In: a base model, its pruned U-Net, encoded pictures, encoded pictures of each concept.
Out: unet/, log.csv, meta.json.
A run that was stopped goes on from its last checkpoint when the same command is given again.

    python -m stages.bilevel --base models/atelier/pipeline --pruned out/pruned --data out/finetune \\
        --concepts monet=out/monet picasso=out/picasso --out out/bilevel
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lethe.erasing import guidance
from lethe.files.io import result_folder, write_text
from lethe.models import pipelines, unets
from lethe.params import registry
from lethe.params.options import check_losses, check_rounds
from lethe.params.recipe import of_model, of_result, recipe
from lethe.stage import cli
from lethe.stage.parents import check as check_parents
from lethe.stage.record import Budget, Recorder
from lethe.stage.reuse import settled

VERSION = 2


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, trains; raises UserError before anything is loaded
    if the inputs are wrong."""
    made = cli.parser("bilevel", __doc__)
    cli.add_base(made)
    made.add_argument("--pruned", type=Path, required=True, help="result of stage prune")
    made.add_argument("--data", type=Path, required=True, help="result of stage encode: the fine-tuning pictures")
    made.add_argument(
        "--concepts", nargs="+", required=True, metavar="NAME=FOLDER", help="results of stage encode: what to forget"
    )
    cli.add_training(made)
    cli.add_section(made, "distill")
    plugins = cli.early_plugins("bilevel", words)
    cli.add_section(made, "bilevel", *plugins)
    args = made.parse_args(words)
    values = cli.section_values(args, "distill") | cli.section_values(args, "bilevel", *plugins)
    check_losses(values)
    check_rounds(values, values)
    options = {"seed": args.seed, **values}
    pipelines.check_base(args.base, args.revision)
    guidance.check_unet_alone(args.pruned, "--pruned")
    named = cli.named_paths(args.concepts, "--concepts")
    concepts = {name: named[name] for name in sorted(named)}  # their order is no part of the recipe
    folders = {"pruned": args.pruned, "data": args.data} | {f"concept:{name}": path for name, path in concepts.items()}
    parents = {"base": of_model(args.base, args.revision)} | {role: of_result(path) for role, path in folders.items()}
    mine = recipe("bilevel", VERSION, options, parents)
    if settled(args.out, mine, args.dry_run):
        return
    check_parents(folders, args.base)
    if args.dry_run:
        print(f"would train {args.pruned} for {values['steps']} steps into {args.out}, recipe {mine}")
        return

    recorder = Recorder("bilevel", VERSION, mine, options, {"base": Path(args.base), **folders})
    device = cli.device(args)
    from lethe.training import finetune, loop, upper_sources

    budgets = {"lower": Budget(), "upper": Budget()}
    keeping = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_seconds)
    setting = finetune.prepare(args.base, args.revision, args.pruned, args.data, values, device, concepts)
    shared = (setting.schedule, values, args.seed)
    lower = finetune.lower(setting.teacher, setting.data, *shared, budgets["lower"])
    suppression = registry.get("suppressions", values["suppression"])
    source = upper_sources.find(setting, values, args.seed, budgets["upper"])
    upper = finetune.upper(setting, source, suppression, values, args.seed, budgets["upper"])
    training = registry.get("solvers", values["solver"]).solve(setting.student, lower, upper, values)
    progress = loop.run(training, values["steps"], keeping, budgets, values["ema"])
    recorder.started -= progress.seconds
    with result_folder(args.out) as part:
        unets.save_unet(setting.student, unets.read_pruning(args.pruned), part)
        write_text(part / loop.LOG, loop.log_text(progress.rows))
        levels = {name: asdict(budget) for name, budget in budgets.items()}
        recorder.write(part, budget=budgets["lower"] + budgets["upper"], device=str(device), levels=levels)
    loop.forget(keeping)
    print(f"{args.out}: {values['steps']} steps")


if __name__ == "__main__":
    cli.run(main)
