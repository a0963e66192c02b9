"""Deletes results that no params file wants any more.

Results stay when their recipe changes, so that going back costs nothing. This removes, in the experiments of the given
params files, every result folder whose address is in none of their plans, and what killed runs left beside them.
Experiments that no given file names are not touched.

    python -m lethe.collect params.yaml [params/own.yaml ...] [--dry-run]
"""

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from lethe import cli, options
from lethe.errors import UserError
from lethe.graph import RESULTS, Plan
from lethe.plan import build

LOCKS = Path(".snakemake/locks")


def unwanted(plans: Iterable[Plan]) -> list[Path]:
    """Folders and plan files under results/ that belong to the plans' experiments and stand in none of the plans."""
    plans = list(plans)
    wanted = {Path(path) for plan in plans for path in (*plan.nodes, plan.file)}
    found = []
    for experiment in sorted({plan.params["experiment"] for plan in plans}):
        found += (RESULTS / experiment).glob("plans/*")
        found += (path for path in (RESULTS / experiment).glob("*/*/*") if path.is_dir())
    return sorted(set(found) - wanted)


def size_mb(path: Path) -> float:
    """Size of a file or a folder, in MB."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 2**20


def main() -> None:
    made = argparse.ArgumentParser(prog="python -m lethe.collect", description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, nargs="+", help="params files whose results stay")
    made.add_argument("--dry-run", action="store_true", help="list what would be deleted, delete nothing")
    args = made.parse_args()
    found = unwanted([build(options.load(path)) for path in args.params])
    if not args.dry_run and LOCKS.is_dir() and any(LOCKS.iterdir()):
        raise UserError(f"{LOCKS}: a workflow runs here; wait for it, or after a crash call `snakemake --unlock` first")
    total = 0.0
    for path in found:
        size = size_mb(path)
        total += size
        print(f"{path} ({size:.1f} MB)")
        if not args.dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{len(found)} {'to delete' if args.dry_run else 'deleted'}, {total:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
