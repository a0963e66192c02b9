"""Makes the base bundle of the atelier world: a small Stable Diffusion, and the judges that score it.

In: nothing but the world (lethe/atelier) and a seed. Out: pipeline/, judges/, bundle.json, CARD.md, sheets as PNG.
Each part is kept under --state when it is finished; the same command goes on where it was stopped.

    python -m stages.pretrain --out models/atelier
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from lethe.atelier.recipe import VERSION, Recipe
from lethe.files.errors import UserError
from lethe.files.io import digest, read_json
from lethe.stage import cli


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), makes the bundle unless it stands."""
    made = argparse.ArgumentParser(
        prog=cli.prog("stages.pretrain"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="bundle folder; an older one is replaced at the end")
    made.add_argument("--state", type=Path, default=Path("state/pretrain"), help="finished parts and checkpoints")
    made.add_argument("--dry-run", action="store_true", help="say what would be made, make nothing")
    made.add_argument("--threads", type=int, default=2, help="CPU threads and rendering workers (default: 2)")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        made.add_argument(flag, type=int, default=field.default, help=f"{field.metadata['help']} ({field.default})")
    args = made.parse_args(words)
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    for name, value in asdict(recipe).items():
        if value < (0 if name == "seed" else 1):
            raise UserError(f"--{name.replace('_', '-')}: {value} is too small")
    mine = digest([VERSION, asdict(recipe)])
    card = args.out / "bundle.json"
    if card.is_file() and read_json(card).get("recipe") == mine:
        print(f"{args.out}: finished, recipe {mine}")
        return
    if args.dry_run:
        print(f"would make {args.out} of recipe {mine}: {asdict(recipe)}")
        return

    from lethe.atelier import card as cards

    cards.make(args.out, args.state, recipe, mine, args.threads)


if __name__ == "__main__":
    cli.run(main)
