"""Deletes results that no params file wants any more.

Results stay when their recipe changes, so that going back costs nothing. This removes, in the experiments of the given
params files, every result folder whose address is in none of their plans, what killed runs left beside them, states for
resuming that nobody will go on from, and hashes of files that are gone. Experiments that no given file names are not
touched.

    python -m lethe.experiment.collect params.yaml [params/own.yaml ...] [--dry-run]
"""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from lethe.experiment.graph import Plan
from lethe.experiment.plan import build
from lethe.files import hashes, io
from lethe.files.errors import UserError
from lethe.params import options
from lethe.params.recipe import REPORTS, RESULTS
from lethe.stage import alone, cli

LOCKS = Path(".snakemake/locks")
STATE, LOGS = Path("state"), Path("logs")


def unwanted(plans: Iterable[Plan]) -> list[Path]:
    """Folders and plan files under results/ that belong to the plans' experiments and stand in none of the plans."""
    plans = list(plans)
    wanted = {Path(path) for plan in plans for path in (*plan.nodes, plan.file)}
    found = []
    for experiment in sorted({plan.params["experiment"] for plan in plans}):
        found += (RESULTS / experiment).glob("plans/*")
        found += (path for path in (RESULTS / experiment).glob("*/*/*") if path.is_dir())
    return sorted(set(found) - wanted)


def forsaken(plans: Iterable[Plan]) -> list[Path]:
    """State folders of runs that were killed when their result stood already, or that no plan wants any more; and parts
    of reports. Jobs' logs tell which recipes were an experiment's."""
    plans, found = list(plans), []
    waiting = {node.recipe for plan in plans for node in plan.nodes.values() if not Path(node.meta).is_file()}
    known = {node.recipe for plan in plans for node in plan.nodes.values()}
    for experiment in {plan.params["experiment"] for plan in plans}:
        found += io.parts(REPORTS / experiment)
        logs = (LOGS / experiment).rglob("*.log")
        known |= {name[1] for log in logs if (name := re.search(r"-([0-9a-f]{10})\.log$", log.name))}
    return found + sorted(path for recipe in known - waiting if (path := STATE / recipe).is_dir())


def size_mb(path: Path) -> float:
    """What deleting a file or a folder frees, in MB: what another experiment links too stays on the disk."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files if p.stat().st_nlink == 1) / 2**20


def main() -> None:
    made = argparse.ArgumentParser(prog=cli.prog("lethe.experiment.collect"), description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, nargs="+", help="params files whose results stay")
    made.add_argument("--dry-run", action="store_true", help="list what would be deleted, delete nothing")
    args = made.parse_args()
    plans = [build(options.load(path)) for path in args.params]
    found = unwanted(plans) + forsaken(plans) + hashes.forsaken()
    if not args.dry_run and LOCKS.is_dir() and any(LOCKS.iterdir()):
        raise UserError(f"{LOCKS}: a workflow runs here; wait for it, or after a crash call `snakemake --unlock` first")
    if not args.dry_run and (working := alone.held()):
        raise UserError(f"{working}: held by a stage that works here; wait for it, or end it first")
    total = 0.0
    for path in found:
        size = size_mb(path)
        total += size
        print(f"{path} ({size:.1f} MB)")
        if not args.dry_run:
            io.remove(path)
    print(f"{len(found)} {'to delete' if args.dry_run else 'deleted'}, {total:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
