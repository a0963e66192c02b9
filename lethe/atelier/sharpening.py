"""Brushwork: the autoencoder's decoder learns against a critic what a mean of all possible strokes can not show.

The encoder, and with it every latent, stays as it is.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.atelier.training import amp, pixels
from lethe.files.io import digest
from lethe.pretraining import networks
from lethe.pretraining.losses import balanced, cosine, reconstruction_loss
from lethe.training import loop

LR, CRITIC_LR = 4e-4, 4e-4
CHECKPOINT_SECONDS = 60.0


def sharpen(
    vae: AutoencoderKL, decoder: nn.Module, pictures: np.ndarray, *, steps: int, batch: int, seed: int, state: Path
) -> None:
    """Trains `decoder`, the decoding modules of `vae`: reconstruction and hinge losses (Lim and Ye 2017).

    The decoder ends with its averaged weights.
    """
    critic = networks.critic()
    adamw = partial(torch.optim.AdamW, betas=(0.5, 0.99), weight_decay=0.0, fused=True)
    drawing = adamw(decoder.parameters(), lr=LR)
    judging = adamw(critic.parameters(), lr=CRITIC_LR)

    def step(k: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(seed * 1_000_003 + k)
        x = pixels(pictures[torch.randint(len(pictures), (batch,), generator=g).numpy()])
        with torch.no_grad(), amp():
            posterior = vae.encode(x).latent_dist
            z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=g)
        with amp():
            output = vae.decode(z).sample.float()
            critic.requires_grad_(False)
            adversarial = -critic(output).float().mean()
            critic.requires_grad_(True)
        reconstruction = reconstruction_loss(output, x)
        drawing.param_groups[0]["lr"] = cosine(LR, 100, k, steps)
        drawing.zero_grad()
        output.backward(balanced(output, reconstruction, adversarial))
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        drawing.step()
        with amp():
            painted, decoded = critic(x).float(), critic(output.detach()).float()
        hinge = F.relu(1 - painted).mean() + F.relu(1 + decoded).mean()
        judging.zero_grad()
        hinge.backward()
        judging.step()
        return {"reconstruction": reconstruction.detach(), "critic": hinge.detach()}

    keeping = loop.Keeping(state, digest([state.name, steps, batch, seed]), CHECKPOINT_SECONDS)
    training = loop.Training(step, {"student": decoder, "critic": critic}, {"decoder": drawing, "critic": judging})
    loop.run(training, steps, keeping, {}, ema=0.998)
    loop.forget(keeping)
