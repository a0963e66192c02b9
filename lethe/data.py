"""Latents and caption embeddings, computed once; batches of them, each a pure function of its generator."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from lethe import models, tensors
from lethe.errors import UserError
from lethe.io import digest, read_json, write_json
from lethe.pictures import Pictures

LATENTS, CAPTIONS, INDEX = "latents.safetensors", "captions.safetensors", "index.json"
TILE = 16  # pictures encoded together; a constant, so that no setting of the machine changes a latent


def fit(picture: Image.Image, side: int) -> torch.Tensor:
    """RGB picture -> [3, side, side] in [-1, 1]: short side resized (bicubic, antialiased), centre cropped."""
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)


def encode(
    pictures: Pictures, base: SimpleNamespace, folder: Path, resolution: int, flip: bool, device: torch.device
) -> None:
    """Writes latents.safetensors, captions.safetensors and index.json into `folder`.

    `base` holds vae, tokenizer and text_encoder. "mean" and "std" are those of the VAE's posterior, in the U-Net's
    units: (mean - shift_factor) * scaling_factor and std * scaling_factor. Flipped copies follow after all rows.
    Each caption is encoded once, and the empty one. Raises UserError naming the row of a picture that is not readable.
    """
    count, side = len(pictures), models.latent_side(resolution, models.vae_scale(base.vae))
    shape = (count * (1 + flip), base.vae.config.latent_channels, side, side)
    arrays = tensors.allocate(folder / LATENTS, {"mean": shape, "std": shape})
    for rows, pixels in _batches(pictures, resolution):
        for copy in range(1 + flip):
            mean, std = _posterior(base.vae, pixels.flip(-1) if copy else pixels, device)
            for key, value in (("mean", mean), ("std", std)):
                arrays[key][copy * count + rows[0] : copy * count + rows[-1] + 1] = value.numpy()
    for array in arrays.values():
        array.flush()

    captions = list(dict.fromkeys(pictures.captions))
    place = {text: index for index, text in enumerate(captions)}
    tiles = [captions[start : start + TILE] for start in range(0, len(captions), TILE)]
    embeddings = [models.encode_prompts(base.tokenizer, base.text_encoder, tile).half().cpu() for tile in tiles]
    empty = models.encode_prompts(base.tokenizer, base.text_encoder, [""]).half().cpu()
    tensors.save(folder / CAPTIONS, {"embeddings": torch.cat(embeddings), "empty": empty})
    write_json(
        folder / INDEX,
        {
            "files": pictures.files,
            "captions": captions,
            "caption": [place[text] for text in pictures.captions],
            "flip": flip,
            "resolution": resolution,
        },
    )


def _batches(pictures: Pictures, side: int) -> Iterator[tuple[range, torch.Tensor]]:
    """Rows and their pixels [<= TILE, 3, side, side], in order; the next tile is decoded while one is being used."""

    def pixels(row: int, content: bytes) -> torch.Tensor:
        return fit(pictures.decode(row, content), side)

    with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter
        waiting = []
        for start in range(0, len(pictures), TILE):
            rows = range(start, min(start + TILE, len(pictures)))
            waiting.append((rows, [pool.submit(pixels, row, pictures.read(row)) for row in rows]))
            if len(waiting) > 1:
                yield _joined(*waiting.pop(0))
        yield _joined(*waiting.pop())


def _joined(rows: range, futures: list[Future]) -> tuple[range, torch.Tensor]:
    return rows, torch.stack([future.result() for future in futures])


@torch.inference_mode()
def _posterior(vae: torch.nn.Module, pixels: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    posterior = vae.encode(pixels.to(device)).latent_dist
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    factor = vae.config.scaling_factor
    return ((posterior.mean - shift) * factor).float().cpu(), (posterior.std * factor).float().cpu()


def own_resolution(path: str, revision: str | None, vae: torch.nn.Module) -> int:
    """Picture side in pixels that the base model was made for."""
    side = UNet2DConditionModel.load_config(path, subfolder="unet", revision=revision)["sample_size"]
    return (side if isinstance(side, int) else min(side)) * models.vae_scale(vae)


def generator(seed: int, stream: str, step: int) -> torch.Generator:
    """The CPU generator of one step of one stream ("lower", "upper", ...): resuming needs no generator state."""
    return torch.Generator().manual_seed(int(digest([seed, stream, step]), 16) & 0xFFFFFFFF)


def shares(total: int, parts: int, step: int) -> list[int]:
    """`total` dealt to `parts` equally; what remains goes round from step to step, so that all get as much."""
    base, remainder = divmod(total, parts)
    lucky = {(step * remainder + k) % parts for k in range(remainder)}
    return [base + (part in lucky) for part in range(parts)]


@dataclass(frozen=True)
class Encoded:
    """An encode result. Tensors stay on the CPU, mapped from the file; batches go to `device`."""

    mean: torch.Tensor  # [N, C, h, w] float32, flipped copies included
    std: torch.Tensor  # the same
    embeddings: torch.Tensor  # [U, L, D] float16, of the unique captions
    empty: torch.Tensor  # [1, L, D] float32, on `device`
    caption: torch.Tensor  # [N] long: row -> caption
    device: torch.device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Encoded":
        """Raises UserError if a file is missing, not whole, or does not fit the others."""
        folder = Path(folder)
        index = read_json(folder / INDEX)
        latents, captions = tensors.load(folder / LATENTS), tensors.load(folder / CAPTIONS)
        rows = torch.tensor(index["caption"] * (1 + index["flip"]))
        fits = len(latents["mean"]) == len(latents["std"]) == len(rows) > 0
        if not fits or int(rows.max()) >= len(captions["embeddings"]):
            raise UserError(f"{folder}: its files do not belong together; delete it and run encode again")
        empty = captions["empty"].float().to(device)
        return cls(latents["mean"], latents["std"], captions["embeddings"], empty, rows, device)

    def check(self, unet: torch.nn.Module, where: str, like: "Encoded") -> None:
        """Raises UserError if latents or embeddings are not what the U-Net takes, or have another size than `like`."""
        channels, width = self.mean.shape[1], self.embeddings.shape[-1]
        if channels != unet.config.in_channels:
            raise UserError(f"{where}: latents have {channels} channels, the U-Net takes {unet.config.in_channels}")
        if width != unet.config.cross_attention_dim:
            raise UserError(
                f"{where}: captions are {width} wide, the U-Net takes {unet.config.cross_attention_dim}; encode the "
                "pictures with the base model of this run"
            )

        if self.mean.shape[1:] != like.mean.shape[1:] or self.embeddings.shape[1:] != like.embeddings.shape[1:]:
            raise UserError(
                f"{where}: latents {list(self.mean.shape[1:])} and captions {list(self.embeddings.shape[1:])}, the "
                f"fine-tuning pictures {list(like.mean.shape[1:])} and {list(like.embeddings.shape[1:])}; encode both "
                "with the same base model and resolution"
            )

    def batch(self, draws: torch.Generator, count: int, dropout: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [count, C, h, w], drawn from the posterior, and caption embeddings [count, L, D], both float32.

        Rows are drawn with replacement; a share `dropout` of captions is the empty one. All draws are made on the CPU:
        the same batch on any device.
        """
        rows = torch.randint(len(self.caption), (count,), generator=draws)
        drop = torch.rand(count, generator=draws) < dropout
        noise = torch.randn((count, *self.mean.shape[1:]), generator=draws)
        latents = torch.addcmul(self.mean[rows], self.std[rows], noise)
        text = self.embeddings[self.caption[rows]].float()
        latents, text = to_device(latents, self.device), to_device(text, self.device)
        if dropout:
            text = torch.where(to_device(drop, self.device)[:, None, None], self.empty, text)
        return latents, text


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves without making the host wait for the device."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
