"""U-Nets on disk and in memory: pruned ones with their strict loader, and those that others saved.

A pruned U-Net is stock diffusers weights plus `pruning.json`, which names per layer the units that were kept.
torch and diffusers are imported inside functions, so that a stage can check its inputs before it pays for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.files.io import META, checked, read_json, read_meta, write_json, write_text
from lethe.models.headers import WEIGHTS, check_safetensors, weight_files
from lethe.models.pipelines import PIPELINE
from lethe.models.whole import check_finite, check_keys

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor, nn

DEFAULTED = "_use_default_values"  # diffusers: keys of a config in memory that its file lacks

PRUNING = "pruning.json"


def unet_folder(folder: Path) -> Path:
    """Where a U-Net's files lie: unet/ in a weights folder, or, where others saved a U-Net alone, the folder itself."""
    folder = Path(folder)
    alone = not (folder / "unet").is_dir() and (folder / "config.json").is_file()
    return folder if alone else folder / "unet"


def check_unet(folder: Path, base: str) -> None:
    """Checks the U-Net that is to draw in a base model's place, without torch: that it is one, that its weights are
    whole, and that it reads texts and latents of the sizes that the base (if a folder) has. Raises UserError."""
    place = unet_folder(folder)
    if not place.is_dir() and (what := kinds.told(folder)):
        raise UserError(f"{folder}: {what}")
    if not place.is_dir() and (Path(folder) / META).is_file():
        stage = read_meta(folder).get("stage")
        raise UserError(f"{folder}: a result of stage {stage}, which holds no U-Net; give a weights folder")
    if not place.is_dir():
        raise UserError(f"{folder}: no folder unet there; give a weights folder, or one that a U-Net was saved in")
    config = read_json(place / "config.json")
    if config.get("_class_name") != "UNet2DConditionModel":
        raise UserError(f"{place}: its config.json says {config.get('_class_name')!r}, not 'UNet2DConditionModel'")
    foreign = not (Path(folder) / META).is_file()
    if foreign and place != Path(folder) and (Path(folder) / "text_encoder").is_dir():
        raise UserError(f"{folder}: holds a text_encoder too; give the whole {PIPELINE} folder (model_index.json)")
    if foreign:
        check_weights(place)
    if not Path(base).is_dir():
        return
    text = read_json(Path(base) / "text_encoder" / "config.json").get("hidden_size")
    latent = read_json(Path(base) / "vae" / "config.json").get("latent_channels")
    for key, wanted, what in (
        ("cross_attention_dim", text, "the width of texts"),
        ("in_channels", latent, "channels of latents"),
    ):
        if isinstance(config.get(key), int) and isinstance(wanted, int) and config[key] != wanted:
            raise UserError(
                f"{folder}: {key} {config[key]}, but {base} has {wanted} ({what}); give the base that it was made from"
            )


def save_unet(unet: UNet2DConditionModel, pruning: dict | None, folder: Path) -> None:
    """Writes unet/config.json, unet/diffusion_pytorch_model.safetensors (float32) and, unless dense, pruning.json.

    Raises UserError for weights that are not finite: nothing good is drawn with them.
    """
    import torch

    from lethe.files import tensors

    target = Path(folder) / "unet"
    state = {key: value.detach().to("cpu", torch.float32) for key, value in unet.state_dict().items()}
    check_finite("the U-Net made here", state)
    tensors.save(target / f"{WEIGHTS['unet']}.safetensors", state, {"format": "pt"})
    config = json.loads(unet.to_json_string())
    config.pop("_name_or_path", None)  # where this machine keeps the base
    write_json(target / "config.json", config)
    if pruning is not None:
        write_text(target / PRUNING, _pruning_text(pruning))


def _pruning_text(pruning: dict) -> str:
    """JSON with one line a layer: the lists of kept units are long."""
    if not pruning["layers"]:
        return json.dumps(pruning, indent=2) + "\n"
    layers = ",\n".join(f"    {json.dumps(name)}: {json.dumps(layer)}" for name, layer in pruning["layers"].items())
    head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in pruning.items() if key != "layers")
    return "{\n" + head + '  "layers": {\n' + layers + "\n  }\n}\n"


