"""How a base is made from a picture set: every number, with its default. Light, so that --help needs no torch."""

from dataclasses import dataclass, field
from pathlib import Path

TRUNK = Path("data/efficientnet-lite0.safetensors")  # ImageNet weights of the judges
VERSION = 2  # of how parts are made; parts of another are not taken for these


def _number(default: int, text: str) -> int:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Options of `stages.pretrain --imagefolder`."""

    seed: int = _number(0, "seed of weights and batches")
    contents: int = _number(0, "content labels to take, in the order of the list; 0: all")
    hold_out: int = _number(10, "per cent of (style, content) pairs that no training sees")
    vocabulary: int = _number(1500, "entries of the tokenizer at most")
    variants: int = _number(24, "shifted copies of each picture whose latents are kept")
    samples: int = _number(1000, "guided samples of seen pairs to measure, beside two of each pair that is held out")
    autoencoder_steps: int = _number(6000, "steps for the autoencoder")
    autoencoder_batch: int = _number(64, "pictures a step, also of its decoder's")
    decoder_steps: int = _number(3000, "further steps of its decoder, against a critic")
    pipeline_steps: int = _number(15000, "steps for U-Net and text encoder")
    pipeline_batch: int = _number(512, "latents a step")
    content_steps: int = _number(600, "steps for the judge of content")
    content_batch: int = _number(192, "pictures a step")
    style_steps: int = _number(600, "steps for the judge of style")
    style_batch: int = _number(192, "pictures a step")
    clip_steps: int = _number(2500, "steps for the text-image model")
    clip_batch: int = _number(512, "pairs a step")


SHARES = {  # of the seconds of training, where those are given instead of steps
    "autoencoder": 0.14,
    "decoder": 0.07,
    "pipeline": 0.66,
    "content": 0.07,
    "style": 0.02,
    "clip": 0.04,
}
