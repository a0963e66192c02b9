"""Tables, picture grids, curves and the page of an experiment.

In: the plan that the workflow writes (a JSON file: recipe, experiment, params, and a row for each run of the grid and
of each further table with its arm, table, labels, budget, set, training seed and the folders of its metrics, samples
and weights). Values that are not given are the plan's.
Out: tables/style.{csv,md,tex}, tables/style_paired.*, the same for every table of section tables (and <name>_matrix.*
where several arms stand on one axis), grids/, curves/, index.html, summary.json, and last recipe-<hash>.json, which
says that the report is whole. What stood in the folder is replaced.

    python -m lethe.experiment.plan params.yaml > plan.json
    python -m stages.report --plan plan.json --out reports/atelier
"""

from collections.abc import Sequence
from pathlib import Path

from lethe.files.errors import UserError
from lethe.params import options
from lethe.stage import cli

VERSION = 5


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, reports; raises UserError before anything is written
    if the inputs are wrong."""
    parser = cli.parser("report", __doc__)
    parser.add_argument("--plan", type=Path, required=True, help="JSON file of the workflow: every run of the report")
    parser.add_argument("--experiment", help="name of the experiment that the plan must be of (default: any)")
    cli.add_section(parser, "report")
    args = parser.parse_args(words)

    from lethe.report.plan import is_built
    from lethe.report.reading import read_plan  # pandas

    plan = read_plan(args.plan, args.experiment)
    options.validate(plan.params)
    values = cli.section_values(args, "report", under=plan.params["report"])
    if plan.params["report"] != values:
        raise UserError(f"{args.plan}: was written for report values {plan.params['report']}, the flags say {values}")

    if is_built(args.out, plan.recipe):
        print(f"{args.out}: report {plan.recipe} is there")
        return
    if args.dry_run:
        print(f"would report {len(plan.runs)} runs of {plan.experiment} to {args.out}")
        return
    from lethe.report.build import build

    build(plan, args.out, values["bootstrap"], values["grid_prompts"])
    print(f"{args.out / 'index.html'}: report {plan.recipe} of {len(plan.runs)} runs")


if __name__ == "__main__":
    cli.run(main)
