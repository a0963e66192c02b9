"""Makes a base bundle: a small Stable Diffusion, and the judges that score it.

Of the atelier world by default: nothing but lethe/atelier and a seed goes in. Or of any captioned pictures:
an imagefolder, or a tar of one, whose metadata.jsonl says file_name, text, style and content (lethe/pretraining); their
judges begin with ImageNet weights that `make emoji` fetches.
Out: pipeline/, judges/, bundle.json, CARD.md, sheets.
Each part is kept under --state when it is finished; the same command goes on where it was stopped.

    python -m stages.pretrain --out models/atelier
    python -m stages.pretrain --imagefolder my/pictures --out models/mine
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from lethe.atelier import recipe as atelier
from lethe.files.errors import UserError
from lethe.files.io import digest, read_json, sha256
from lethe.pretraining import recipe as general
from lethe.stage import cli

MACHINE = ("trunk", "device", "seconds", "no_graphs")  # beside the recipe, with --imagefolder


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), makes the bundle unless it stands."""
    made = argparse.ArgumentParser(
        prog=cli.prog("stages.pretrain"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="bundle folder; an older one is replaced at the end")
    made.add_argument("--state", type=Path, default=Path("state/pretrain"), help="finished parts and checkpoints")
    made.add_argument("--dry-run", action="store_true", help="say what would be made, make nothing")
    made.add_argument("--threads", type=int, default=2, help="CPU threads and rendering workers (default: 2)")
    made.add_argument("--imagefolder", type=Path, help="pictures of your own, in place of atelier's")
    own = made.add_argument_group("with --imagefolder")
    own.add_argument("--trunk", type=Path, help=f"ImageNet weights of the judges (default: {general.TRUNK})")
    own.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    own.add_argument("--seconds", type=float, help="of training in all: steps are decided from their measured time")
    own.add_argument("--no-graphs", action="store_true", default=None, help="plain steps on a GPU, no CUDA graphs")
    numbers: dict[str, list[str]] = {}
    for kind, room in (("atelier", atelier), ("imagefolder", general)):
        for field in fields(room.Recipe):
            numbers.setdefault(field.name, []).append(f"{field.metadata['help']} ({kind}: {field.default})")
    for name, texts in numbers.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=int, help="; ".join(texts))
    args = made.parse_args(words)
    recipe = recipe_of(args, numbers)
    name = name_of(recipe, args)
    card = args.out / "bundle.json"
    if card.is_file() and read_json(card).get("recipe") == name:
        print(f"{args.out}: finished, recipe {name}")
        return
    if args.dry_run:
        print(f"would make {args.out} of recipe {name}: {asdict(recipe)}")
        return
    if isinstance(recipe, atelier.Recipe):
        from lethe.atelier import card as cards

        cards.make(args.out, args.state, recipe, name, args.threads)
        return
    trunk = args.trunk or general.TRUNK
    if not trunk.is_file():
        raise UserError(f"--trunk: {trunk}: no such file; `make emoji` writes {general.TRUNK}")
    import torch

    from lethe.pretraining.making import make

    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    graphs = not args.no_graphs
    make(args.out, args.state, args.imagefolder, trunk, recipe, name, device, args.seconds, graphs)


def recipe_of(args: argparse.Namespace, numbers: Iterable[str]) -> atelier.Recipe | general.Recipe:
    """The options given, the others by default. Raises UserError for one of the other kind, or out of range."""
    room = general if args.imagefolder else atelier
    known = {field.name for field in fields(room.Recipe)}
    ours = known if args.imagefolder is None else known | set(MACHINE)
    for name in (*numbers, *MACHINE):
        if getattr(args, name) is not None and name not in ours:
            raise UserError(
                f"--{name.replace('_', '-')}: goes {'without' if args.imagefolder else 'with'} --imagefolder"
            )
    recipe = room.Recipe(**{name: getattr(args, name) for name in known if getattr(args, name) is not None})
    free = {"seed", "contents", "hold_out"} if args.imagefolder else {"seed"}
    for name, value in asdict(recipe).items():
        if value < (0 if name in free else 1):
            raise UserError(f"--{name.replace('_', '-')}: {value} is too small")
    return recipe


def name_of(recipe: atelier.Recipe | general.Recipe, args: argparse.Namespace) -> str:
    """What the bundle is made of, as a hash."""
    if args.imagefolder is None:
        return digest([atelier.VERSION, asdict(recipe)])
    source = args.imagefolder if args.imagefolder.is_file() else args.imagefolder / "metadata.jsonl"
    if not source.is_file():
        raise UserError(f"{args.imagefolder}: no metadata.jsonl there, and not a tar of an imagefolder")
    return digest([general.VERSION, asdict(recipe), sha256(source), args.seconds])


if __name__ == "__main__":
    cli.run(main)
