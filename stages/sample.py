"""Draws the pictures of one model: every prompt set in one process, one tar of PNGs with a manifest.

In: a base model (StableDiffusionPipeline folder or hub id), a weights folder unless the base itself draws, and prompt
CSVs by the name of their set; or one --prompt, drawn --count times with seeds 0, 1, ... (set `generated`). A weights
folder's own text_encoder/ takes the place of the base's, and its guidance.json says what eraser acts at each step.
Out: images.tar, manifest.csv, sheet.jpg (up to 64 of them at a glance), and meta.json, which tells the U-Net's size and
latency too. A killed run goes on where it was and ends in the same pictures.

    python -m stages.sample --base models/atelier/pipeline --out results/own/samples \\
        --prompts monet=prompts/atelier/monet.csv eval=prompts/atelier/eval.csv
"""

import argparse
import hashlib
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.erasing import guidance
from lethe.files import io
from lethe.files.errors import UserError
from lethe.files.images import MANIFEST, SHEET, TAR, Entry, png, read_tar, write_manifest, write_tar
from lethe.files.tiles import Tiles
from lethe.models.pipelines import check_base, check_resolution
from lethe.models.unets import check_unet
from lethe.params import rules
from lethe.params.recipe import of_file, of_model, of_weights, recipe
from lethe.stage import cli
from lethe.stage.alone import alone
from lethe.stage.record import Budget, Recorder, peak_memory_mb
from lethe.stage.reuse import settled
from lethe.texts.prompts import left_out, read_sets, repeated
from lethe.texts.rows import Prompt

if TYPE_CHECKING:
    import torch

