"""The networks of a small base bundle: Stable Diffusion 2.1 in small, and the judges.

The pipeline keeps SD 2.1's structure (four resolutions with three cross-attention levels, GEGLU feed-forwards,
v-prediction, linear projections) so that block hooks, FFN neurons, heads and cross-attention exist on several levels.
The sizes that stand here as defaults give a bundle under 16 MB in float16.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
)

SIZE = 64  # pixels
LATENT_CHANNELS = 16  # at 8x8: 4 channels lose the brushwork
TEXT_WIDTH = 64
TEXT_LENGTH = 24


class Pipeline(TypedDict):
    """The parts of a small Stable Diffusion, under the names that diffusers gives them."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler


def tokenizer(corpus: Iterable[str], entries: int = 700) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are learnt on the corpus: byte-pair encoding, at most `entries` of them."""
    specials = ["<|startoftext|>", "<|endoftext|>"]
    empty = CLIPTokenizer(vocab=dict(zip(specials, (0, 1), strict=True)), merges=[], model_max_length=TEXT_LENGTH)
    learnt = empty.train_new_from_iterator(list(corpus), vocab_size=entries, show_progress=False)
    model = json.loads(learnt.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    # The trainer numbers letters as its hash map happens to hold them, anew in each process; embeddings need one order.
    merged = list(dict.fromkeys("".join(pair) for pair in merges))
    letters = sorted(set(model["vocab"]) - set(specials) - set(merged))
    order = {token: number for number, token in enumerate([*specials, *letters, *merged])}
    return CLIPTokenizer(vocab=order, merges=merges, model_max_length=TEXT_LENGTH)


def text_encoder(words: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModel:
    """Two layers over TEXT_LENGTH tokens, heads of 16 channels."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=width // 16,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=width,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def autoencoder() -> AutoencoderKL:
    """64x64x3 -> 8x8x16. No attention in the middle: 64 positions of one small picture do not need it."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        sample_size=SIZE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def critic() -> torch.nn.Module:
    """[B, 3, 64, 64] -> [B, 1, 16, 16]: is each patch of about 22 pixels painted (high) or decoded (low)?

    A patch critic (Isola et al. 2017) with spectral norm (Miyato et al. 2018); only the autoencoder's training uses it.
    """
    norm, conv, slope = torch.nn.utils.parametrizations.spectral_norm, torch.nn.Conv2d, 0.2
    return torch.nn.Sequential(
        norm(conv(3, 48, 4, stride=2, padding=1)),
        torch.nn.LeakyReLU(slope),
        norm(conv(48, 96, 4, stride=2, padding=1)),
        torch.nn.LeakyReLU(slope),
        norm(conv(96, 128, 3, padding=1)),
        torch.nn.LeakyReLU(slope),
        norm(conv(128, 1, 3, padding=1)),
    )


def unet(widths: tuple[int, ...] = (64, 80, 96, 96), context: int = TEXT_WIDTH) -> UNet2DConditionModel:
    """8x8x16 latents over four resolutions (8, 4, 2, 1), heads of 16 channels."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        cross_attention_dim=context,
        attention_head_dim=tuple(width // 16 for width in widths),  # diffusers' name for the number of heads
        norm_num_groups=16,
        use_linear_projection=True,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 2.1's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def _resnet_config(**more: object) -> ResNetConfig:
    return ResNetConfig(
        embedding_size=24, hidden_sizes=[32, 48, 64, 80], depths=[1, 1, 1, 1], layer_type="basic", **more
    )


def judge(labels: tuple[str, ...]) -> ResNetForImageClassification:
    """A classifier of 64x64 pictures; its labels travel in the config."""
    names = dict(enumerate(labels))
    return ResNetForImageClassification(
        _resnet_config(num_labels=len(labels), id2label=names, label2id={name: i for i, name in names.items()})
    )


def descriptor() -> ResNetModel:
    """The style descriptor: its pooled output, L2-normalised, plays the part of CSD's embedding."""
    return ResNetModel(_resnet_config())


# A small open_clip model. The patch of 8 pixels is the scale of the brushwork.
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24},
    "text_cfg": {
        "context_length": TEXT_LENGTH,
        "width": TEXT_WIDTH,
        "heads": 4,
        "layers": 2,
        "no_causal_mask": False,
    },
}


def clip(vocabulary: int, eos: int, config: Mapping = CLIP_CONFIG) -> torch.nn.Module:
    """An untrained open_clip model. `eos` is the token whose state stands for the whole text."""
    from open_clip import CLIP

    text = config["text_cfg"] | {"vocab_size": vocabulary, "eos_id": eos, "pool_type": "eos"}
    return CLIP(config["embed_dim"], config["vision_cfg"], text)
