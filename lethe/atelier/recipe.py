"""How the base bundle is made: every number, with its default. Light, so that --help needs no torch."""

from dataclasses import dataclass, field

VERSION = 2  # of how parts are made; parts of another are not taken for these


def _number(default: int, text: str) -> int:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Options of `stages.pretrain`."""

    seed: int = _number(0, "seed of weights, batches and pictures")
    pictures: int = _number(20000, "rendered pictures for the pipeline")
    judge_pictures: int = _number(10000, "rendered pictures for the judges")
    unseen: int = _number(2000, "rendered pictures the judges are measured on")
    samples: int = _number(1000, "guided samples the pipeline is measured on")
    autoencoder_steps: int = _number(3000, "steps of 16 pictures")
    decoder_steps: int = _number(1600, "further steps of its decoder, against a critic")
    pipeline_steps: int = _number(10000, "steps of 64 latents for U-Net and text encoder")
    style_steps: int = _number(500, "steps of 64 pictures for the style judge")
    content_steps: int = _number(1000, "steps of 64 pictures for the content judge")
    emblem_steps: int = _number(400, "steps of 64 pictures for the emblem judge")
    descriptor_steps: int = _number(500, "steps of 80 pictures for the style descriptor")
    clip_steps: int = _number(1500, "steps of 96 pairs for the CLIP model")