VERSION = 1
Row = tuple[str, Prompt]  # name of the set, and the picture to draw


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, draws; raises UserError before anything is loaded if the inputs
    are wrong."""
    args = parsed(words)
    values = cli.section_values(args, "sample")
    paths = cli.named_paths(args.prompts or [], "--prompts")
    one = {} if args.prompt is None else {"prompt": args.prompt, "count": args.count}
    skip = cli.switch(args, "prompts", "skip_empty")
    sets = {"generated": repeated(args.prompt, args.count)} if one else read_sets(paths, skip)
    lost = left_out(paths) if skip else {}
    rows = [(name, row) for name, members in sets.items() for row in members]
    check_base(args.base, args.revision)
    check_resolution(args.base, args.resolution)

    parents = {"base": of_model(args.base, args.revision)}
    record = None
    if args.model:
        parents["model"] = of_weights(args.model)
        check_unet(args.model, args.base)
        record = guidance.read(args.model)
    parents |= {f"prompts:{name}": of_file(path) for name, path in paths.items()}
    resolved = values | {"resolution": args.resolution} | one
    own = recipe("sample", VERSION, resolved, parents)
    if settled(args.out, own, args.dry_run):
        return
    if args.dry_run:
        print(f"would draw {len(rows)} pictures with {args.model or args.base} into {args.out}")
        return

    device = cli.device(args)
    sources = {"base": Path(args.base), "model": args.model} | {f"prompts:{name}": path for name, path in paths.items()}
    recorder = Recorder("sample", VERSION, own, resolved, {role: path for role, path in sources.items() if path})
    kept = Tiles(args.state or Path("state") / own, own)
    with alone(kept.folder):  # two experiments may want the same pictures
        make(args, device, values, record, rows, kept, recorder, {"without_prompt": lost} if lost else {})
    print(f"{args.out}: {len(rows)} pictures, at a glance in {args.out / SHEET}")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser("sample", __doc__)
    cli.add_base(parser)
    cli.add_resolution(parser)
    parser.add_argument("--model", type=Path, help="weights folder, or a U-Net of others; without it the base draws")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompts", nargs="+", metavar="NAME=CSV", help="prompt sets")
    what.add_argument("--prompt", help="one prompt, drawn --count times")
    parser.add_argument("--count", type=int, help="pictures of --prompt, with seeds 0 to count - 1 (default: 1)")
    parser.add_argument("--state", type=Path, help="folder of finished tiles, for resuming (default: state/RECIPE)")
    cli.add_skip_empty(parser)
    cli.add_section(parser, "sample")
    args = parser.parse_args(words)
    args.resolution = cli.resolution(args)
    if args.prompt is None and args.count is not None:
        raise UserError("--count: counts pictures of --prompt; a prompt set has a row for each picture")
    args.count = 1 if args.count is None else args.count
    most = rules.section_schema("encode")["properties"]["generated"]["maximum"]
    if not 1 <= args.count <= most:
        raise UserError(f"--count: {args.count} is not at least 1 and at most {most}")
    return args


def make(
    args: argparse.Namespace,
    device: "torch.device",
    values: dict,
    record: dict | None,
    rows: Sequence[Row],
    kept: Tiles,
    told: Recorder,
    more: dict[str, Any],
) -> None:
    """Draws the tiles that are missing, and puts all together; `more`: what meta.json is told besides."""
    from lethe.drawing.sampling import tiles
    from lethe.drawing.sheets import write_sheet

    wanted = {tile.start: [rows[i] for i in tile] for tile in tiles(len(rows), values["tile"])}
    facts = dict(more)
    files = kept.filled(wanted, lambda missing: draw(args, device, values, record, rows, missing, facts))
    with io.result_folder(args.out) as part:
        write_tar(part / TAR, (member for path in files for member in read_tar(path)))
        members = zip(rows, read_tar(part / TAR), strict=True)
        write_manifest(part / MANIFEST, (entry(row, file, content) for row, (file, content) in members))
        write_sheet(part)
        passes = len(wanted) * values["tile"] * values["steps"] * guidance.passes(record, values["guidance"])
        budget = Budget(student_forward=passes) if args.model else Budget(teacher_forward=passes)
        told.write(part, budget=budget, device=str(device), pictures=len(rows), **facts)
    kept.forget()


def draw(
    args: argparse.Namespace,
    device: "torch.device",
    values: dict,
    record: dict | None,
    rows: Sequence[Row],
    wanted: Sequence[Sequence[Row]],
    facts: dict[str, object],
) -> Generator[list[tuple[str, bytes]], None, None]:
    """For each tile its tar members; at the end `facts` is told of the networks and of all
    rows' texts, even if no tile was left to draw."""
    import torch

    from lethe.drawing import latency, sampling
    from lethe.models.pipelines import cut_line, cut_texts, latent_shape, load_base, text_length
    from lethe.models.unets import load_unet

    own = guidance.load_text_encoder(args.model) if args.model else None
    parts = ["vae", "tokenizer", "scheduler", *([] if own else ["text_encoder"]), *([] if args.model else ["unet"])]
    base = load_base(args.base, args.revision, parts)
    base.text_encoder = own or base.text_encoder
    unet = (load_unet(args.model) if args.model else base.unet).to(device)
    base.vae.to(device)
    base.text_encoder.to(device)
    prompts = [[prompt for _, prompt in tile] for tile in wanted]
    base.latent_shape = latent_shape(unet, base.vae, args.resolution)
    drawn = sampling.draw(base, unet, prompts, sampling.Settings(**values), torch.get_num_threads(), record)
    for tile, pictures in zip(wanted, drawn, strict=True):
        yield [
            (f"{name}/{row.case_number}.png", png(pixels)) for (name, row), pixels in zip(tile, pictures, strict=True)
        ]
    facts["cut"] = cut = cut_texts(base.tokenizer, base.text_encoder.config, (row.prompt for _, row in rows))
    if cut:
        print(cut_line(cut), file=sys.stderr)
    facts["peak_memory_mb"] = peak_memory_mb()  # of drawing alone
    size = (base.latent_shape, text_length(args.base, args.revision))
    facts["unet"] = latency.deployed(unet, values["precision"], *size, device)


def entry(row: Row, file: str, content: bytes) -> Entry:
    """The manifest's row of a picture."""
    name, prompt = row
    return Entry(name, prompt.case_number, prompt.prompt, prompt.seed, file, hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    cli.run(main)
