"""Latents and caption embeddings, computed once; batches of them, each a pure function of its generator."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from lethe.files import tensors
from lethe.files.errors import UserError, needed
from lethe.files.io import META, checked, digest, read_json, write_json
from lethe.models import pipelines
from lethe.texts.wording import end_token, token_mask
from lethe.training.pictures import Pictures

LATENTS, CAPTIONS, INDEX = "latents.safetensors", "captions.safetensors", "index.json"
TILE = 16  # pictures encoded together; a constant, so that no setting of the machine changes a latent
STRIP = 8  # times as long as wide: of a longer picture only what stays is computed, with other roundings


def fit(picture: Image.Image, side: int) -> torch.Tensor:
    """RGB picture -> [3, side, side] in [-1, 1]: short side resized (bicubic, antialiased), centre cropped."""
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if max(width, height) > STRIP * side:  # 2 x 6,000 pixels would be 64 x 192,000 on the way
        x, y = picture.width / width, picture.height / height
        picture = picture.resize(
            (side, side), Image.Resampling.BICUBIC, box=(left * x, top * y, box[2] * x, box[3] * y)
        )
    else:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC).crop(box)
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)


def encode(
    pictures: Pictures,
    base: SimpleNamespace,
    folder: Path,
    resolution: int,
    flip: bool,
    device: torch.device,
    anchors: Sequence[str] | None = None,
) -> dict[str, object]:
    """Writes latents.safetensors, captions.safetensors and index.json into `folder`; returns what there is to tell:
    `converted`, how many pictures came in another mode than RGB, and `cut`, captions of which the text encoder reads
    the beginning alone.

    `base` holds vae, tokenizer and text_encoder. "mean" and "std" are those of the VAE's posterior, in the U-Net's
    units: (mean - shift_factor) * scaling_factor and std * scaling_factor. Flipped copies follow after all rows.
    Each caption is encoded once, and the empty one. `anchors` are the captions with the concept taken out, one a row;
    with them go the place of the concept's tokens in each caption, and of its end token.
    Raises UserError naming the row of a picture that is not readable, or whose latents are not finite.
    """
    count, side = len(pictures), pipelines.latent_side(resolution, pipelines.vae_scale(base.vae))
    shape = (count * (1 + flip), base.vae.config.latent_channels, side, side)
    arrays = tensors.allocate(folder / LATENTS, {"mean": shape, "std": shape})
    modes: Counter[str] = Counter()
    for rows, pixels in _batches(pictures, resolution, modes):
        for copy in range(1 + flip):
            mean, std = posterior(base.vae, pixels.flip(-1) if copy else pixels, device)
            _check_finite(pictures, rows, mean, std)
            for key, value in (("mean", mean), ("std", std)):
                arrays[key][copy * count + rows[0] : copy * count + rows[-1] + 1] = value.numpy()
    for array in arrays.values():
        array.flush()

    captions = _encode_captions(base, pictures.captions, anchors, folder / CAPTIONS)
    write_json(folder / INDEX, {"files": pictures.files, **captions, "flip": flip, "resolution": resolution})
    modes.pop("RGB", None)
    cut = pipelines.cut_texts(base.tokenizer, base.text_encoder.config, captions["captions"])
    return {"converted": dict(modes), "cut": cut}


def _check_finite(pictures: Pictures, rows: range, *parts: torch.Tensor) -> None:
    for row, *own in zip(rows, *parts, strict=True):
        if not all(bool(torch.isfinite(part).all()) for part in own):
            raise UserError(f"{pictures.where(row)}: the base's vae gives NaN or infinity for it; give another base")


def _encode_captions(
    base: SimpleNamespace, captions: Sequence[str], anchors: Sequence[str] | None, path: Path
) -> dict[str, list]:
    """Writes captions.safetensors; returns the captions and, for each row, the index of its own and of its anchor."""
    texts = list(dict.fromkeys(captions))
    others = [text for text in dict.fromkeys(anchors or []) if text not in set(texts)]
    place = {text: index for index, text in enumerate([*texts, *others])}
    empty = _embed(base, [""])
    found = {"embeddings": torch.cat([_embed(base, part) for part in (texts, others) if part]), "empty": empty}
    index: dict[str, list] = {"captions": [*texts, *others], "caption": [place[text] for text in captions]}
    if anchors is not None:
        pairs, length = list(zip(captions, anchors, strict=True)), empty.shape[1]
        masks = {pair: token_mask(base.tokenizer, *pair, length) for pair in dict.fromkeys(pairs)}
        found["mask"] = torch.tensor([masks[pair] for pair in pairs], dtype=torch.uint8)
        ends = {text: end_token(base.tokenizer, text, length) for text in texts}
        found["end"] = torch.tensor([ends[text] for text in captions])
        index["anchor"] = [place[text] for text in anchors]
    tensors.save(path, found)
    return index


def _embed(base: SimpleNamespace, texts: Sequence[str]) -> torch.Tensor:
    """[len(texts), L, D] float16 on the CPU."""
    tiles = [list(texts[start : start + TILE]) for start in range(0, len(texts), TILE)]
    return torch.cat([pipelines.encode_prompts(base.tokenizer, base.text_encoder, tile).half().cpu() for tile in tiles])


def _batches(pictures: Pictures, side: int, modes: Counter) -> Iterator[tuple[range, torch.Tensor]]:
    """Rows and their pixels [<= TILE, 3, side, side], in order; the next tile is decoded while one is being used.
    `modes` counts the modes that pictures came in."""

    def pixels(row: int, content: bytes) -> torch.Tensor:
        picture, mode = pictures.decode(row, content)
        modes[mode] += 1
        return fit(picture, side)

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
def posterior(vae: AutoencoderKL, pixels: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the VAE's answer to pixels [B, 3, H, W] in [-1, 1], in the U-Net's units, on the CPU."""
    found = vae.encode(pixels.to(device)).latent_dist
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    factor = vae.config.scaling_factor
    return ((found.mean - shift) * factor).float().cpu(), (found.std * factor).float().cpu()


