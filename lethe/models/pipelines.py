"""Models on disk and in memory: the base pipeline's parts, and pruned U-Nets with their strict loader.

A pruned U-Net is stock diffusers weights plus `pruning.json`, which names per layer the units that were kept.
torch and diffusers are imported inside functions, so that a stage can check its inputs before it pays for them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lethe.files.errors import UserError
from lethe.files.io import META, checked, read_json, write_json, write_text
from lethe.models.whole import check_finite, check_keys

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import Tensor, nn
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PIPELINE = "StableDiffusionPipeline"
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PRUNING = "pruning.json"
UNFED = {  # keys of a U-Net's config: what it wants to be told beside time and text
    "class_embed_type": "a class or image embedding (unCLIP, upscaler)",
    "num_class_embeds": "a class embedding (upscaler)",
    "addition_embed_type": "sizes and a pooled text (SDXL)",
    "time_cond_proj_dim": "a guidance embedding (LCM)",
    "encoder_hid_dim_type": "image embeddings (IP-Adapter, Kandinsky)",
}


def check_base(path: str, revision: str | None) -> None:
    """Checks a base model without importing torch: a pipeline folder's JSON and safetensors headers.

    Of a hub id only the form can be checked; the rest shows when it is loaded. Raises UserError.
    """
    folder = Path(path)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            raise UserError(f"{path}: no such folder, and not a hub id (OWNER/NAME)")
        return
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{path}: not a {PIPELINE} folder (no model_index.json); give one, or a hub id OWNER/NAME")
    _check_index(path, read_json(folder / "model_index.json"))
    found = {part: read_json(folder / part / config) for part, config in CONFIGS.items()}
    check_configs(path, found)
    for part, stem in WEIGHTS.items():
        for file in _weight_files(folder / part, stem):
            _check_safetensors(file)


def check_configs(path: str, configs: Mapping[str, Mapping]) -> None:
    """Raises UserError for parts that draw in another way than these stages feed them, by their config.json."""
    text, unet, vae = configs["text_encoder"], configs["unet"], configs["vae"]
    kind = text.get("model_type")
    if kind not in (None, "clip_text_model", "clip"):
        raise UserError(f"{path}: its text_encoder is a {kind!r}, not CLIP's (clip_text_model); give another base")
    for key, what in UNFED.items():
        if unet.get(key):
            raise UserError(f"{path}: its unet has {key} {unet[key]!r}: {what}, which these stages do not feed")
    taken, latent = unet.get("in_channels"), vae.get("latent_channels")
    if isinstance(taken, int) and isinstance(latent, int) and taken != latent:
        told = "an inpainting or depth model" if taken in (5, 9) else "another vae's model"
        raise UserError(
            f"{path}: its unet reads {taken} channels, its vae has {latent}: {told}; give a text-to-image one"
        )


def check_steps(path: str, steps: int) -> None:
    """Checks a number of sampling steps against a base model's folder, without torch. Raises UserError."""
    if Path(path).is_dir():
        trained = read_json(Path(path) / "scheduler" / "scheduler_config.json").get("num_train_timesteps", 1000)
        if steps > trained:
            raise UserError(f"{steps} is more than the {trained} noise levels that {path} was trained with")


def check_resolution(path: str, resolution: int | None) -> None:
    """Checks a picture side against a base model's folder, without torch. Raises UserError."""
    if resolution is not None and Path(path).is_dir():
        widths = read_json(Path(path) / "vae" / "config.json")["block_out_channels"]
        latent_side(resolution, 2 ** (len(widths) - 1))


def latent_side(resolution: int, scale: int) -> int:
    """Latent positions along a side of `resolution` pixels, `scale` each. Raises UserError if they do not fit."""
    if resolution % scale:
        raise UserError(f"resolution: {resolution} is not a multiple of {scale}, the pixels a latent position spans")
    return resolution // scale


def _check_index(path: str, index: dict) -> None:
    if index.get("_class_name") != PIPELINE:
        raise UserError(f"{path}: its model_index.json says {index.get('_class_name')!r}; only {PIPELINE} is supported")


def _variant(folder: Path, stem: str) -> str | None:
    """ "fp16" if the folder brings half-precision weights alone."""
    plain = any((folder / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))
    return "fp16" if not plain and (folder / f"{stem}.fp16.safetensors").is_file() else None


def _weight_files(folder: Path, stem: str) -> list[Path]:
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            return [folder / Path(name).name for name in names]  # beside it, wherever it points
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{index}: lists no weights ({type(error).__name__}); fetch or make it again") from None
    return [folder / (f"{stem}.fp16.safetensors" if _variant(folder, stem) else f"{stem}.safetensors")]


def _check_safetensors(path: Path) -> None:
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


def load_base(path: str, revision: str | None, parts: Sequence[str]) -> SimpleNamespace:
    """The named parts of a base model: unet, vae, text_encoder, tokenizer, scheduler.

    Networks come in float32, in eval mode and frozen, on the CPU. The scheduler is a DDIMScheduler with the folder's
    noise schedule and prediction type, whatever sampler the folder names. Raises UserError if the model is not a
    StableDiffusionPipeline or cannot be loaded whole.
    """
    check_base(path, revision)
    if not Path(path).is_dir():
        _check_hub_index(path, revision)
    return SimpleNamespace(**{part: _load_part(path, revision, part) for part in parts})


