"""Encodes pictures and captions once: what is frozen is not computed again at every training step.

In: a base model and pictures with captions: an imagefolder (metadata.jsonl: file_name, text), a folder of COCO, or a
samples folder. For pictures of a concept also its prompt and its anchor: each caption is then encoded without the
concept too, as its row's `anchor` says, or else with the prompt's words replaced by the anchor's.
Out: latents.safetensors (mean and std of the VAE's posterior), captions.safetensors, index.json, meta.json.

    python -m stages.encode --base models/atelier/pipeline --pictures data/atelier/finetune --out out/finetune
    python -m stages.encode --base models/atelier/pipeline --pictures data/atelier/concept/monet \\
        --prompt "a painting by monet" --anchor "a painting" --out out/monet
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lethe.files.errors import UserError
from lethe.files.io import result_folder
from lethe.models import pipelines
from lethe.params.recipe import of_model, of_pictures, recipe
from lethe.stage import cli
from lethe.stage.record import Recorder
from lethe.stage.reuse import settled
from lethe.training import pictures

VERSION = 2


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, encodes; raises UserError before anything is loaded
    if the inputs are wrong."""
    made = cli.parser("encode", __doc__)
    cli.add_base(made)
    cli.add_resolution(made)
    made.add_argument("--pictures", type=Path, required=True, help="imagefolder, folder of COCO, or samples folder")
    made.add_argument("--prompt", help="the concept's; caption of pictures that bring none")
    made.add_argument("--anchor", help="what may be drawn in the concept's place; needs --prompt")
    made.add_argument("--make", help="command that made the pictures, if one did: they then count by it")
    cli.add_subset(made)
    cli.add_section(made, "encode")
    args = made.parse_args(words)
    args.resolution = cli.resolution(args)
    values = cli.section_values(args, "encode")
    options = {"resolution": args.resolution, "flip": values["flip"], "prompt": args.prompt, "anchor": args.anchor}
    check_anchor(args.prompt, args.anchor)
    subset = cli.subset(args)
    pipelines.check_base(args.base, args.revision)
    pipelines.check_resolution(args.base, args.resolution)
    parents = {"base": of_model(args.base, args.revision), "pictures": of_pictures(args.pictures, args.make)}
    mine = recipe("encode", VERSION, options, parents)
    if settled(args.out, mine, args.dry_run):
        return
    found = pictures.read(args.pictures, args.prompt, subset=subset)
    if found.missing:
        print(found.missing_line(), file=sys.stderr)
    anchors = None if args.anchor is None else found.without(args.prompt, args.anchor)
    if args.dry_run:
        print(f"would encode {len(found)} pictures of {args.pictures} into {args.out}, recipe {mine}")
        return

    recorder = Recorder("encode", VERSION, mine, options, {"base": Path(args.base), "pictures": args.pictures})
    device = cli.device(args)
    from lethe.training import data

    base = pipelines.load_base(args.base, args.revision, ["vae", "tokenizer", "text_encoder"])
    resolution = options["resolution"] or data.own_resolution(args.base, args.revision, base.vae)
    base.vae.to(device)
    base.text_encoder.to(device)
    with result_folder(args.out) as part:
        told: dict[str, Any] = data.encode(found, base, part, resolution, options["flip"], device, anchors)
        told |= {"without_picture": found.missing} if found.missing else {}
        recorder.write(part, device=str(device), pictures=len(found), pixels=resolution, **told)
    if told["cut"]:
        print(pipelines.cut_line(told["cut"]), file=sys.stderr)
    print(f"{args.out}: {len(found)} pictures at {resolution} pixels")


def check_anchor(prompt: str | None, anchor: str | None) -> None:
    """Raises UserError for an anchor without a prompt, and for one that leaves nothing to forget."""
    if anchor is None:
        return
    if prompt is None:
        raise UserError(f"--anchor: {anchor!r} stands in for a prompt, which is missing; give --prompt too")
    if anchor.split() == prompt.split():
        raise UserError(
            f"--anchor: {anchor!r} is the prompt itself, so there is nothing to forget; give what may be drawn in its "
            "place"
        )


if __name__ == "__main__":
    cli.run(main)
