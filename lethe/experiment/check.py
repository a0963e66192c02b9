"""What an experiment needs, has and costs, told in seconds, before the first job. Nothing is made or fetched.

    python -m lethe.experiment.check params/paper-sd21.yaml            # or: lethe check params/paper-sd21.yaml
    python -m lethe.experiment.check params/paper-sd21.yaml --hash     # reads all bytes whose hashes are not kept yet

Exit code 1 if something is missing that stops the first job: each such thing has a line that says how to get it. A
network that only measures stops nothing; its metrics are left out.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lethe.experiment import rates, resources
from lethe.experiment.given import Given, look_over, roughly
from lethe.experiment.graph import Node
from lethe.experiment.inventory import Item, items
from lethe.experiment.plan import collect, runs
from lethe.files import hashes
from lethe.files.errors import UserError
from lethe.files.io import META
from lethe.params import options, recipe
from lethe.stage import cli

SMALL = 2**30  # bytes that are hashed without being asked for: some seconds
GRID = "grid"


def report(file: Path, read_all: bool) -> tuple[str, list[str]]:
    """The whole answer, and a line for each thing that stops the first job.

    `read_all`: hash what is not hashed yet. Raises UserError for params that are not legal.
    """
    params = options.load(file)
    found = items(params)
    problems = [item.problem for item in found if item.problem]
    unread = sum(item.unread for item in found)
    exact = not problems and (read_all or unread <= SMALL)
    given = roughly(params)
    if exact:
        try:
            given = look_over(params)
        except UserError as error:
            problems, exact = [str(error)], False
    try:
        tables = of_tables(given)
    except UserError as error:  # a table's values, or templates, that the params' own rules do not know
        problems, tables = [*problems, str(error)], {}
    lines = [f"{params['experiment']} ({file})", "", "What it names"]
    lines += aligned(_listed(found, read_all))
    base = next(item for item in found if item.key == "base.path")
    lines += _hashed(params) if read_all and not base.problem else []
    lines += ["", *_jobs(tables, exact)]
    lines += ["", *_costs(params, tables, _counts(found))]
    if not exact and not problems:
        held = ", nor is base.sha256 held against the files" if params["base"].get("sha256") else ""
        lines += [
            "",
            f"{_size(unread)} are not hashed yet, so which results are done is not told{held}; --hash reads them",
        ]
    lines += ["", "What stops the first job", *(f"  {line}" for line in problems)] if problems else []
    return "\n".join(lines), problems


def of_tables(given: Given) -> dict[str, dict[str, Node]]:
    """Table -> all jobs behind its rows, by folder; tables share jobs."""
    found: dict[str, dict[str, Node]] = {}
    for run in runs(given):
        collect(run.metrics, found.setdefault(run.table or GRID, {}))
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as columns of text, indented; the last column is as wide as it is."""
    wide = [max((len(row[i]) for row in rows), default=0) for i in range(len(rows[0]) - 1)] if rows else []
    return [
        "  " + "  ".join([*(f"{c:<{w}}" for c, w in zip(row, wide, strict=False)), row[-1]]).rstrip() for row in rows
    ]


def _listed(found: Iterable[Item], read_all: bool) -> list[list[str]]:
    rows = []
    for item in found:
        if not item.name:
            continue
        size = "missing" if item.problem else _size(item.sizes[0]) if item.sizes else "–"
        count = f"{item.rows:,}" if item.rows is not None else ""
        told = item.note
        if item.files and not item.problem:
            own = _identity(item) if read_all or not item.unread else f"{_size(item.unread)} not hashed"
            told = "; ".join(filter(None, (own, item.note)))
        rows.append([item.key, item.name, size, count, told])
    return rows


def _identity(item: Item) -> str:
    """What counts in addresses."""
    folder = Path(item.files or item.name)
    if item.key.startswith("pictures.") or item.key.endswith(".pictures"):
        return recipe.of_pictures(folder, None)
    return recipe.of_result(folder) if (folder / META).is_file() else recipe.of_folder(folder)