def read_pruning(folder: Path) -> dict | None:
    """A weights folder's `pruning.json`: budget, macs, ..., and "layers": {path: {kind, total, kept}}; None if dense.

    "removed" lists blocks that the base model has and this U-Net's config.json has not.
    """
    path = unet_folder(folder) / PRUNING
    return read_json(path) if path.is_file() else None


def read_layers(folder: Path) -> dict[str, dict]:
    """What pruning kept, layer by layer; empty for a dense U-Net."""
    return (read_pruning(folder) or {"layers": {}})["layers"]


def load_unet(folder: Path) -> UNet2DConditionModel:
    """The U-Net of a weights folder (or one that others saved, see `unet_folder`), float32, in eval mode, on the CPU.

    Its output equals that of the model that was saved, bit for bit. Raises UserError if a file is missing, truncated,
    or not the one `meta.json` speaks of, and if weights and `pruning.json` do not fit each other.
    """
    import torch
    from safetensors import SafetensorError

    from lethe.models.cutting import cut

    folder = Path(folder)
    _check_files(folder)
    place = unet_folder(folder)
    config = read_json(place / "config.json")
    layers = read_layers(folder)
    try:
        state = read_state(place)
        with torch.device("meta"):
            unet = of_config(config)
        cut(unet, layers)
        told = unet.load_state_dict(state, strict=False, assign=True)
    except (RuntimeError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: weights, config.json and {PRUNING} do not fit: {' '.join(str(error).split())[:300]}"
        ) from None
    check_keys(f"{folder}: its unet", told.missing_keys, told.unexpected_keys)
    check_finite(f"{folder}: its unet", state)
    return unet.eval()


def of_config(config: Mapping) -> UNet2DConditionModel:
    """A U-Net with fresh weights, built by every key of a config, those among them that the config's file left out.

    A net in memory lists such keys as defaulted, and the library then passes over whatever value they have got since.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config({key: value for key, value in config.items() if key != DEFAULTED})


def check_weights(folder: Path) -> None:
    """Raises UserError if a folder unet/ lacks its weights, or they are not whole; imports no torch."""
    for file in weight_files(folder, WEIGHTS["unet"]):
        check_safetensors(file)


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder unet/, in float32 on the CPU. Raises UserError if a file is missing or not whole."""
    import torch
    from safetensors.torch import load_file

    check_weights(folder)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder, WEIGHTS["unet"]):
        # a copy: the file's own bytes are mapped without alignment, and may be replaced while we run
        state |= {key: value.to(torch.float32, copy=True) for key, value in load_file(file).items()}
    return state


def _check_files(folder: Path) -> None:
    if not unet_folder(folder).is_dir():
        raise UserError(
            f"{folder}: no folder unet there; give a weights folder (prune, distill, bilevel or erase makes it)"
        )
    if not (folder / META).is_file():
        return
    for file in sorted((folder / "unet").glob("*.safetensors")):
        check_safetensors(file)  # says more than that its sha256 differs
    checked(folder, "unet/")


def hook_blocks(unet: UNet2DConditionModel) -> list[tuple[str, nn.Module]]:
    """The blocks whose outputs feature distillation compares: all down blocks, the mid block if any, all up blocks."""
    blocks = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    if unet.mid_block is not None:
        blocks.append(("mid_block", unet.mid_block))
    return blocks + [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]


def block_pairs(student: UNet2DConditionModel, teacher: UNet2DConditionModel) -> list[tuple[str, str]]:
    """Names of hooked blocks, the student's and the teacher's, whose outputs have one shape.

    A student without a mid block has no pair for it. One without the innermost stages pairs its up blocks with the
    teacher's outer ones; its last down block does not downsample as the teacher's does, so it has none (BK-SDM-Tiny).
    """
    lost = len(teacher.down_blocks) - len(student.down_blocks)
    down = [(f"down_blocks.{i}", f"down_blocks.{i}") for i in range(len(student.down_blocks) - (lost > 0))]
    both = student.mid_block is not None and teacher.mid_block is not None
    up = [(f"up_blocks.{i}", f"up_blocks.{i + lost}") for i in range(len(student.up_blocks))]
    return [*down, *([("mid_block", "mid_block")] if both else []), *up]
