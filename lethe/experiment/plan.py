"""The graph of one experiment: every result it needs, its address, and the command that makes it.

Planned from the params file before anything exists: what is missing or wrong shows before the first job.

    python -m lethe.experiment.plan params.yaml --out PLAN.json    # the plan of the report, as stages.report reads it
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lethe.experiment import tried
from lethe.experiment.given import Given, look_over, varied
from lethe.experiment.graph import Node, Plan, version
from lethe.experiment.scores import score
from lethe.files.errors import UserError
from lethe.files.io import digest, write_json
from lethe.params import options
from lethe.params.recipe import counting
from lethe.params.variation import points
from lethe.stage import cli


@dataclass(frozen=True)
class Run:
    """One row of a table; `table` is null and `labels` are empty for those of the grid. `attack`: the label of the one
    that its pictures were drawn under, null for those drawn as asked."""

    given: Given
    arm: str
    budget: float
    set: str
    seed: int
    table: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    attack: str | None = None

    @property
    def metrics(self) -> Node:
        """The scores that the row is read from; all else that it needs stands behind them."""
        return score(self.given, self.arm, self.budget, self.set, self.seed, self.attack)

    @property
    def own(self) -> dict:
        """What tells it from others; null where an arm has no such value."""
        return {
            "arm": self.arm,
            "table": self.table,
            "labels": self.labels,
            "attack": self.attack,
            "budget": None if self.arm == "base" else self.budget,
            "set": self.set,
            "seed": None if self.arm in ("base", "pruned") else self.seed,
        }


def grid(
    given: Given,
    arms: list[str],
    budgets: list,
    seeds: list,
    table: str | None = None,
    labels: dict[str, str] | None = None,
) -> Iterator[Run]:
    """Every run of some arms once."""
    for arm in arms:
        for budget in budgets[:1] if arm == "base" else budgets:
            for name in given.params["grid"]["sets"]:
                for seed in seeds[:1] if arm in ("base", "pruned") else seeds:
                    yield Run(given, arm, budget, name, seed, table, labels or {})


def runs(given: Given) -> Iterator[Run]:
    """Every run of the grid, then those of the tables; each that is attacked, once more for each attack behind it."""
    for run in plain(given):
        yield run
        for label in tried.labels(given.params, run.arm, run.table):
            yield replace(run, attack=label)


def plain(given: Given) -> Iterator[Run]:
    """Every run of the grid, then those of the tables."""
    params = given.params
    own = params["grid"]
    yield from grid(given, own["arms"], own["budgets"], own["seeds"])
    for name, table in params["tables"].items():
        budgets, seeds = table["budgets"] or own["budgets"], table["seeds"] or own["seeds"]
        for arm in table["of"]:
            for labels, changes in points(table):
                found = varied(given, changes, arm, f"tables.{name}")
                yield from grid(found, [arm], budgets, seeds, table=name, labels=labels)


def build(params: dict) -> Plan:
    """The whole plan. Raises UserError for a base model, prompt file or picture folder that is not there; networks that
    measure and are not there stand in `Plan.lacking`."""
    return of_given(look_over(options.validate(params)))


def of_given(given: Given) -> Plan:
    """The plan of an experiment that was looked over. Of a rough one (`given.roughly`) nodes can be counted, but their
    addresses are of paths in the place of contents."""
    nodes: dict[str, Node] = {}
    params, rows = given.params, []
    for run in runs(given):
        metrics = run.metrics
        samples = metrics.results["samples"]
        weights = samples.results.get("model")
        collect(metrics, nodes)
        chain = [node for node in (*_ancestors(weights), weights) if node.kind == "weights"] if weights else []
        paths = {"metrics": str(metrics.folder), "samples": str(samples.folder)}
        rows.append(run.own | paths | {"weights": list(dict.fromkeys(str(node.folder) for node in chain))})
    own = digest({"version": version("report"), "params": counting(params), "rows": rows})
    return Plan(params, nodes, rows, own, given.lacking)


def collect(node: Node, nodes: dict[str, Node]) -> None:
    """Adds a node and all that it is made from, by folder, parents first."""
    if str(node.folder) not in nodes:
        for parent in node.made_from:
            collect(parent, nodes)
        nodes[str(node.folder)] = node


def _ancestors(node: Node) -> list[Node]:
    return [found for parent in node.made_from for found in (*_ancestors(parent), parent)]


def main() -> None:
    made = argparse.ArgumentParser(prog=cli.prog("lethe.experiment.plan"), description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, help="params file")
    made.add_argument("--out", type=Path, help="file to write the report's plan to (default: print it)")
    args = made.parse_args()
    plan = build(options.load(args.params))
    if args.out is None:
        print(json.dumps(plan.as_json(), indent=2, ensure_ascii=False))
    elif args.out.stem != plan.recipe:
        raise UserError(f"{args.params}: has changed while the workflow ran (recipe {plan.recipe}); run it again")
    else:
        write_json(args.out, plan.as_json())


if __name__ == "__main__":
    cli.run(main)
