"""Tiny models and pictures that most tests share: random weights from fixed seeds, made once a session."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The nets are too small to share out, and threads would change the order of sums between machines."""
    import torch

    torch.set_num_threads(1)


def tokenizer(length: int):
    """Byte-pair CLIP tokenizer without merges: single characters, inside a word and at its end."""
    from transformers import CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.'-"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


def text_encoder(words, width: int, length: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=length,
            projection_dim=width,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def save_base(folder: Path, *, seed: int, length: int, width: int, unet: dict, vae: dict, scheduler) -> Path:
    """A StableDiffusionPipeline folder with random weights."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer(length)
        StableDiffusionPipeline(
            vae=AutoencoderKL(**vae),
            text_encoder=text_encoder(words, width, length),
            tokenizer=words,
            unet=UNet2DConditionModel(**unet, cross_attention_dim=width),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def vae_options(widths: tuple[int, ...], pixels: int, groups: int) -> dict:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": groups,
        "sample_size": pixels,
    }


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """v-prediction, 32x32 pictures, 8x8x4 latents, text of 16 tokens, 16 wide; two resolutions, linear projections."""
    from diffusers import DDIMScheduler

    return save_base(
        tmp_path_factory.mktemp("tiny") / "base",
        seed=1,
        length=16,
        width=16,
        unet={
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": (2, 4),
            "norm_num_groups": 4,
            "use_linear_projection": True,
        },
        vae=vae_options((8, 16, 16), 32, 4),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction",
        ),
    )


@pytest.fixture(scope="session")
def other_base(tmp_path_factory) -> Path:
    """Differs from tiny_base in all it can: epsilon-prediction, 48x48 pictures, 12x12x4 latents, PNDM, text of 20."""
    from diffusers import PNDMScheduler

    return save_base(
        tmp_path_factory.mktemp("other") / "base",
        seed=2,
        length=20,
        width=24,
        unet={
            "sample_size": 12,
            "block_out_channels": (24, 48, 48),
            "layers_per_block": 2,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 3,
            "norm_num_groups": 8,
        },
        vae=vae_options((8, 8, 16), 48, 8),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
    )


@pytest.fixture(scope="session")
def tiny_pictures(tmp_path_factory) -> Path:
    """Imagefolder: twelve 40x36 pictures of noise on a colour, with captions and three styles."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    styles, things = ("van_gogh", "monet", "munch"), ("boat", "house", "tree", "sun")
    lines = []
    for i in range(12):
        noise = np.random.default_rng(i)
        pixels = noise.integers(0, 200, 3) + noise.integers(0, 56, (36, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
        style, thing = styles[i % 3], things[i % 4]
        caption = f"a {thing} by {style.replace('_', ' ')}"
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": caption, "style": style}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