def own_resolution(path: str, revision: str | None, vae: AutoencoderKL) -> int:
    """Picture side in pixels that the base model was made for."""
    side = UNet2DConditionModel.load_config(path, subfolder="unet", revision=revision)["sample_size"]
    return (side if isinstance(side, int) else min(side)) * pipelines.vae_scale(vae)


def generator(seed: int, stream: str, step: int) -> torch.Generator:
    """The CPU generator of one step of one stream ("lower", "upper", ...): resuming needs no generator state."""
    return torch.Generator().manual_seed(int(digest([seed, stream, step]), 16) & 0xFFFFFFFF)


def shares(total: int, parts: int, step: int) -> list[int]:
    """`total` dealt to `parts` equally; what remains goes round from step to step, so that all get as much."""
    base, remainder = divmod(total, parts)
    lucky = {(step * remainder + k) % parts for k in range(remainder)}
    return [base + (part in lucky) for part in range(parts)]


class Captions(NamedTuple):
    """What `Drawn` has beside latents."""

    text: torch.Tensor
    anchor: torch.Tensor | None
    mask: torch.Tensor | None
    end: torch.Tensor | None


class Drawn(NamedTuple):
    """Rows of an encode result on its device, float32. The last three are None without anchors."""

    latents: torch.Tensor  # [B, C, h, w]
    text: torch.Tensor  # [B, L, D]
    anchor: torch.Tensor | None  # [B, L, D], of the caption with the concept taken out
    mask: torch.Tensor | None  # [B, L], 1 at the concept's tokens of the caption, 0 elsewhere
    end: torch.Tensor | None  # [B] long, place of the caption's end token


