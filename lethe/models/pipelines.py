"""A base pipeline's parts on disk and in memory, checked and loaded whole.

torch and diffusers are imported inside functions, so that a stage can check its inputs before it pays for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.files.io import read_json
from lethe.models.headers import WEIGHTS, check_safetensors, variant, weight_files
from lethe.models.whole import check_finite, check_keys

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import Tensor
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PIPELINE = "StableDiffusionPipeline"
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
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
    if what := kinds.told(folder):
        raise UserError(f"{path}: {what}")
    if folder.is_dir() and revision:
        raise UserError(f"{path}: is a folder, so no revision can be meant, found {revision!r}; leave it out")
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
        for file in weight_files(folder / part, stem):
            check_safetensors(file)


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
            how |= {"variant": variant(Path(path) / part, WEIGHTS[part])}
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
