"""How the base bundle's networks are trained: one short loop and one function a network.

All batches are drawn from a generator of (seed, step), so a run that was stopped and goes on from its checkpoint ends
like one that was not.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.files.io import digest
from lethe.pretraining.losses import caption_contrast, cosine, reconstruction_loss, supervised_contrast
from lethe.training import loop
from lethe.training.finetune import adamw, descend


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [B, 64, 64, 3] -> float32 [B, 3, 64, 64] in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def fit(
    module: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    state: Path,
    ema: float | None = None,
    weight_decay: float = 0.01,
    warmup: int = 100,
) -> None:
    """AdamW, gradient norm at most 1, linear warm-up, cosine decay to zero; averaged weights at the end with `ema`.

    Goes on from the checkpoint in `state`, if there is one; removes it at the end.
    """
    optimizer = adamw(module.parameters(), lr, weight_decay)

    def step(k: int) -> dict[str, Tensor]:
        value = loss(torch.Generator().manual_seed(seed * 1_000_003 + k))
        descend(value, optimizer, cosine(lr, warmup, k, steps), clip_norm=1.0)
        return {"loss": value.detach()}

    keeping = loop.Keeping(state, digest([state.name, steps, lr, seed, ema, weight_decay, warmup]), seconds=60.0)
    loop.run(loop.Training(step, {"student": module}, {"adam": optimizer}), steps, keeping, {}, ema)
    loop.forget(keeping)


def amp() -> torch.autocast:
    """bfloat16 autocast on the CPU; the convolutions at full resolution are 2.5 times faster with it."""
    return torch.autocast("cpu", torch.bfloat16)


# --------------------------------------------------------------------------------------------------- autoencoder


def train_autoencoder(
    vae: AutoencoderKL, pictures: np.ndarray, *, steps: int, batch: int, seed: int, state: Path
) -> None:
    """KL autoencoder; the KL weight of 1e-5 only keeps latents from growing."""

    def loss(g: torch.Generator) -> Tensor:
        x = pixels(pictures[torch.randint(len(pictures), (batch,), generator=g).numpy()])
        with amp():
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=g)
            output = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return reconstruction_loss(output.float(), x) + 1e-5 * kl

    fit(vae, loss, steps=steps, lr=1.5e-3, seed=seed, state=state, ema=0.998)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 128) -> tuple[Tensor, Tensor]:
    """Posterior mean and std of uint8 pictures, each float32 [N, 16, 8, 8], unscaled."""
    found = [vae.encode(pixels(pictures[i : i + batch])).latent_dist for i in range(0, len(pictures), batch)]
    return torch.cat([d.mean for d in found]), torch.cat([d.std for d in found])


# -------------------------------------------------------------------------------------------------------- judges


def train_judge(judge: nn.Module, pictures: np.ndarray, labels: Tensor, *, steps: int, seed: int, state: Path) -> None:
    """Cross-entropy on rendered pictures, batches of 64."""

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (64,), generator=g)
        return F.cross_entropy(judge(augment(pixels(pictures[rows.numpy()]), g)).logits, labels[rows])

    fit(judge.train(), loss, steps=steps, lr=3e-3, seed=seed, state=state)
    judge.eval()


def augment(x: Tensor, g: torch.Generator) -> Tensor:
    """Blur of a strength drawn for each picture, and noise: autoencoder and sampler soften brushwork, and a judge that
    knows only sharp pictures takes a soft Monet for a photo."""
    scale = (2, 4)[int(torch.randint(2, (), generator=g))]
    blurred = F.interpolate(F.avg_pool2d(x, scale), scale_factor=scale, mode="bilinear")
    x = x.lerp(blurred, torch.rand((len(x), 1, 1, 1), generator=g))
    return x + 0.05 * torch.randn(x.shape, generator=g)


def train_descriptor(
    net: nn.Module, pictures: np.ndarray, styles: Tensor, *, steps: int, seed: int, state: Path
) -> None:
    """Style descriptor, batches of 80, temperature 0.1 as in CSD."""

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (80,), generator=g)
        x = augment(pixels(pictures[rows.numpy()]), g)
        return supervised_contrast(net(x).pooler_output.flatten(1), styles[rows])

    fit(net.train(), loss, steps=steps, lr=2e-3, seed=seed, state=state)
    net.eval()


def train_clip(clip: nn.Module, pictures: np.ndarray, tokens: Tensor, *, steps: int, seed: int, state: Path) -> None:
    """CLIP's symmetric contrast over batches of 96."""

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (96,), generator=g)
        image, text, scale = clip(augment(pixels(pictures[rows.numpy()]), g), tokens[rows])
        return caption_contrast(image, text, scale, tokens[rows])

    fit(clip.train(), loss, steps=steps, lr=1e-3, seed=seed, state=state)
    clip.eval()


# ------------------------------------------------------------------------------------------------------ pipeline


def train_pipeline(
    both: nn.ModuleDict,
    scheduler: DDIMScheduler,
    latents: tuple[Tensor, Tensor],
    tokens: Tensor,
    empty: Tensor,
    weights: Tensor,
    *,
    steps: int,
    batch: int,
    seed: int,
    state: Path,
) -> None:
    """U-Net and text encoder together: v-prediction, one caption in ten is dropped so that guidance works.

    Args:
        both: modules "unet" and "text_encoder".
        latents: posterior mean and std, float32 [N, 16, 8, 8], already times the scaling factor.
        tokens: caption token ids [N, TEXT_LENGTH]; `empty`: those of the empty prompt [TEXT_LENGTH].
        weights: how often a picture is drawn, float32 [N], relative.
    """
    mean, std = latents
    alphas = scheduler.alphas_cumprod

    def loss(g: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, batch, replacement=True, generator=g)
        z = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=g)
        noise = torch.randn(z.shape, generator=g)
        t = torch.randint(len(alphas), (batch,), generator=g)
        a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        ids = torch.where(torch.rand(batch, 1, generator=g) < 0.1, empty[None], tokens[rows])
        context = both["text_encoder"](ids).last_hidden_state
        return F.mse_loss(both["unet"](a * z + s * noise, t, context).sample, a * noise - s * z)

    fit(
        both,
        loss,
        steps=steps,
        lr=1e-3,
        seed=seed,
        state=state,
        ema=0.9985,
        weight_decay=0.005,
        warmup=200,
    )
