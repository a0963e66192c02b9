"""Fine-tunes a pruned U-Net under its dense teacher: diffusion loss, output and feature distillation.

In: a base model, its pruned U-Net, encoded pictures. Out: unet/, log.csv, meta.json.
A run that was stopped goes on from its last checkpoint when the same command is given again.

    python -m stages.distill --base models/atelier/pipeline --pruned out/pruned --data out/finetune --out out/distill
"""

from collections.abc import Sequence
from pathlib import Path

from lethe.erasing import guidance
from lethe.files.io import result_folder, write_text
from lethe.models import pipelines, unets
from lethe.params.options import check_losses
from lethe.params.recipe import of_model, of_result, recipe
from lethe.stage import cli
from lethe.stage.parents import check as check_parents
from lethe.stage.record import Budget, Recorder
from lethe.stage.reuse import settled

VERSION = 1


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, trains; raises UserError before anything is loaded
    if the inputs are wrong."""
    made = cli.parser("distill", __doc__)
    cli.add_base(made)
    made.add_argument("--pruned", type=Path, required=True, help="result of stage prune")
    made.add_argument("--data", type=Path, required=True, help="result of stage encode: the fine-tuning pictures")
    made.add_argument(
        "--teacher",
        type=Path,
        help="weights folder of the teacher, such as a result of erase; without it, the base",
    )
    cli.add_training(made)
    cli.add_section(made, "distill")
    args = made.parse_args(words)
    values = cli.section_values(args, "distill")
    check_losses(values)
    options = {"seed": args.seed, **values}
    pipelines.check_base(args.base, args.revision)
    guidance.check_unet_alone(args.pruned, "--pruned")
    if args.teacher:
        guidance.check_unet_alone(args.teacher, "--teacher")
    folders = {"pruned": args.pruned, "data": args.data} | ({"teacher": args.teacher} if args.teacher else {})
    parents = {"base": of_model(args.base, args.revision)} | {role: of_result(path) for role, path in folders.items()}
    mine = recipe("distill", VERSION, options, parents)
    if settled(args.out, mine, args.dry_run):
        return
    check_parents(folders, args.base)
    if args.dry_run:
        print(f"would distill {args.pruned} for {values['steps']} steps into {args.out}, recipe {mine}")
        return

    recorder = Recorder("distill", VERSION, mine, options, {"base": Path(args.base), **folders})
    device = cli.device(args)
    from lethe.training import finetune, loop

    budget = Budget()
    keeping = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_seconds)
    setting = finetune.prepare(args.base, args.revision, args.pruned, args.data, values, device, teacher=args.teacher)
    lower = finetune.lower(setting.teacher, setting.data, setting.schedule, values, args.seed, budget)
    training = finetune.solve(setting.student, lower, values)
    progress = loop.run(training, values["steps"], keeping, {"total": budget}, values["ema"])
    recorder.started -= progress.seconds
    with result_folder(args.out) as part:
        unets.save_unet(setting.student, unets.read_pruning(args.pruned), part)
        write_text(part / loop.LOG, loop.log_text(progress.rows))
        recorder.write(part, budget=budget, device=str(device))
    loop.forget(keeping)
    print(f"{args.out}: {values['steps']} steps")


if __name__ == "__main__":
    cli.run(main)
