"""Those that judge: one of content and one of style, both from a real ImageNet network, and a text-image model.

The judge of content is all of EfficientNet-Lite0, fine-tuned. That of style must not know what is shown: fine-tuned
whole, it learns by heart which picture is whose and fails on names it has not seen. So it is a bag of local features
(Brendel and Bethge 2019): the network's first stages as they are, a layer of detectors on each place, and a linear
layer on how strongly each answers on average. What its linear layer reads also is the style descriptor.
All see rough variations of pictures and of what the autoencoder makes of them, so that blur tells them nothing.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.pretraining import trunk
from lethe.pretraining.diffusion import Captions
from lethe.pretraining.fitting import Batch, Job, amp, plain
from lethe.pretraining.losses import caption_contrast
from lethe.pretraining.varied import ROUGH, WHITE, How, vary

SIDE = 96  # pixels, to which pictures are enlarged
UNSEEN = 10  # one content in so many is not used to learn styles: what is measured there is no memory
EARLY = {  # the first three stages of EfficientNet-Lite0, as transformers' EfficientNet is told of them
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "kernel_sizes": (3, 3, 5),
    "in_channels": (32, 16, 24),
    "out_channels": (16, 24, 40),
    "strides": (1, 2, 2),
    "num_block_repeats": (1, 2, 2),
    "expand_ratios": (1, 6, 6),
    "hidden_act": "relu6",
    "hidden_dim": 1280,  # local detectors
    "image_size": SIDE,
    "dropout_rate": 0.3,
    "batch_norm_momentum": 0.1,
}
OPEN = 30.0  # a gate's bias: transformers' network has gates that EfficientNet-Lite0 lacks; sigmoid of it is 1


class Content(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> logits of content."""

    def __init__(self, labels: list[str], weights: Path) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(trunk.ARCHITECTURE, pretrained=False, num_classes=len(labels))
        self.net.load_state_dict(trunk.load(weights).state_dict(), strict=False)  # all but the classifier

    def forward(self, x: Tensor) -> Tensor:
        """[B, labels]."""
        return self.net(enlarged(x))


