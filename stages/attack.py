"""Attacks erased weights: draws some of the prompts again, with what an attack gives the model in their place.

In: a base model and weights, or the base alone; the concepts and their prompt CSVs, of which --each rows at even steps
are drawn; what the attack needs: samples of the dense base, encoded pictures. Flags of section sample begin with
--sample-, the others are the attack's own (--attack NAME --help).
Out: images.tar, manifest.csv and sheet.jpg as of stage sample, with the rows' own prompts and seeds, so that pictures
before and after pair; attack.csv: the text that was given for each, and what the attack says of it; log.csv if it
trains; meta.json, whose budget is the attack's own, without the drawing.
A run that was stopped goes on from what the attack has kept when the same command is given again.

    python -m stages.attack --base models/atelier/pipeline --model out/esd --attack completion \\
        --concepts '{"monet": {"prompt": "a painting by monet", "anchor": "a painting"}}' \\
        --prompts monet=prompts/atelier/monet.csv --originals out/base-samples --out out/attacked
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lethe.erasing.inputs import read_concepts, read_needs
from lethe.files import io
from lethe.files.errors import UserError, needed
from lethe.files.images import MANIFEST, SHEET, TAR, write_manifest, write_tar
from lethe.models import pipelines
from lethe.params import registry
from lethe.params.recipe import of_file, of_model, of_result, recipe
from lethe.stage import cli
from lethe.stage.parents import check as check_parents
from lethe.stage.record import Budget, Recorder
from lethe.stage.reuse import settled
from lethe.texts.prompts import chosen, left_out, read_sets
from lethe.texts.rows import Prompt

VERSION = 1
FACTS = "attack.csv"


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, attacks, draws; raises UserError before anything is loaded
    if the inputs are wrong."""
    args, name, plugin = parsed(words)
    values = cli.section_values(args, f"attack_{name}", plugin)
    sample = cli.section_values(args, "sample", prefix="sample_")
    concepts = read_concepts(args.concepts)
    files = cli.named_paths(args.prompts, "--prompts")
    skip = cli.switch(args, "prompts", "skip_empty")
    rows = read_rows(files, concepts, args.each, skip)
    lost = left_out({name: files[name] for name in concepts}) if skip else {}
    pipelines.check_base(args.base, args.revision)
    pipelines.check_resolution(args.base, args.resolution)
    folders = ({"model": args.model} if args.model else {}) | read_folders(
        name, registry.needs(*plugin, values), concepts, args
    )
    given = {f"prompts:{concept}": files[concept] for concept in concepts}
    option = registry.literal(*plugin, "FILES", None)
    given |= read_files(name, values[option], concepts) if option else {}

    parents = {"base": of_model(args.base, args.revision)} | {role: of_result(path) for role, path in folders.items()}
    parents |= {role: of_file(path) for role, path in given.items()}
    own = {"attack": name, "options": values, "seed": args.seed, "each": args.each, "concepts": concepts}
    resolved = own | {"resolution": args.resolution} | sample
    mine = recipe("attack", VERSION, resolved, parents)
    if settled(args.out, mine, args.dry_run):
        return
    check_parents(folders, args.base)
    if args.dry_run:
        print(f"would attack {args.model or args.base} with {name} into {args.out}, recipe {mine}")
        return

    recorder = Recorder("attack", VERSION, mine, resolved, {"base": Path(args.base), **folders, **given})
    device = cli.device(args)
    import torch

    from lethe.attacking import victims
    from lethe.drawing.sampling import Settings
    from lethe.drawing.sheets import write_sheet
    from lethe.training import loop

    victim = victims.prepare(
        args.base, args.revision, folders, args.resolution, device, concepts, rows, Settings(**sample), skip
    )
    keeping, budget = loop.Keeping(args.state or Path("state") / mine, mine, args.checkpoint_seconds), Budget()
    found = registry.get("attacks", name).attack(victim, values, args.seed, keeping, budget)
    with io.result_folder(args.out) as part:
        entries, members = victims.draw(victim, found, torch.get_num_threads())
        write_tar(part / TAR, members)
        write_manifest(part / MANIFEST, entries)
        write_sheet(part)
        io.write_text(part / FACTS, victims.facts(victim, found))
        if found.progress:
            io.write_text(part / loop.LOG, loop.log_text(found.progress.rows))
            recorder.started -= found.progress.seconds
        more: dict[str, Any] = {"without_prompt": lost} if lost else {}
        recorder.write(part, budget=budget, device=str(device), pictures=len(entries), attack=found.about, **more)
    loop.forget(keeping)
    print(f"{args.out}: {len(entries)} pictures of {name}, at a glance in {args.out / SHEET}")


