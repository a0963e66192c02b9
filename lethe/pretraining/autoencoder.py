"""The autoencoder of a base: first all of it, then its decoder alone, against a critic, so that latents stay."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.pretraining import networks
from lethe.pretraining.fitting import Batch, Job, amp, optimizer, plain
from lethe.pretraining.losses import balanced, reconstruction_loss
from lethe.pretraining.varied import DRAWN, vary

LATENT = (networks.LATENT_CHANNELS, networks.SIZE // 8, networks.SIZE // 8)
LR, DECODER_LR, CRITIC_LR = 1.5e-3, 4e-4, 4e-4


def _draw(pixels: Tensor, batch: int, g: torch.Generator) -> Batch:
    rows = torch.randint(len(pixels), (batch,), generator=g, device=g.device)
    noise = torch.randn(batch, *LATENT, generator=g, device=g.device)
    return {"x": vary(pixels[rows], g, DRAWN), "noise": noise}


def whole(vae: AutoencoderKL, pixels: Tensor, batch: int) -> Job:
    """KL autoencoder of pictures uint8 [N, 64, 64, 4]; the KL weight of 1e-5 only keeps latents from growing."""

    def loss(given: Batch) -> Tensor:
        with amp(pixels.device):
            posterior = vae.encode(given["x"]).latent_dist
            output = vae.decode(posterior.mean + posterior.std * given["noise"]).sample
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return reconstruction_loss(output.float(), given["x"]) + 1e-5 * kl

    return plain(vae, lambda g: _draw(pixels, batch, g), loss, lr=LR, ema=0.998)


def sharper(vae: AutoencoderKL, decoder: nn.Module, pixels: Tensor, batch: int) -> Job:
    """`decoder`, the decoding modules of `vae`, on reconstruction and hinge losses (Lim and Ye 2017)."""
    critic = networks.critic().to(pixels.device)
    drawing = optimizer(list(decoder.parameters()), DECODER_LR, 0.0, betas=(0.5, 0.99))
    judging = optimizer(list(critic.parameters()), CRITIC_LR, 0.0, betas=(0.5, 0.99))

    def compute(given: Batch) -> dict[str, Tensor]:
        x = given["x"]
        with torch.no_grad(), amp(x.device):
            posterior = vae.encode(x).latent_dist
            z = posterior.mean + posterior.std * given["noise"]
        with amp(x.device):
            output = vae.decode(z).sample.float()
        critic.requires_grad_(False)  # it runs in float32: its spectral norms do not mix number formats
        adversarial = -critic(output).mean()
        critic.requires_grad_(True)
        reconstruction = reconstruction_loss(output, x)
        drawing.zero_grad(set_to_none=True)
        output.backward(balanced(output, reconstruction, adversarial))
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        drawing.step()
        hinge = F.relu(1 - critic(x)).mean() + F.relu(1 + critic(output.detach())).mean()
        judging.zero_grad(set_to_none=True)
        hinge.backward()
        judging.step()
        return {"reconstruction": reconstruction.detach(), "critic": hinge.detach()}

    return Job(
        {"student": decoder, "critic": critic},
        {"decoder": drawing, "critic": judging},
        {"decoder": DECODER_LR, "critic": CRITIC_LR},
        lambda g: _draw(pixels, batch, g),
        compute,
        ema=0.998,
    )


@torch.inference_mode()
def encode(vae: AutoencoderKL, x: Tensor, batch: int = 512) -> tuple[Tensor, Tensor]:
    """Posterior mean and std of pictures [N, 3, 64, 64], each float32 [N, 16, 8, 8], unscaled."""
    found = [vae.encode(part).latent_dist for part in x.split(batch)]
    return torch.cat([d.mean for d in found]), torch.cat([d.std for d in found])


@torch.inference_mode()
def rebuilt(vae: AutoencoderKL, x: Tensor, batch: int = 512) -> Tensor:
    """What the autoencoder makes of pictures [N, 3, 64, 64], uint8 RGBA [N, 64, 64, 4]."""
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(batch)]
    pixels = ((torch.cat(parts) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return torch.cat([pixels, torch.full_like(pixels[..., :1], 255)], -1)
