"""Networks of a published form with random weights, pruned by the project's own pruner, and pictures to train on."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.models.macs import trace
from lethe.pruning import narrowing
from lethe.training.data import Drawn, Encoded, to_device

SIZES = Path(__file__).with_name("sizes.yaml")
ROWS = 64  # pictures to train on


def sizes() -> dict[str, dict]:
    """What `sizes.yaml` holds."""
    return yaml.safe_load(SIZES.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Networks:
    """The networks of one size on one device, float32; each is made when it is first asked for."""

    size: dict
    device: torch.device
    pruned: dict[float, UNet2DConditionModel] = field(default_factory=dict)  # budget -> U-Net
    macs: dict[str, int] = field(
        default_factory=dict
    )  # of one picture: "dense", "0.8", ..., "encode", "decode", "text"

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return self._made(UNet2DConditionModel, self.size["unet"])

    @cached_property
    def vae(self) -> AutoencoderKL:
        return self._made(AutoencoderKL, self.size["vae"])

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        torch.manual_seed(0)
        with self.device:
            return CLIPTextModel(CLIPTextConfig(**self.size["text_encoder"])).eval().requires_grad_(False)

    def _made(self, kind: type, config: dict) -> nn.Module:
        torch.manual_seed(0)
        with self.device:
            return kind(**config).eval().requires_grad_(False)

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return self.size["text_encoder"]["max_position_embeddings"]

    @property
    def latent(self) -> tuple[int, int, int]:
        """Shape of a picture's latent."""
        return pipelines.latent_shape(self.unet, self.vae, self.size["pixels"])

    @property
    def scheduler(self) -> DDIMScheduler:
        return DDIMScheduler(**self.size["scheduler"])

    def student(self, budget: float) -> UNet2DConditionModel:
        """A copy of the U-Net pruned to a share of its MACs by magnitude."""
        if budget not in self.pruned:
            goal = narrowing.Goal(budget, self.latent, self.length, keep_least=0.2, tolerance=0.01)
            found, record = narrowing.prune(copy.deepcopy(self.unet), "magnitude", goal)
            self.pruned[budget] = found.requires_grad_(False)
            self.macs.update({"dense": record["macs"]["dense"], str(budget): record["macs"]["kept"]})
        return copy.deepcopy(self.pruned[budget])

    def vae_macs(self, way: str) -> int:
        """MACs of `encode` or `decode` of one picture."""
        if way not in self.macs:
            meta, side = torch.device("meta"), self.size["pixels"]
            shape = (3, side, side) if way == "encode" else self.latent
            net = _Way(copy.deepcopy(self.vae).to(meta), way)
            self.macs[way] = trace(net, torch.zeros(1, *shape, device=meta))[""]
        return self.macs[way]

    def base(self) -> SimpleNamespace:
        """What sampling draws with; the tokenizer knows single letters, which cost what words cost."""
        parts = {"vae": self.vae, "text_encoder": self.text_encoder, "scheduler": self.scheduler}
        return SimpleNamespace(**parts, tokenizer=tokenizer(self.length), latent_shape=self.latent)

    def encoded(self) -> Encoded:
        """Random latents and captions, as stage encode leaves them."""
        draws = torch.Generator().manual_seed(0)
        shape, width = (ROWS, *self.latent), self.size["unet"]["cross_attention_dim"]
        text = torch.randn((ROWS + 1, self.length, width), generator=draws)
        mean, std = torch.randn(shape, generator=draws), torch.full(shape, 0.1)
        return Encoded(mean, std, text[1:].half(), text[:1].to(self.device), torch.arange(ROWS), self.device)


class _Way(nn.Module):
    def __init__(self, vae: AutoencoderKL, way: str) -> None:
        super().__init__()
        self.vae, self.way = vae, way

    def forward(self, values: Tensor) -> Tensor:
        return self.vae.encode(values).latent_dist.mean if self.way == "encode" else self.vae.decode(values)[0]


@dataclass(frozen=True)
class Live(Encoded):
    """Pictures that are encoded at every step, as the released trainer does: VAE, caption, empty caption; float32.

    Of the encode result that it is made from, device and empty caption alone are used.
    """

    nets: Networks = field(kw_only=True)

    def batch(self, draws: torch.Generator, count: int, dropout: float = 0.0) -> Drawn:
        """As `Encoded.batch`. Captions are never dropped there, so a share of them is refused."""
        if dropout:
            raise UserError("distill.caption_dropout: the released trainer drops no captions; give 0")
        side = self.nets.size["pixels"]
        pixels = to_device(torch.rand((count, 3, side, side), generator=draws) * 2 - 1, self.device)
        words = torch.randint(1000, (2 * count, self.nets.length), generator=draws)
        with torch.no_grad():
            vae, encoder = self.nets.vae, self.nets.text_encoder
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            words = to_device(words % encoder.config.vocab_size, self.device)
            text, _ = encoder(words)[0].chunk(2)
        return Drawn(latents, text, None, None, None)


class Twice(nn.Module):
    """A teacher that is asked for one half of a batch of two texts, and then for the other."""

    def __init__(self, net: nn.Module, batch: int) -> None:
        super().__init__()
        self.net, self.batch = net, batch

    def forward(self, latents: Tensor, t: Tensor, text: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        parts = zip(*(value.split(self.batch) for value in (latents, t, text)), strict=True)
        return (torch.cat([self.net(*part, return_dict=False)[0] for part in parts]),)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


def tokenizer(length: int) -> CLIPTokenizer:
    """Single letters, inside a word and at its end."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)
