"""Weight files of a network's folder, looked over without torch: which there are, and that each is whole."""

import json
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import read_json

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def variant(folder: Path, stem: str) -> str | None:
    """ "fp16" if the folder brings half-precision weights alone."""
    plain = any((folder / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))
    names = (f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json")
    return "fp16" if not plain and any((folder / name).is_file() for name in names) else None


def weight_files(folder: Path, stem: str) -> list[Path]:
    half = variant(folder, stem)
    index = folder / f"{stem}.safetensors.index{'.fp16' if half else ''}.json"
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            return [folder / Path(name).name for name in names]  # beside it, wherever it points
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{index}: lists no weights ({type(error).__name__}); fetch or make it again") from None
    return [folder / (f"{stem}.fp16.safetensors" if half else f"{stem}.safetensors")]


def check_safetensors(path: Path) -> None:
    """Raises UserError if the file is missing, or shorter or longer than its header says."""
    if not path.is_file():
        raise UserError(f"{path}: no such weight file (weights must be safetensors)")
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError("header past the end")
            header = json.loads(file.read(length))
        wanted = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch or make it again") from None
    if size != wanted:
        raise UserError(
            f"{path}: {size} bytes, but its header says {wanted}: truncated or damaged; fetch or make it again"
        )
