"""safetensors files, written whole or not at all; large ones filled piece by piece."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lethe.files.errors import UserError
from lethe.files.io import naming


def save(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes by temporary name and rename. A full disk raises OSError ENOSPC, as it does for any other file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, part, dict(metadata or {}))
        os.replace(part, path)
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        if not told:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> dict[str, torch.Tensor]:
    """All tensors, on the CPU and mapped into memory. Raises UserError if the file is missing or not whole."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); delete its folder and make it again"
        ) from None


def metadata(path: Path) -> dict[str, str]:
    """The texts that `save` put beside the tensors. Raises UserError as `load` does."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); delete its folder and make it again"
        ) from None


def allocate(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.memmap]:
    """A new file of float32 tensors, to be filled through the returned arrays: it need never fit into memory."""
    header: dict[str, dict[str, object]] = {}
    starts: dict[str, int] = {}
    offset = 0
    for key, shape in shapes.items():
        end = offset + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        starts[key], offset = offset, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with naming(path), open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # Reserved at once, since a full disk met later through a mapping would kill the process without a word.
        reserve = getattr(os, "posix_fallocate", None)  # macOS has none
        reserve(file.fileno(), 0, 8 + len(text) + offset) if reserve else file.truncate(8 + len(text) + offset)
    data = 8 + len(text)
    return {key: np.memmap(path, np.float32, "r+", data + starts[key], tuple(shape)) for key, shape in shapes.items()}
