"""Inception as clean-fid runs it, in its modes `clean` and `legacy_pytorch`: where the weights are, what is made of
pictures, and how to say so beside a number.

Network and resizer are clean-fid's own code (2104.11222); the weights are the published files, known by their sha256,
from the addresses that clean-fid fetches. clean-fid itself keeps one in /tmp and reads the other with a reader that
runs code. Here both lie in torch's cache, or where score.features_weights says, and are not opened before their hash is
that of the published file. FID of one mode does not compare with that of the other: they resize differently.
"""

from __future__ import annotations

import errno
import hashlib
import os
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import NotThere, UserError
from lethe.files.io import sha256

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SIDE = 299
WIDTH = 2048
WAIT = 30  # seconds without an answer
PIECE = 1 << 20


@dataclass(frozen=True)
class Mode:
    """A published weight file, and how pictures are brought to SIDE x SIDE."""

    url: str
    sha256: str
    resizer: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


MODES = {
    "clean": Mode(
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        "PIL bicubic, antialiased, not rounded",
    ),
    "legacy_pytorch": Mode(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "PyTorch bilinear, not antialiased, not rounded",
    ),
}


def protocol(mode: str) -> dict[str, object]:
    """What must stand beside a number for it to be compared with another's."""
    own = MODES[mode]
    return {
        "mode": mode,
        "network": f"Inception, {own.file}",
        "sha256": own.sha256,
        "layer": f"average pool, {WIDTH} wide",
        "resizer": f"{own.resizer}, to {SIDE} x {SIDE}",
        "from": "clean-fid",
    }


def weights(mode: str, given: str | None) -> Path:
    """The published file, checked: `given`, or that in torch's cache, fetched into it if need be.

    Raises UserError if the given file is absent or a file is not the published one, NotThere if it is not in the cache
    and cannot be fetched.
    """
    import torch

    own = MODES[mode]
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / own.file
    if not path.is_file():
        if given:
            raise UserError(f"score.features_weights: {given}: no such file; get it from {own.url}")
        _fetch(own, path)
    found = sha256(path)
    if found != own.sha256:
        raise UserError(
            f"{path}: is not clean-fid's file for mode {mode}: its sha256 begins {found[:12]}, that of the published "
            f"one {own.sha256[:12]}; delete it and get it again from {own.url}"
        )
    return path


def _fetch(own: Mode, path: Path) -> None:
    """Writes by temporary name and rename. Raises NotThere that says where to get the file and where to put it."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with urllib.request.urlopen(own.url, timeout=WAIT) as answer, open(part, "wb") as file:
            while piece := answer.read(PIECE):
                found.update(piece)
                file.write(piece)
        if found.hexdigest() != own.sha256:
            raise NotThere(f"{own.url} sends another file than the published one (sha256 {found.hexdigest()[:12]}...)")
        os.replace(part, path)
    except OSError as error:  # a network that is not there, and a folder that may not be written to
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = getattr(error, "reason", error)
        raise NotThere(
            f"Inception's weights cannot be fetched ({reason}), so FID, KID, their drift and change are left out: get "
            f"{own.url} and put it at {path}, or name it in score.features_weights, then delete this result and score "
            "again"
        ) from None
    finally:
        with suppress(OSError):  # where nothing can be written, nothing is left over
            part.unlink(missing_ok=True)


def extractor(mode: str, path: Path, device: torch.device) -> Callable[[Sequence[Image]], torch.Tensor]:
    """RGB pictures of any size -> features [B, 2048] float32 on the CPU, with the weights of a checked file.

    Raises UserError if the file cannot be read.
    """
    import numpy as np
    import torch
    from cleanfid.resize import build_resizer

    with warnings.catch_warnings():  # clean-fid loads in ways that libraries call old, and mutes all warnings for good
        warnings.simplefilter("ignore")
        try:
            run = {"clean": _clean, "legacy_pytorch": _legacy}[mode](path, device)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None
        resize = build_resizer(mode)

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> torch.Tensor:
        pixels = np.stack([resize(np.array(picture)) for picture in batch]).transpose(0, 3, 1, 2)
        return run(torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).to(device)).float().cpu()

    return of_pictures


def _clean(path: Path, device: torch.device) -> Callable:
    """clean-fid's TorchScript network: pixels [B, 3, 299, 299] in [0, 255] -> [B, 2048]."""
    from cleanfid import inception_torchscript

    with _named(path, "inception-2015-12-05.pt") as folder:
        model = inception_torchscript.InceptionV3W(str(folder), download=False, resize_inside=False)
    return model.to(device).eval()


@contextmanager
def _named(path: Path, name: str) -> Iterator[Path]:
    """A folder in which a file has the name that is asked for."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).symlink_to(path.resolve())
        yield Path(folder)


def _legacy(path: Path, device: torch.device) -> Callable:
    """clean-fid's copy of pytorch-fid's network: pixels in [0, 255] -> [B, 2048].

    It knows its weights by an address alone, so while it is built it is handed those of the file.
    """
    from cleanfid import inception_pytorch

    from lethe.models import foreign

    state = foreign.read(path)
    before = inception_pytorch.load_state_dict_from_url
    inception_pytorch.load_state_dict_from_url = lambda url, **how: state
    try:
        model = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).to(device).eval()
    finally:
        inception_pytorch.load_state_dict_from_url = before
    return lambda pixels: model(pixels / 255)[0].flatten(1)
