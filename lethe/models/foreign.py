"""Tensors of a checkpoint that others published: safetensors, or torch's pickle read without running what it names.

Scoring never opens such a file: `lethe.measuring.backbones` makes a folder of safetensors of it, once.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch

from lethe.files import tensors
from lethe.files.errors import UserError

HOLDERS = ("model_state_dict", "state_dict", "model")  # where training scripts put the weights beside other state


class _Inert:
    """Takes the place of whatever a pickle names that is no tensor (arguments, numbers of numpy): it keeps nothing."""

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor on the CPU, of the file's weights alone; DataParallel's prefix "module." is taken off.

    Raises UserError for a file that is absent, no checkpoint, not to be read safely, or without tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    found = tensors.load(path) if Path(path).suffix == ".safetensors" else _unpickled(path)
    if isinstance(found, Mapping):
        found = next((found[key] for key in HOLDERS if isinstance(found.get(key), Mapping)), found)
        state = {key.removeprefix("module."): own for key, own in found.items() if isinstance(own, torch.Tensor)}
        if state:
            return state
    raise UserError(f"{path}: holds no tensors by name (a state dict, alone or under {', '.join(HOLDERS)})")


def _unpickled(path: Path) -> object:
    """torch.load for tensors alone; every class and function that the file names besides becomes `_Inert`."""
    zipped, named = zipfile.is_zipfile(path), []
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        with torch.serialization.safe_globals([(_Inert, name) for name in named]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
        names = f" (it names {', '.join(named[:3])})" if named else ""
        raise UserError(
            f"{path}: not a checkpoint whose tensors can be read without running its code{names}; fetch it again, or "
            "save its state dict as safetensors"
        ) from None