def parsed(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, str, tuple[str, str]]:
    """The command line, the attack's name, and its plug-in."""
    made = cli.parser("attack", __doc__)
    cli.add_base(made)
    cli.add_resolution(made)
    made.add_argument("--attack", required=True, help=f"one of {', '.join(registry.names('attacks'))}")
    made.add_argument("--model", type=Path, help="weights folder; without it the base model is attacked")
    made.add_argument("--concepts", required=True, help="JSON, or @FILE: {name: {prompt, anchor}}")
    made.add_argument("--prompts", nargs="+", required=True, metavar="NAME=CSV", help="each concept's prompts")
    made.add_argument("--each", type=int, help="prompts of each concept, at even steps of its CSV (default: 16)")
    made.add_argument("--originals", type=Path, help="samples of the dense base model for the same prompts")
    made.add_argument("--data", type=Path, help="result of stage encode: the fine-tuning pictures")
    made.add_argument(
        "--concept-pictures", nargs="+", default=[], metavar="NAME=FOLDER", help="results of encode: the concepts'"
    )
    cli.add_skip_empty(made)
    cli.add_training(made)
    cli.add_section(made, "sample", prefix="sample_")
    name = cli.early("attack", words=words)
    plugin = ("attacks", registry.check("attacks", name)) if name else None
    if plugin:
        cli.add_section(made, f"attack_{name}", plugin)
    args = made.parse_args(words)
    args.resolution = cli.resolution(args)
    args.each = cli.of_params(args, "attacks", "prompts") if args.each is None else args.each
    if args.each < 1:
        raise UserError(f"--each: {args.each} is not at least 1")
    return args, needed(name, "attack"), needed(plugin, "attack")  # or else the parser has ended


def read_rows(files: dict[str, Path], concepts: dict, count: int, skip_empty: bool = False) -> dict[str, list[Prompt]]:
    """The rows to draw of each concept. Raises UserError for a concept without prompts, or with too few."""
    missing = [name for name in concepts if name not in files]
    if missing:
        raise UserError(f"--prompts: none of {', '.join(missing)}: give NAME=CSV for each of the concepts")
    sets = read_sets({name: files[name] for name in concepts}, skip_empty)
    return {name: chosen(rows, count, f"--prompts {name}={files[name]}") for name, rows in sets.items()}


def read_files(name: str, files: dict[str, str], concepts: dict) -> dict[str, Path]:
    """The prompt files that an option of the attack names, by role. Raises UserError for a concept without one."""
    missing = [concept for concept in concepts if concept not in files]
    if missing:
        raise UserError(f"{name}: no file of prompts for {', '.join(missing)}; give each of the concepts a CSV")
    return {f"file:{concept}": Path(files[concept]) for concept in concepts}


def read_folders(name: str, needs: list[str], concepts: dict, args: argparse.Namespace) -> dict[str, Path]:
    """Results that the attack reads beside the weights, by role. Raises UserError for missing ones."""
    if "originals" in needs and not args.originals:
        raise UserError(f"--originals: {name} needs what the dense model drew: give samples of the base, all prompts")
    own = {"originals": args.originals} if "originals" in needs else {}
    return own | read_needs(name, needs, concepts, args.concept_pictures, args.data)


if __name__ == "__main__":
    cli.run(main)
