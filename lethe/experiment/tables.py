"""Makes the whole report of an experiment: Snakemake's run of everything that is not there yet, told in short.

python -m lethe.experiment.tables params.yaml
"""

import argparse
import os
import sys
from pathlib import Path

from lethe.files.errors import UserError
from lethe.params import options
from lethe.params.recipe import REPORTS, RESULTS
from lethe.stage import cli


def renew(experiment: str) -> None:
    """A committed report is good as it stands, so a clone without its results would make nothing: its stamp goes."""
    if not (RESULTS / experiment).is_dir():
        for stamp in (REPORTS / experiment).glob("recipe-*.json"):
            stamp.unlink()


def environment() -> dict[str, str]:
    """Ours, in which Snakemake finds the logger in rules/."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, ["rules", os.environ.get("PYTHONPATH")]))}


def prefer_own_python() -> None:
    """Jobs say `python`: from here on that is this one, whether or not its environment was activated."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def main() -> None:
    made = argparse.ArgumentParser(prog=cli.prog("lethe.experiment.tables"), description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="params file")
    made.add_argument("--cores", default="all", help="jobs at once, a core each, or all (default)")
    args = made.parse_args()
    if not Path("Snakefile").is_file():
        raise UserError(f"{Path.cwd()}: no Snakefile here; the workflow runs in a checkout of lethe: go there first")
    renew(options.load(args.params)["experiment"])
    words = ["snakemake", "--cores", args.cores, "--logger", "lethe", "--config", f"params={args.params}"]
    os.execve(sys.executable, [sys.executable, "-m", *words], environment())  # signals reach Snakemake itself


if __name__ == "__main__":
    cli.run(main)
