"""What erasers work with, and what they hand back beside the U-Net that they edit in place."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from lethe.erasing.guidance import GUIDANCE, TEXT_ENCODER, load_text_encoder, read
from lethe.files import tensors
from lethe.files.errors import UserError
from lethe.files.io import write_json, write_text
from lethe.models import pipelines, unets
from lethe.training.data import Encoded
from lethe.training.loop import LOG, Progress, log_text


@dataclass(frozen=True)
class Erased:
    """`progress`: of its training, None if it does not train. `facts`: for meta.json, such as the share of weights that
    were zeroed. `guidance`: what an inference-time eraser wants of sampling ({"eraser": name, ...}), plain JSON.
    """

    progress: Progress | None = None
    facts: dict = field(default_factory=dict)
    guidance: dict | None = None


def prepare(
    base: str,
    revision: str | None,
    folders: Mapping[str, Path],
    resolution: int | None,
    device: torch.device,
    guided: bool = False,
) -> tuple[SimpleNamespace, nn.Module]:
    """A base model's parts and the U-Net to edit, on the device.

    `folders`: "model" (weights; without it the base's own U-Net), "data" and "concept:NAME" (results of encode). The
    parts carry `latent_shape` and, where folders are given, `data` and `concepts`. Raises UserError if they do not fit,
    and, unless `guided`, for weights whose eraser acts while sampling.
    """
    model = folders.get("model")
    if model and not guided and read(model):
        raise UserError(
            f"{model}: was erased by an eraser that acts while sampling, which would be lost here; take the "
            "weights that it came from"
        )
    parts = ["tokenizer", "text_encoder", "scheduler", "vae", *([] if model else ["unet"])]
    found = pipelines.load_base(base, revision, parts)
    found.base_text = [parameter.detach().clone() for parameter in found.text_encoder.parameters()]
    found.text_encoder = ((load_text_encoder(model) if model else None) or found.text_encoder).to(device)
    unet = (unets.load_unet(model) if model else found.unet).to(device)
    found.latent_shape = pipelines.latent_shape(unet, found.vae, resolution)
    encoded = {role: Encoded.load(folder, device) for role, folder in folders.items() if role != "model"}
    for role, pictures in encoded.items():
        pictures.check(unet, f"{folders[role]} ({role})", like=next(iter(encoded.values())))
        if tuple(pictures.mean.shape[1:]) != tuple(found.latent_shape):
            raise UserError(
                f"{folders[role]} ({role}): latents {list(pictures.mean.shape[1:])}, the model is erased at "
                f"{list(found.latent_shape)}; encode the pictures at the same resolution"
            )
    found.data = encoded.get("data")
    found.concepts = {role.partition(":")[2]: one for role, one in encoded.items() if role.startswith("concept:")}
    return found, unet


def save(erased: Erased, base: SimpleNamespace, folder: Path) -> None:
    """Writes what there is beside the U-Net: log.csv, guidance.json, and text_encoder/ if it is not the base's."""
    if erased.progress and erased.progress.rows:
        write_text(folder / LOG, log_text(erased.progress.rows))
    if erased.guidance:
        write_json(folder / GUIDANCE, erased.guidance)
    pairs = zip(base.base_text, base.text_encoder.parameters(), strict=True)
    if not all(torch.equal(old, new.cpu()) for old, new in pairs):
        state = {key: value.detach().to("cpu", torch.float32) for key, value in base.text_encoder.state_dict().items()}
        tensors.save(folder / TEXT_ENCODER / "model.safetensors", state, {"format": "pt"})
        write_text(folder / TEXT_ENCODER / "config.json", base.text_encoder.config.to_json_string())


def original_text_encoder(base: SimpleNamespace) -> nn.Module:
    """The base model's text encoder, where the weights at hand bring one of their own; `base` as `prepare` makes it."""
    found = copy.deepcopy(base.text_encoder)
    with torch.no_grad():
        for parameter, old in zip(found.parameters(), base.base_text, strict=True):
            parameter.copy_(old)
    return found