def _check_hub_index(path: str, revision: str | None) -> None:
    from huggingface_hub import hf_hub_download

    try:
        index = hf_hub_download(path, "model_index.json", revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot fetch model_index.json of revision {revision}: {_first_line(error)}") from None
    _check_index(path, read_json(index))


def _load_part(path: str, revision: str | None, part: str) -> object:
    import torch

    how: dict[str, str | bool | torch.dtype | None] = {"subfolder": part, "revision": revision}
    if part in WEIGHTS:
        how |= {"use_safetensors": True, "dtype" if part == "text_encoder" else "torch_dtype": torch.float32}
        if Path(path).is_dir():
            how |= {"variant": _variant(Path(path) / part, WEIGHTS[part])}
    try:
        if part == "scheduler":
            from diffusers import DDIMScheduler

            # latents are not confined to [-1, 1]; other samplers' configs do not say so, and DDIM's default clips
            return DDIMScheduler.from_pretrained(path, **how, clip_sample=False)
        if part == "tokenizer":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(path, **how)
        with _quiet():
            model, told = _model_class(part).from_pretrained(path, **how, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot load its {part}: {_first_line(error)}") from None
    where = f"{path}: its {part}"
    check_keys(where, told["missing_keys"], told["unexpected_keys"])
    check_finite(where, dict(model.named_parameters()))
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loaders' own words on weights that lack or are left over are not shown: that is refused, in one line."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _model_class(part: str) -> type[AutoencoderKL | UNet2DConditionModel | CLIPTextModel]:
    if part == "text_encoder":
        from transformers import CLIPTextModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        return CLIPTextModel
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unet_folder(folder: Path) -> Path:
    """Where a U-Net's files lie: unet/ in a weights folder, or, where others saved a U-Net alone, the folder itself."""
    folder = Path(folder)
    alone = not (folder / "unet").is_dir() and (folder / "config.json").is_file()
    return folder if alone else folder / "unet"


def check_unet(folder: Path, base: str) -> None:
    """Checks the U-Net that is to draw in a base model's place, without torch: that it is one, that its weights are
    whole, and that it reads texts and latents of the sizes that the base (if a folder) has. Raises UserError."""
    place = unet_folder(folder)
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
    from diffusers import UNet2DConditionModel
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
            unet = UNet2DConditionModel.from_config(config)
        cut(unet, layers)
        told = unet.load_state_dict(state, strict=False, assign=True)
    except (RuntimeError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: weights, config.json and {PRUNING} do not fit: {' '.join(str(error).split())[:300]}"
        ) from None
    check_keys(f"{folder}: its unet", told.missing_keys, told.unexpected_keys)
    check_finite(f"{folder}: its unet", state)
    return unet.eval()


def check_weights(folder: Path) -> None:
    """Raises UserError if a folder unet/ lacks its weights, or they are not whole; imports no torch."""
    for file in _weight_files(folder, WEIGHTS["unet"]):
        _check_safetensors(file)


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder unet/, in float32 on the CPU. Raises UserError if a file is missing or not whole."""
    import torch
    from safetensors.torch import load_file

    check_weights(folder)
    state: dict[str, Tensor] = {}
    for file in _weight_files(folder, WEIGHTS["unet"]):
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
        _check_safetensors(file)  # says more than that its sha256 differs
    checked(folder, "unet/")


def encode_prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str]) -> Tensor:
    """Caption embeddings as the Stable Diffusion pipeline makes them: last hidden state, padded or cut to full length.

    Returns [B, L, D] in the encoder's dtype and on its device.
    """
    import torch

    length = _text_length(tokenizer, text_encoder.config)
    words = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    words = words.to(text_encoder.device)
    mask = words.attention_mask if getattr(text_encoder.config, "use_attention_mask", False) else None
    with torch.no_grad():
        return text_encoder(words.input_ids, attention_mask=mask)[0]


def cut_texts(tokenizer: CLIPTokenizer, config: CLIPTextConfig, texts: Iterable[str]) -> list[str]:
    """Texts that are longer than the text encoder reads: what stands behind its last token changes no picture."""
    length, unique = _text_length(tokenizer, config), list(dict.fromkeys(texts))
    found = tokenizer(unique, verbose=False).input_ids if unique else []
    return [text for text, ids in zip(unique, found, strict=True) if len(ids) > length]


def cut_line(cut: Sequence[str]) -> str:
    """What is said of such texts."""
    shown = cut[0] if len(cut[0]) <= 60 else f"{cut[0][:57]}..."
    return f"{len(cut)} texts are longer than the text encoder reads; their ends change nothing (such as {shown!r})"


def text_length(path: str, revision: str | None) -> int:
    """Tokens in a base model's caption embeddings, L, read without loading the text encoder's weights."""
    from transformers import CLIPTextConfig

    config = CLIPTextConfig.from_pretrained(path, subfolder="text_encoder", revision=revision)
    return _text_length(load_base(path, revision, ["tokenizer"]).tokenizer, config)


def _text_length(tokenizer: CLIPTokenizer, config: CLIPTextConfig) -> int:
    # a tokenizer saved without a length reports an astronomic one
    return min(tokenizer.model_max_length, config.max_position_embeddings)


def vae_scale(vae: AutoencoderKL) -> int:
    """Pixels a latent position spans along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_shape(
    unet: UNet2DConditionModel, vae: AutoencoderKL | None = None, resolution: int | None = None
) -> tuple[int, int, int]:
    """(C, h, w) of a latent at a resolution in pixels, or, with none given, at the model's own (`vae` is not needed).

    Raises UserError if the resolution is not a whole number of latent positions.
    """
    if resolution is None:
        side = unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return unet.config.in_channels, height, width
    side = latent_side(resolution, vae_scale(vae))
    return unet.config.in_channels, side, side


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
