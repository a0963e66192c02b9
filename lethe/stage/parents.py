"""Results that a stage is given, looked over by their files before a base model is loaded, or fetched from a hub."""

from collections.abc import Mapping
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import META, read_meta
from lethe.models.unets import check_unet

LATENTS = "latents.safetensors"


def check(folders: Mapping[str, Path], base: str) -> None:
    """Folders by role: weights ("model", "pruned", "teacher") must hold a U-Net that fits the base, "data" and
    "concept:NAME" encoded pictures. Raises UserError that says what a folder is instead. Imports no torch."""
    for role, folder in folders.items():
        if role in ("model", "pruned", "teacher"):
            check_unet(folder, base)
        elif (role == "data" or role.startswith("concept:")) and not (folder / LATENTS).is_file():
            stage = read_meta(folder).get("stage") if (folder / META).is_file() else None
            what = f"a result of stage {stage}" if stage else "no result of a stage"
            raise UserError(f"{folder}: {what}, and encoded pictures are wanted ({LATENTS}); give a result of encode")
