"""Pictures from a U-Net: deterministic samplers, classifier-free guidance, and pictures that depend on nothing else.

A picture is a function of weights, prompt, seed and the options sampler, steps, guidance and tile. Its noise comes from
a CPU generator of its own, seeded by its row; its prompt is encoded alone; and it is computed in a batch of exactly
`tile` pictures, the last one filled up, since libraries choose other kernels, hence other last bits, for other batch
sizes. So order, neighbours, resuming, threads and the number of machines change no byte. Arithmetic is float32 on every
device (TF32 off). Another kind of device or processor may still round differently.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from lethe.errors import UserError
from lethe.models import encode_prompts
from lethe.prompts import Prompt


@dataclass(frozen=True)
class Settings:
    """Section `sample` of the params."""

    sampler: str
    steps: int
    guidance: float
    tile: int


def build_scheduler(name: str, config: dict, steps: int) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """The sampler over the base's noise schedule, prediction type and timestep spacing. DDIM: eta 0, 2010.02502 eq. 12;
    dpmsolver++: second order multistep, 2211.01095 alg. 2. Raises UserError for more steps than the schedule has."""
    if name == "ddim":
        made = DDIMScheduler.from_config(config)
    else:
        made = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
    if steps > made.config.num_train_timesteps:
        raise UserError(f"sample.steps: {steps} is more than the model's {made.config.num_train_timesteps} timesteps")
    return made


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal [B, C, h, w] float32 on the CPU, each row from its own generator."""
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def encode_unique(base: SimpleNamespace, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Prompt -> embedding [L, D] on the CPU; each encoded once, alone, so that other prompts change no bit of it."""
    return {
        prompt: encode_prompts(base.tokenizer, base.text_encoder, [prompt])[0].cpu()
        for prompt in dict.fromkeys(prompts)
    }


def denoise(
    unet: torch.nn.Module,
    scheduler: DDIMScheduler | DPMSolverMultistepScheduler,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    empty: torch.Tensor,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Noise [B, C, h, w] and prompt embeddings [B, L, D], empty [L, D] -> clean latents [B, C, h, w].

    Classifier-free guidance (2207.12598 eq. 6, scale w + 1): empty + guidance * (prompt - empty), both in one forward;
    guidance 1 is the plain conditional model, in half the work.
    """
    guided = guidance != 1
    if guided:
        embeddings = torch.cat([empty.expand_as(embeddings), embeddings])
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:  # kept on the CPU: the scheduler looks its tables up there, without a sync
        inputs = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, t)
        output = unet(inputs, t, encoder_hidden_states=embeddings, return_dict=False)[0]
        if guided:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
    return latents


def decode(vae: torch.nn.Module, latents: torch.Tensor) -> np.ndarray:
    """Latents [B, C, h, w] -> pictures uint8 [B, H, W, 3], rounded to the nearest of 256 values."""
    pixels = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def tiles(count: int, size: int) -> list[range]:
    """Rows 0..count-1 cut into tiles; only the last may be short."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def draw(
    base: SimpleNamespace,
    unet: torch.nn.Module,
    rows: Sequence[Sequence[Prompt]],
    settings: Settings,
    workers: int = 1,
) -> Iterator[np.ndarray]:
    """For each tile of rows its pictures, uint8 [len(tile), H, W, 3], in order.

    `base` holds vae, text_encoder, tokenizer and scheduler, on one device with `unet`, and latent_shape (C, h, w).
    No tile may be longer than `settings.tile`; a shorter one is computed at full length and cut. On a CPU, `workers`
    tiles are computed at a time, each by one thread: a library that shares a batch among threads rounds by a row's
    place in it, and is slower on small networks.
    """
    device = next(unet.parameters()).device
    config = base.scheduler.config
    build_scheduler(settings.sampler, config, settings.steps)  # a wrong step count shows here, not in a thread
    with torch.inference_mode(), _one_thread():
        embeddings = encode_unique(base, ["", *(row.prompt for tile in rows for row in tile)])

    @torch.inference_mode()
    def pictures(tile: Sequence[Prompt]) -> np.ndarray:
        full = [*tile, *[tile[-1]] * (settings.tile - len(tile))]
        latents = denoise(
            unet,
            build_scheduler(settings.sampler, config, settings.steps),
            noise([row.seed for row in full], base.latent_shape).to(device),
            torch.stack([embeddings[row.prompt] for row in full]).to(device),
            embeddings[""].to(device),
            settings.steps,
            settings.guidance,
        )
        return decode(base.vae, latents)[: len(tile)]

    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with flags, _one_thread(), ThreadPoolExecutor(workers if device.type == "cpu" else 1) as pool:
        try:
            yield from pool.map(pictures, rows)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operators of this thread, and of threads started within, run on one CPU thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
