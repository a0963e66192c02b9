"""Pictures from a U-Net: deterministic samplers, classifier-free guidance, and pictures that depend on nothing else.

A picture is a function of weights, prompt, seed and the section `sample`. Its noise comes from a CPU generator of its
own, seeded by its row; its prompt is encoded alone; and it is computed in a batch of exactly `tile` pictures, the last
one filled up, since libraries choose other kernels, hence other last bits, for other batch sizes. So order, neighbours,
resuming, threads and the number of machines change no byte. Arithmetic is float32 (TF32 off), that of the U-Net what
`precision` says (`lethe.models.precision`); another kind of device or processor may still round differently.

Erasers that act while sampling (`lethe.erasing.guidance`) replace what the U-Net is asked at a step, and nothing else.
Attacks may bring embeddings of texts that no tokenizer makes (`states`), and begin at a picture instead of noise
(`starts`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler

from lethe.files.errors import UserError, needed
from lethe.models import precision
from lethe.models.machine import Machine
from lethe.models.pipelines import encode_prompts
from lethe.models.schedulers import build_scheduler
from lethe.params import registry
from lethe.texts.rows import Prompt

# (latents [B, C, h, w], t, number of the step from 0) -> the prediction [B, C, h, w] that the sampler takes
Predict = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """Section `sample` of the params."""

    sampler: str
    steps: int
    guidance: float
    tile: int
    precision: str = "float32"


@dataclass(frozen=True)
class Start:
    """Where the drawing of a picture begins, in place of pure noise.

    The clean latents [C, h, w] are noised, with the row's own noise, to the level of the sampler's step number `step`
    (from 0), and drawing goes on from there. With a `mask` [1, h, w] only what is 1 is drawn anew: after each step the
    rest is put back, noised to that step's level (RePaint, 2201.09865, eq. 8, without resampling and with one noise for
    all levels, as a deterministic sampler has).
    """

    latents: torch.Tensor
    step: int
    mask: torch.Tensor | None = None


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal [B, C, h, w] float32 on the CPU, each row from its own generator."""
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def encode_unique(base: SimpleNamespace, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Prompt -> embedding [L, D] on the CPU; each encoded once, alone, so that other prompts change no bit of it."""
    return {
        prompt: encode_prompts(base.tokenizer, base.text_encoder, [prompt])[0].cpu()
        for prompt in dict.fromkeys(prompts)
    }


def ask(
    unet: torch.nn.Module,
    latents: torch.Tensor,
    t: torch.Tensor,
    text: Sequence[torch.Tensor],
    fill: bool = False,
) -> torch.Tensor:
    """The U-Net's predictions [K, B, C, h, w] under K texts [B, L, D] (or [L, D]), in one forward. `fill`: to eights of
    rows for two texts, too."""
    words = torch.cat([one.expand(len(latents), -1, -1) for one in text])
    inputs = torch.cat([latents] * len(text))
    if fill or len(text) > 2:
        inputs, words = _filled(inputs), _filled(words)
    output = unet(inputs, t, encoder_hidden_states=words, return_dict=False)[0]
    return output[: len(text) * len(latents)].unflatten(0, (len(text), -1))


def _filled(batch: torch.Tensor) -> torch.Tensor:
    """Last row repeated up to a multiple of eight rows: the CPU's vectors round a tensor's odd last numbers otherwise,
    so that a picture would depend on its place in the tile."""
    return torch.cat([batch, batch[-1:].expand(-len(batch) % 8, *batch.shape[1:])])


def guided(
    unet: torch.nn.Module,
    latents: torch.Tensor,
    t: torch.Tensor,
    embeddings: torch.Tensor,
    empty: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    """Classifier-free guidance (2207.12598 eq. 6, scale w + 1): empty + guidance * (prompt - empty), in one forward.

    `embeddings` [B, L, D], `empty` [L, D]. Guidance 1 is the plain conditional model, in half the work.
    """
    if guidance == 1:
        return ask(unet, latents, t, [embeddings])[0]
    unconditional, conditional = ask(unet, latents, t, [empty, embeddings])
    return unconditional + guidance * (conditional - unconditional)


def denoise(
    unet: torch.nn.Module,
    scheduler: DDIMScheduler | DPMSolverMultistepScheduler,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    empty: torch.Tensor,
    steps: int,
    guidance: float,
    predict: Predict | None = None,
    starts: Sequence[Start] | None = None,
    ended: Event | None = None,
) -> torch.Tensor:
    """Noise [B, C, h, w] and prompt embeddings [B, L, D], empty [L, D] -> clean latents [B, C, h, w].

    Each step takes the prediction of `predict`, or of classifier-free guidance alone. `starts`: one a row, all at the
    same step; the rows' noise is then that of the latents to begin with, and of what is known. Once `ended` is set,
    CancelledError is raised at the next step: nobody waits for these pictures any more.
    """
    scheduler.set_timesteps(steps)
    first, fresh = 0, latents
    latents = latents * scheduler.init_noise_sigma
    if starts:
        (first,) = {start.step for start in starts}
        known = torch.stack([start.latents for start in starts]).to(latents)
        latents = noised(scheduler, known, fresh, first)
    masks = None
    if starts and starts[0].mask is not None:
        masks = torch.stack([needed(start.mask, "mask") for start in starts]).to(latents)
    for index, t in enumerate(scheduler.timesteps):  # on the CPU: the scheduler looks its tables up there, without sync
        if index < first:
            continue
        if ended and ended.is_set():
            raise CancelledError
        inputs = scheduler.scale_model_input(latents, t)
        output = predict(inputs, t, index) if predict else guided(unet, inputs, t, embeddings, empty, guidance)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
        if masks is not None:
            latents = masks * latents + (1 - masks) * noised(scheduler, known, fresh, index + 1)
    return latents


def noised(
    scheduler: DDIMScheduler | DPMSolverMultistepScheduler, latents: torch.Tensor, noise: torch.Tensor, index: int
) -> torch.Tensor:
    """Clean latents at the noise level of the sampler's step `index`, a_t z + s_t e; after the last, as they are."""
    if index == len(scheduler.timesteps):
        return latents
    level = scheduler.alphas_cumprod[scheduler.timesteps[index]]
    return level.sqrt() * latents + (1 - level).sqrt() * noise


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
    """Latents [B, C, h, w] -> pictures uint8 [B, H, W, 3], rounded to the nearest of 256 values.

    Raises UserError for NaN or infinity, which would become black pictures that pass for erased ones.
    """
    inputs = (latents / vae.config.scaling_factor).to(next(vae.parameters()).dtype)
    pixels = vae.decode(inputs, return_dict=False)[0].float()
    if not torch.isfinite(pixels).all():
        what = "decoder gives" if torch.isfinite(latents).all() else "U-Net gives"
        raise UserError(f"the {what} NaN or infinity; with sample.precision float16 try bfloat16, else another model")
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
    guidance: Mapping | None = None,
    states: Mapping[str, torch.Tensor] | None = None,
    starts: Sequence[Sequence[Start]] | None = None,
    machine: Machine | None = None,
) -> Iterator[np.ndarray]:
    """For each tile of rows its pictures, uint8 [len(tile), H, W, 3], in order.

    `base` holds vae, text_encoder, tokenizer and scheduler, on one device with `unet`, and latent_shape (C, h, w).
    No tile may be longer than `settings.tile`; a shorter one is computed at full length and cut. On a CPU, `workers`
    tiles are computed at a time, each by one thread: a library that shares a batch among threads rounds by a row's
    place in it, and is slower on small networks. `guidance`: the record of an eraser that acts while sampling.
    `states`: embeddings [L, D] of texts that are not to be encoded. `starts`: for each tile its rows' beginnings, all
    at one step. `machine`: torch's switches, if not those that give a picture the same bits each time.
    """
    device = next(unet.parameters()).device
    config = base.scheduler.config
    build_scheduler(settings.sampler, config, settings.steps)  # a wrong step count shows here, not in a thread
    with torch.inference_mode(), _one_thread():
        unet = precision.applied(unet, settings.precision)
        texts = ["", *(row.prompt for tile in rows for row in tile)]
        states = {text: state.detach().float().cpu() for text, state in (states or {}).items()}
        embeddings = encode_unique(base, [text for text in texts if text not in states]) | states
        eraser = registry.get("erasers", guidance["eraser"]) if guidance else None
        begin = eraser.guide(base, unet, guidance, settings, embeddings) if eraser else None

    ended = Event()

    @torch.inference_mode()
    def pictures(tile: Sequence[Prompt], begun: Sequence[Start] | None = None) -> np.ndarray:
        full, begun = _lengthened(tile, settings.tile), _lengthened(begun, settings.tile) if begun else None
        prompts = [row.prompt for row in full]
        latents = denoise(
            unet,
            build_scheduler(settings.sampler, config, settings.steps),
            noise([row.seed for row in full], base.latent_shape).to(device),
            torch.stack([embeddings[prompt] for prompt in prompts]).to(device),
            embeddings[""].to(device),
            settings.steps,
            settings.guidance,
            begin(prompts) if begin else None,
            begun,
            ended,
        )
        if not latents.isfinite().all():  # they would be drawn black, and pass for erased
            raise UserError(f"{prompts[0]!r}, or one in its tile: latents not finite; {_remedy(settings.precision)}")
        return decode(base.vae, latents)[: len(tile)]

    same_bits = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with (
        machine.computing() if machine else same_bits,
        _one_thread(),
        ThreadPoolExecutor(workers if device.type == "cpu" else 1) as pool,
    ):
        try:
            yield from pool.map(pictures, rows, *([starts] if starts else []))
        finally:  # also where the caller goes away: after SIGTERM, or because of an error
            ended.set()
            pool.shutdown(cancel_futures=True)


def _lengthened(tile: Sequence, length: int) -> list:
    """A tile at full length: its last item again."""
    return [*tile, *[tile[-1]] * (length - len(tile))]


def _remedy(name: str) -> str:
    if name == "float16":
        return "float16 ends at 65504: set sample.precision to bfloat16 or float32"
    return "the weights are broken or do not fit the base model: make them again"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operators of this thread, and of threads started within, run on one CPU thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
