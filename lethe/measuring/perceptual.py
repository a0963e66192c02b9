"""LPIPS (1801.03924 eq. 1): how far apart two pictures are to a network's eye, calibrated on people's judgements.

    d(x, y) = sum_l mean_hw w_l . (a_l(x) - a_l(y))**2

a_l are the channels after the l-th rectifier of AlexNet (or the last one of VGG-16's l-th block), divided at each place
by their length over the channels; w_l >= 0 are the published weights, version 0.1; pictures enter at their own size.
Two files make it: torchvision's trunk and the calibration from the `lpips` package (its `weights/v0.1`), which lie in
one folder under their published names and are known by their sha256. Version 0.0 had another scale of the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import NotThere, UserError
from lethe.files.io import sha256

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CALIBRATION = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
TRUNKS = "https://download.pytorch.org/models/"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
LEAST = 32  # pixels a side: below it the deepest layer sees nothing


@dataclass(frozen=True)
class Net:
    """A trunk: file -> sha256 of it and of its calibration; after which of its layers a_l is taken."""

    trunk: str
    trunk_sha256: str
    calibration: str
    calibration_sha256: str
    ends: tuple[int, ...]

    def hashes(self) -> dict[str, str]:
        return {self.trunk: self.trunk_sha256, self.calibration: self.calibration_sha256}


NETS = {
    "alex": Net(
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        (2, 5, 8, 10, 12),
    ),
    "vgg": Net(
        "vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        (4, 9, 16, 23, 30),
    ),
}


def files(folder: Path) -> str:
    """Which net's two files a folder holds, without torch. Raises NotThere if it holds none, UserError if several."""
    found = [name for name, net in NETS.items() if all((folder / file).is_file() for file in net.hashes())]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"score.lpips: {folder}: holds the files of {' and '.join(found)}; keep those of one net")
    wanted = " or ".join(f"{TRUNKS}{net.trunk} and {CALIBRATION}{net.calibration}" for net in NETS.values())
    raise NotThere(f"{folder}: wanted there are {wanted}")


def protocol(folder: str | None) -> dict[str, object] | None:
    """What LPIPS is measured with, to stand beside the numbers."""
    if folder is None:
        return None
    name = files(Path(folder))
    return {"network": name, "version": "0.1", "files": NETS[name].hashes(), "resizer": "none"}


@functools.cache
def lpips(folder: str, device: torch.device) -> Callable[[Sequence[Image], Sequence[Image]], torch.Tensor]:
    """(pictures, as many others) -> distances [B], 0 for equal ones. All pictures of one size.

    Raises UserError if a file is not the published one.
    """
    import numpy as np
    import torch

    net = NETS[files(Path(folder))]
    states = [_read(Path(folder) / file, wanted) for file, wanted in net.hashes().items()]
    try:
        blocks = _blocks(net, states[0]).eval().requires_grad_(False).to(device)
        weights = [states[1][f"lin{depth}.model.1.weight"].flatten().float().to(device) for depth in range(len(blocks))]
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: its weights do not fit: {' '.join(str(error).split())[:200]}") from None
    shift, scale = (torch.tensor(three, device=device).view(1, 3, 1, 1) for three in (SHIFT, SCALE))

    def entered(batch: Sequence[Image]) -> torch.Tensor:
        pixels = np.stack([np.asarray(picture) for picture in batch]).transpose(0, 3, 1, 2)
        return (torch.from_numpy(pixels.astype(np.float32)).to(device) / 127.5 - 1 - shift) / scale

    @torch.inference_mode()
    def of_pairs(ours: Sequence[Image], theirs: Sequence[Image]) -> torch.Tensor:
        sizes = {picture.size for picture in (*ours, *theirs)}
        if len(sizes) != 1 or min(min(size) for size in sizes) < LEAST:
            told = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise UserError(f"LPIPS: pictures must be of one size, {LEAST} pixels a side at least; found {told}")
        x, y = entered(ours), entered(theirs)
        found = torch.zeros(len(ours), device=device)
        for block, weight in zip(blocks, weights, strict=True):
            x, y = block(x), block(y)
            found += torch.einsum("bchw,c->bhw", (_unit(x) - _unit(y)) ** 2, weight).mean((1, 2))
        return found.cpu()

    return of_pairs


def _unit(x: torch.Tensor) -> torch.Tensor:
    """Channels at each place divided by their length."""
    return x / ((x**2).sum(1, keepdim=True).sqrt() + 1e-10)


def _blocks(net: Net, state: dict[str, torch.Tensor]) -> torch.nn.ModuleList:
    """The trunk's convolutions with torchvision's weights, cut after each rectifier that is looked at."""
    import torch
    import torchvision

    make = torchvision.models.alexnet if net is NETS["alex"] else torchvision.models.vgg16
    with torch.device("meta"):
        layers = make(weights=None).features
    own = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    layers.load_state_dict(own, strict=True, assign=True)
    return torch.nn.ModuleList([layers[start:end] for start, end in pairwise((0, *net.ends))]).float()


def _read(path: Path, wanted: str) -> dict[str, torch.Tensor]:
    from lethe.models import foreign

    found = sha256(path)
    if found != wanted:
        raise UserError(
            f"{path}: is not the published file: its sha256 begins {found[:12]}, that of the published one "
            f"{wanted[:12]}; fetch it again"
        )
    return foreign.read(path)