class Style(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> logits of style, from local features alone."""

    def __init__(self, labels: list[str], weights: Path) -> None:
        super().__init__()
        from transformers import EfficientNetConfig, EfficientNetForImageClassification

        names = dict(enumerate(labels))
        numbers = {label: number for number, label in names.items()}
        config = EfficientNetConfig(**EARLY, num_labels=len(labels), id2label=names, label2id=numbers)
        self.net = EfficientNetForImageClassification(config)
        encoder = self.net.efficientnet.encoder
        for layer in (encoder.top_conv, encoder.top_bn, self.net.classifier):
            layer.reset_parameters()  # transformers' own first values leave the detectors all but silent
        _fill(self.early, trunk.load(weights).state_dict())
        self.early.requires_grad_(False)

    @property
    def early(self) -> nn.Sequential:
        """The first stages."""
        return nn.Sequential(self.net.efficientnet.embeddings, *self.net.efficientnet.encoder.blocks)

    def train(self, mode: bool = True) -> "Style":
        """The first stages stay as ImageNet made them, their normalisation too."""
        super().train(mode)
        self.early.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """How strongly each detector answers, averaged over the picture: [B, 1280]."""
        return self.net.efficientnet(pixel_values=enlarged(x)).pooler_output

    def forward(self, x: Tensor) -> Tensor:
        """[B, labels]."""
        return self.net(pixel_values=enlarged(x)).logits


@torch.no_grad()
def _fill(early: nn.Module, state: dict[str, Tensor]) -> None:
    """The trunk's first tensors, which come in the same order; gates are opened for good."""
    gates = {key: value for key, value in early.state_dict().items() if "squeeze_excite" in key}
    for key, value in gates.items():
        value.fill_(OPEN if key.endswith("expand.bias") else 0.0)
    own = [value for key, value in early.state_dict().items() if key not in gates]
    for value, given in zip(own, state.values(), strict=False):
        value.copy_(given)


def enlarged(x: Tensor) -> Tensor:
    """[B, 3, SIDE, SIDE], as the bundle's preprocessing does it."""
    return F.interpolate(x, size=SIDE, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def unseen(contents: list[str]) -> list[bool]:
    """Which contents are not used to learn styles."""
    return [int(hashlib.sha256(content.encode()).hexdigest(), 16) % UNSEEN == 0 for content in contents]


def job(judge: nn.Module, bank: Tensor, labels: Tensor, batch: int, how: How, lr: float) -> Job:
    """A judge on pictures uint8 [N, 64, 64, 4] with their label numbers."""

    def draw(g: torch.Generator) -> Batch:
        rows = torch.randint(len(bank), (batch,), generator=g, device=g.device)
        return {"x": vary(bank[rows], g, how), "label": labels[rows]}

    def loss(given: Batch) -> Tensor:
        with amp(bank.device):
            logits = judge(given["x"])
        return F.cross_entropy(logits.float(), given["label"], label_smoothing=0.05)

    return plain(judge.train(), draw, loss, lr=lr, weight_decay=0.05, warmup=100)


def content_job(judge: Content, bank: Tensor, labels: Tensor, batch: int) -> Job:
    """The whole network is fine-tuned."""
    return job(judge, bank, labels, batch, ROUGH, lr=1e-3)


def style_job(judge: Style, bank: Tensor, labels: Tensor, batch: int) -> Job:
    """Detectors and the linear layer alone."""
    return job(judge, bank, labels, batch, ROUGH, lr=3e-3)


def clip_job(clip: nn.Module, pixels: Tensor, captions: Captions, seen: Tensor, batch: int) -> Job:
    """Text-image model: pictures against captions, in all wordings."""

    def draw(g: torch.Generator) -> Batch:
        rows = seen[torch.randint(len(seen), (batch,), generator=g, device=g.device)]
        white = torch.full_like(rows, WHITE)
        return {"x": vary(pixels[rows], g, ROUGH, white), "ids": captions.draw(rows, white, g)}

    def loss(given: Batch) -> Tensor:
        with amp(pixels.device):
            image, text, scale = clip(given["x"], given["ids"])
        return caption_contrast(image.float(), text.float(), scale.float(), given["ids"])

    return plain(clip.train(), draw, loss, lr=1e-3, weight_decay=0.05)


@torch.inference_mode()
def predictions(judge: nn.Module, x: Tensor, batch: int = 512) -> Tensor:
    """Label number of each picture [N, 3, 64, 64]."""
    return torch.cat([judge(part).argmax(1) for part in x.split(batch)])


@torch.inference_mode()
def prototype_accuracy(judge: Style, x: Tensor, styles: Tensor, known: Tensor, asked: Tensor) -> float:
    """Share of `asked` pictures whose nearest style prototype (mean of the known ones' descriptors) is their own."""
    z = F.normalize(torch.cat([judge.features(part) for part in x.split(512)]), dim=1)
    prototypes = torch.stack([z[known & (styles == k)].mean(0) for k in range(int(styles.max()) + 1)])
    nearest = (z[asked] @ F.normalize(prototypes, dim=1).T).argmax(1)
    return (nearest == styles[asked]).float().mean().item()


@torch.inference_mode()
def caption_accuracy(clip: nn.Module, x: Tensor, ids: Tensor) -> float | None:
    """Share of pictures whose own caption beats 31 others; the last incomplete 32 are left out. None of fewer."""
    right, count = 0, len(x) // 32 * 32
    for i in range(0, count, 32):
        image, text, _ = clip(x[i : i + 32], ids[i : i + 32])
        best = (image @ text.T).argmax(1)
        right += int((ids[i : i + 32][best] == ids[i : i + 32]).all(-1).sum())
    return right / count if count else None
