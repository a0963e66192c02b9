"""One real experiment, small, from encoding to scores, in each precision: that every stage runs on this device at all.

Results land in results/ as any experiment's; FILE tells of each its seconds, its memory and, of scores, their values.
It is written anew after every result; one that fails is told with its reason, and so are those that need it.

    python -m lethe.atelier.splits --out data/atelier --world 1 --lists 2
    python -m lethe.bench.chain --device cuda --seconds 90 --out FILE.json
"""

import argparse
import copy
import importlib
import sys
import time
from pathlib import Path

from lethe.experiment import plan
from lethe.experiment.graph import Node, arguments
from lethe.files import io
from lethe.params import options
from lethe.stage import cli, record

PARAMS = Path(__file__).parents[2] / "params.yaml"
ARMS = ["distill", "bilevel", "esd"]
PRECISIONS = ("float32", "bfloat16")


def experiment(precision: str, steps: int) -> dict:
    """The default experiment, cut down: three arms, few steps, the short prompt lists."""
    found = copy.deepcopy(options.load(PARAMS))
    found["experiment"] = f"chain_{precision}"
    found["grid"]["arms"], found["tables"] = ARMS, {}
    found["distill"] |= {"steps": steps, "precision": precision}
    found["sample"]["precision"] = precision
    for holder, key in [(found["prompts"], "retain"), (found["prompts"], "eval")] + [
        (concept, "prompts") for concept in found["concepts"].values()
    ]:
        path = Path(holder[key])
        holder[key] = str(path.parent / "tuning" / path.name)
    return found


def made(node: Node, device: str) -> dict[str, object]:
    """Runs a node's stage in this process, as its command would, and tells what came out."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    before = sys.argv
    sys.argv = [node.stage, *arguments(node), "--device", device]
    started = time.monotonic()
    try:
        importlib.import_module(f"stages.{node.stage}").main()
    finally:
        sys.argv = before
    found = {"seconds": round(time.monotonic() - started, 2), **_of_meta(io.read_meta(node.folder))}
    if node.stage == "score":
        metrics = io.read_json(node.folder / "metrics.json")
        found["metrics"] = {name: value.get("value") for name, value in metrics.items() if isinstance(value, dict)}
    return found


def _of_meta(meta: dict) -> dict[str, object]:
    """What a result tells of its cost."""
    keys = ("peak_memory_mb", "latency_ms", "unet", "pictures", "budget")
    return {key: meta[key] for key in keys if key in meta}


def main() -> None:
    made_parser = argparse.ArgumentParser(prog="python -m lethe.bench.chain", description=__doc__.split("\n")[0])
    made_parser.add_argument("--out", type=Path, required=True, help="JSON file")
    made_parser.add_argument("--device", default="auto", help="of the stages (default: auto)")
    made_parser.add_argument("--steps", type=int, default=200, help="training steps (default: 200)")
    made_parser.add_argument("--seconds", type=float, default=0.0, help="begin no result later; 0: all (default)")
    args = made_parser.parse_args()
    ends = time.monotonic() + args.seconds if args.seconds else float("inf")
    rows: list[dict[str, object]] = []
    found = {"cpu": record.cpu_name(), "packages": record.versions(), "steps": args.steps, "results": rows}
    for precision in PRECISIONS:
        failed: set[str] = set()
        for node in plan.build(experiment(precision, args.steps)).nodes.values():
            row: dict[str, object] = {"precision": precision, "stage": node.stage, "arm": node.arm, "result": node.key}
            broken = [parent for parent in node.made_from if str(parent.folder) in failed]
            if broken or time.monotonic() > ends:
                row["not_made"] = f"{broken[0].stage} is not there" if broken else "out of time"
                failed.add(str(node.folder))
            else:
                try:
                    row |= made(node, args.device)
                except Exception as error:
                    row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
                    failed.add(str(node.folder))
            rows.append(row)
            print(
                {key: row.get(key) for key in ("precision", "stage", "arm", "seconds", "failed", "not_made")},
                flush=True,
            )
            io.write_json(args.out, found)
    good = sum("seconds" in row for row in rows)
    print(f"{args.out}: {good} of {len(rows)} results made")


if __name__ == "__main__":
    cli.run(main)
