"""Where an experiment stands: for each arm its results that are done, running, failed, stopped or waiting; and what is
stale. Read from the plan, the finished folders and the jobs' logs; nothing is changed.

    python -m lethe.experiment.status params.yaml
"""

import argparse
from collections import Counter
from pathlib import Path

from lethe.experiment.collect import LOCKS, unwanted
from lethe.experiment.graph import Node
from lethe.experiment.plan import build
from lethe.params import options
from lethe.stage import cli

STATES = ("done", "running", "failed", "stopped", "waiting")
LOGS = Path("logs")


def log_of(node: Node) -> Path:
    """Where the workflow's rules put a job's output."""
    return LOGS / node.experiment / node.kind / node.arm / f"{node.folder.name}.log"


def state(node: Node, workflow: float | None) -> tuple[str, str]:
    """One of STATES, and a failed job's last line. `workflow`: when the one that runs here began, None if none does."""
    if Path(node.meta).is_file():
        return "done", ""
    log = log_of(node)
    if not log.is_file():
        return "waiting", ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    if last.startswith("error: ") or any(line.startswith("Traceback ") for line in lines):
        return "failed", last
    return "running" if workflow is not None and log.stat().st_mtime >= workflow else "stopped", last


def began() -> float | None:
    """When the workflow that holds Snakemake's locks here began; None if there is none."""
    times = [lock.stat().st_mtime for lock in LOCKS.glob("*")]
    return min(times) if times else None


def text(params: Path) -> str:
    """The whole answer."""
    plan = build(options.load(params))
    arms: dict[str, Counter[str]] = {}
    workflow, troubles = began(), []
    for node in plan.nodes.values():
        found, last = state(node, workflow)
        arms.setdefault("pictures" if node.kind == "encode" else node.arm, Counter())[found] += 1
        if found in ("failed", "stopped"):
            troubles.append(f"{found}: {node.folder}\n  {log_of(node)}: {last}")
    shown = [name for name in STATES if any(own[name] for own in arms.values())]
    wide = max(len(arm) for arm in arms)
    done = sum(own["done"] for own in arms.values())
    report = "the report is that of this params file" if Path(plan.stamp).is_file() else "no report of this params file"
    lines = [f"{plan.params['experiment']} ({params}): {done} of {len(plan.nodes)} results done; {report}"]
    lines += [" ".join([" " * wide, *(f"{name:>8}" for name in shown)])]
    for arm, own in arms.items():
        lines.append(" ".join([f"{arm:<{wide}}", *(f"{own[name] or '':>8}" for name in shown)]).rstrip())
    stale = unwanted([plan])
    if stale:
        troubles.append(f"stale: {len(stale)} results of other values; `make gc DRY_RUN=1` lists them")
    return "\n".join(lines + troubles)


def main() -> None:
    made = argparse.ArgumentParser(prog=cli.prog("lethe.experiment.status"), description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="params file")
    print(text(made.parse_args().params))


if __name__ == "__main__":
    cli.run(main)