@dataclass(frozen=True)
class Encoded:
    """An encode result. Tensors stay on the CPU, mapped from the file; batches go to `device`."""

    mean: torch.Tensor  # [N, C, h, w] float32, flipped copies included
    std: torch.Tensor  # the same
    embeddings: torch.Tensor  # [U, L, D] float16, of the unique captions
    empty: torch.Tensor  # [1, L, D] float32, on `device`
    caption: torch.Tensor  # [N] long: row -> caption
    device: torch.device
    anchor: torch.Tensor | None = None  # [N] long: row -> its caption with the concept taken out
    mask: torch.Tensor | None = None  # [N, L] uint8, 1 at the concept's tokens of a row's caption
    end: torch.Tensor | None = None  # [N] long, place of the end token in a row's caption
    folder: Path | None = None  # where it was read

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Encoded":
        """Raises UserError if a file is missing, not whole, not what `meta.json` tells of, or does not fit the others.

        Pictures encoded without an anchor, the fine-tuning pictures for one, have no anchor, mask and end.
        """
        folder = Path(folder)
        if (folder / META).is_file():
            for name in (INDEX, LATENTS, CAPTIONS):
                checked(folder, name)
        index = read_json(folder / INDEX)
        latents, captions = tensors.load(folder / LATENTS), tensors.load(folder / CAPTIONS)
        copies = 1 + index["flip"]
        rows = {key: torch.tensor(index[key] * copies) for key in ("caption", "anchor") if key in index}
        last = max(int(part.max()) for part in rows.values())
        whole = {"mask", "end"} <= captions.keys() or "anchor" not in index
        rows |= {key: torch.cat([captions[key]] * copies) for key in ("mask", "end") if key in captions}
        fits = {len(latents["mean"])} == {len(latents["std"]), *map(len, rows.values())}
        if not fits or not whole or last >= len(captions["embeddings"]):
            raise UserError(f"{folder}: its files do not belong together; delete it and run encode again")
        empty = captions["empty"].float().to(device)
        return cls(
            latents["mean"],
            latents["std"],
            captions["embeddings"],
            empty,
            rows["caption"],
            device,
            rows.get("anchor"),
            rows.get("mask"),
            rows.get("end"),
            folder,
        )

    def check(self, unet: UNet2DConditionModel, where: str, like: "Encoded") -> None:
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

    def rows(self, draws: torch.Generator, count: int) -> torch.Tensor:
        """`count` rows, drawn with replacement."""
        return torch.randint(len(self.caption), (count,), generator=draws)

    def captions(self, rows: torch.Tensor) -> Captions:
        """The captions of these rows."""
        text = to_device(self.embeddings[self.caption[rows]].float(), self.device)
        if self.anchor is None:
            return Captions(text, None, None, None)
        mask, end = needed(self.mask, "mask")[rows].float(), needed(self.end, "end")[rows]
        others = self.embeddings[self.anchor[rows]].float(), mask, end
        return Captions(text, *(to_device(value, self.device) for value in others))

    def batch(self, draws: torch.Generator, count: int, dropout: float = 0.0) -> Drawn:
        """`count` rows, their latents drawn from the posterior.

        A share `dropout` of captions is the empty one, in which there is no concept. All draws are made on the CPU: the
        same batch on any device.
        """
        rows = self.rows(draws, count)
        drop = torch.rand(count, generator=draws) < dropout
        noise = torch.randn((count, *self.mean.shape[1:]), generator=draws)
        latents = to_device(torch.addcmul(self.mean[rows], self.std[rows], noise), self.device)
        text, anchor, mask, end = self.captions(rows)
        if dropout:
            drop = to_device(drop, self.device)
            text = torch.where(drop[:, None, None], self.empty, text)
            if anchor is not None:
                anchor = torch.where(drop[:, None, None], self.empty, anchor)
                mask = needed(mask, "mask") * ~drop[:, None]
                end = torch.where(drop, 1, needed(end, "end"))  # token 0 is the start, 1 the end
        return Drawn(latents, text, anchor, mask, end)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves without making the host wait for the device."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