def _hashed(params: dict) -> list[str]:
    """The base's weights as `base.sha256` may have them."""
    folder = Path(params["base"]["path"])
    if not folder.is_dir():
        return []
    known = {name: own for name, (_, own) in hashes.of_files(folder).items() if name.endswith(".safetensors")}
    return ["", "As base.sha256 may have it", *(f"    {name}: {own}" for name, own in known.items())]


def _jobs(tables: dict[str, dict[str, Node]], exact: bool) -> list[str]:
    nodes = _all(tables)
    known, counted = resources.of_rules(), Counter(node.stage for node in nodes.values())
    done = Counter(node.stage for node in nodes.values() if exact and Path(node.meta).is_file())
    rows = [["stage", "jobs", "done", "GPU", "memory", "time at most"]]
    for stage, count in counted.items():
        own = known.get(stage)
        asked = (
            [str(own.gpu), f"{(own.mem_mb or 0) / 1000:g} GB", f"{(own.minutes or 0) / 60:g} h"] if own else ["?"] * 3
        )
        rows.append([stage, str(count), str(done[stage]) if exact else "?", *asked])
    told = "" if known else " (the rules are not beside this package)"
    return [f"Jobs: {len(nodes)}, then the report; what one asks for{told}", *aligned(rows)]


def _costs(params: dict, tables: dict[str, dict[str, Node]], counts: dict[str, int]) -> list[str]:
    """GPU-hours of each table, by measured rates alone, a block a device."""
    measured = rates.measured(params["base"])
    if not measured:
        return [f"GPU-hours: not measured for such a base at this resolution ({rates.BENCH} has others)"]
    lines = []
    for own in measured:
        rows = [["table", "GPU-hours", "jobs measured", "not measured"], *hours(tables, own, counts)]
        lines += [f"GPU-hours on {own.device}, from {own.file}; a table's rows share jobs with others'", *aligned(rows)]
        if own.wide:
            lines += [f"  Of uncertain rate, as other measurements lie far from the median: {', '.join(own.wide)}"]
    return lines


def hours(tables: dict[str, dict[str, Node]], own: rates.Rates, counts: dict[str, int]) -> list[list[str]]:
    """A row a table, and one of all: its name, GPU-hours of jobs that were measured, how many, and which were not."""
    rows = []
    for name, nodes in {**tables, "all of it": _all(tables)}.items():
        times = {folder: rates.seconds(node, own, counts) for folder, node in nodes.items()}
        sums = [time for time in times.values() if time is not None]
        lacking = Counter(nodes[folder].stage for folder, time in times.items() if time is None)
        left = ", ".join(f"{stage} {count}" for stage, count in lacking.items())
        rows.append([name, f"{sum(sums) / 3600:.1f}" if sums else "–", f"{len(sums)} of {len(nodes)}", left or "–"])
    return rows


def _all(tables: dict[str, dict[str, Node]]) -> dict[str, Node]:
    return {folder: node for nodes in tables.values() for folder, node in nodes.items()}


def _counts(found: Iterable[Item]) -> dict[str, int]:
    """Rows of prompt lists and picture folders, by path."""
    return {item.name: item.rows for item in found if item.rows is not None and item.name != "null"}


def _size(count: int) -> str:
    power = next((power for power in (0, 1, 2) if count < 1000 ** (power + 1)), 3)
    return f"{count / 1000**power:.{1 if power == 3 else 0}f} {('B', 'KB', 'MB', 'GB')[power]}"


def main() -> None:
    made = argparse.ArgumentParser(
        prog=cli.prog("lethe.experiment.check"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="params file")
    made.add_argument("--hash", action="store_true", help="read all bytes whose hashes are not kept yet")
    args = made.parse_args()
    text, problems = report(args.params, args.hash)
    print(text)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
