"""Draws a first look at an experiment: a prompt that is to be forgotten and one that must stay, by its main arms.

Weights are the experiment's results where they are finished, otherwise the small ones beside the base model
(`lethe.report.demo_weights`); what an eraser makes of them is made on the spot. All arms draw with the same seeds. What
was drawn once is not drawn again.

    python -m lethe.report.demo params.yaml
    python -m lethe.report.demo --forget "a boat by monet" --keep "a boat by cassatt"
"""

import argparse
import os
from pathlib import Path

from lethe.experiment.given import skips_empty
from lethe.experiment.graph import Node, Plan
from lethe.experiment.plan import build
from lethe.files import io
from lethe.files.errors import UserError
from lethe.params import options
from lethe.params.recipe import RESULTS, of_model, of_result
from lethe.report.demo_weights import rows, small
from lethe.stage import alone, cli
from lethe.texts.prompts import read_prompts

PLACE = RESULTS / "demo"
SETS = {"forget": ("to be forgotten", "erased"), "keep": ("to be kept", "kept")}  # title and tone in the sheet


def prompts(plan: Plan) -> dict[str, str]:
    """By set of SETS: the first prompt of the first erased concept; the first that must stay, of a neighbour if any."""
    name = next(iter(plan.params["grid"]["sets"].values()))[0]
    concept = plan.params["concepts"][name]
    skip = skips_empty(plan.params)
    kept = read_prompts(Path(plan.params["prompts"]["retain"]), skip)
    near = [row for row in kept if row.artist in concept["neighbours"]]
    return {"forget": read_prompts(Path(concept["prompts"]), skip)[0].prompt, "keep": (near or kept)[0].prompt}


def weights(plan: Plan, name: str, node: Node, machine: list[str]) -> Path:
    """The folder to draw a row with; if an eraser makes it, and it is not there, it is made now.

    `machine`: flags of stages. Raises UserError for weights that are nowhere.
    """
    for folder in (node.folder, small(plan, node)):
        if io.is_finished(folder):
            return folder
    parent = node.parents.get("model")
    if node.stage != "erase" or not isinstance(parent, Node):
        raise UserError(f"{name}: no weights at {node.folder}, nor at {small(plan, node)}; make them by lethe tables")
    model = weights(plan, name, parent, machine)
    out = PLACE / f"{name}-{io.digest([node.recipe, of_result(model)])}"
    words = [str(model) if word == str(parent.folder) else word for word in node.flags]
    with alone.alone(out):
        cli.run_stage("erase", [*words, "--out", str(out), *machine])
    return out


def write_prompts(path: Path, text: str, count: int) -> None:
    """A prompt CSV: one text, with seeds 0 to count - 1."""
    quoted = text.replace('"', '""')
    lines = [f'{number},"{quoted}",{number}' for number in range(count)]
    io.write_text(path, "\n".join(["case_number,prompt,evaluation_seed", *lines, ""]))


def draw(plan: Plan, texts: dict[str, str], count: int, machine: list[str]) -> Path:
    """The sheet: a row an arm, `count` pictures of each of `texts` ({set of SETS: text}), the same seed in a column.

    Pictures lie beside it, drawn by stage sample with the experiment's values in one tile.
    """
    base, values = plan.params["base"], plan.params["sample"] | {"tile": count * len(texts)}
    found = {name: weights(plan, name, node, machine) if node else None for name, node in rows(plan).items()}
    made_of = [of_result(folder) if folder else of_model(base["path"], base["revision"]) for folder in found.values()]
    place = PLACE / io.digest([texts, count, values, base["resolution"], made_of])
    for name, text in texts.items():
        write_prompts(place / f"{name}.csv", text, count)
    words = ["--base", base["path"], *(["--revision", base["revision"]] if base["revision"] else [])]
    words += [*cli.flags({"resolution": base["resolution"]} | values), *machine]
    words += ["--prompts", *(f"{name}={place / name}.csv" for name in texts)]
    samples = {name: place / name.replace(" ", "-") for name in found}
    for name, folder in found.items():
        print(f"{name}: {folder or base['path']}")
        with alone.alone(samples[name]):
            model = ["--model", str(folder)] if folder else []
            cli.run_stage("sample", [*words, *model, "--out", str(samples[name])])

    from lethe.report import grids

    keys = {name: tuple((name, number) for number in range(count)) for name in texts}
    sections = [grids.Section(*SETS[name], keys[name]) for name in texts]
    pictures = {name: grids.pictures(folder, sum(keys.values(), ())) for name, folder in samples.items()}
    sheet, part = place / "sheet.png", place / f"sheet.png.part-{os.getpid()}"
    grids.sheet(pictures, sections)[0].save(part, "PNG")
    os.replace(part, sheet)
    return sheet


def main() -> None:
    """Draws, and prints where the sheet is."""
    made = argparse.ArgumentParser(prog=cli.prog("lethe.report.demo"), description=__doc__.split("\n")[0])
    made.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="params file")
    made.add_argument("--forget", metavar="TEXT", help="prompt of an erased concept (default: the first one's first)")
    made.add_argument("--keep", metavar="TEXT", help="prompt that must stay (default: the first of a neighbour)")
    made.add_argument("--count", type=int, default=4, help="pictures of each prompt, with seeds from 0 (default: 4)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    args = made.parse_args()
    if not 1 <= args.count <= 16:
        raise UserError(f"--count: {args.count} is not between 1 and 16, what a sheet holds")
    plan = build(options.load(args.params))
    texts = prompts(plan) | {name: text for name in SETS if (text := getattr(args, name))}
    print(draw(plan, texts, args.count, ["--device", args.device]))


if __name__ == "__main__":
    cli.run(main)
