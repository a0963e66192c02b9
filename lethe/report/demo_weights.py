"""The weights that the demo draws with, small enough to be committed: trained ones of an experiment in float16.

They lie beside the base model, in demo/ARM/, under the names of the results that they were taken from, whose addresses
say what they are. Made from finished results:

    python -m lethe.report.demo_weights params.yaml
"""

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from lethe.erasing import guidance
from lethe.experiment.graph import Node, Plan
from lethe.experiment.plan import build
from lethe.files import io
from lethe.files.errors import UserError
from lethe.models import headers, unets
from lethe.params import options
from lethe.params.recipe import of_result, recipe
from lethe.stage import cli
from lethe.stage.record import Recorder

VERSION = 1
OPTIONS = {"precision": "float16"}
ROWS = ("base", "distill", "uce", "bilevel", "bilevel ours")  # what the demo draws, where an experiment has it


def rows(plan: Plan) -> dict[str, Node | None]:
    """Row of the report -> its weights, None of the base model: those of ROWS that the plan has, in its first set,
    budget and seed."""
    found: dict[str, Node | None] = {}
    for row in plan.rows:
        name = " ".join([row["arm"], *row["labels"].values()])
        if name in ROWS and row["attack"] is None and name not in found:
            found[name] = plan.nodes[row["weights"][-1]] if row["weights"] else None
    return {name: found[name] for name in ROWS if name in found}


def trained(nodes: Iterable[Node | None]) -> list[Node]:
    """Those that a demo cannot make on the spot: all but what an eraser does to weights."""
    return [node for node in nodes if node and node.stage != "erase"]


def small(plan: Plan, node: Node) -> Path:
    """Where the small weights of a result lie."""
    return Path(plan.params["base"]["path"]).parent / "demo" / node.arm / node.folder.name


def shrink(folder: Path, base: str, out: Path) -> None:
    """Writes a finished weights folder again, its U-Net in float16; meta.json holds that of the original, too.

    Raises UserError if it is not finished, damaged, or forgets by more than its U-Net.
    """
    origin = io.read_meta(folder)
    guidance.check_unet_alone(folder, "weights")
    mine = recipe("shrink", VERSION, OPTIONS, {"weights": of_result(folder)})
    if io.is_finished(out, mine):
        return
    from lethe.files import tensors

    unet = unets.load_unet(folder)
    recorder = Recorder("shrink", VERSION, mine, OPTIONS, {"base": Path(base), "weights": folder})
    with io.result_folder(out) as part:
        shutil.copytree(folder / "unet", part / "unet", ignore=shutil.ignore_patterns("*.safetensors"))
        state = {key: value.half() for key, value in unet.state_dict().items()}
        tensors.save(part / "unet" / f"{headers.WEIGHTS['unet']}.safetensors", state, {"format": "pt"})
        recorder.write(part, origin={key: value for key, value in origin.items() if key != "files"})


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog=cli.prog("lethe.report.demo_weights"))
    made.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="params file")
    plan = build(options.load(made.parse_args().params))
    base = plan.params["base"]["path"]
    if not Path(base).is_dir():
        raise UserError(f"base.path: {base} is no folder, so nothing can lie beside it")
    for node in trained(rows(plan).values()):
        shrink(node.folder, base, small(plan, node))
        print(f"{small(plan, node)}: {node.folder} in float16")


if __name__ == "__main__":
    cli.run(main)
