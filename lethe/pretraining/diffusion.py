"""U-Net and text encoder together: v-prediction on the latents of varied pictures, and captions in all their wordings.

Fifteen captions in a hundred leave something out, so that style and content are also known alone; one in ten is
dropped, so that guidance works. A background other than white is stated: "... on a blue background".
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from lethe.files.errors import UserError
from lethe.pretraining import autoencoder, networks
from lethe.pretraining.fitting import Batch, Job, amp, plain
from lethe.pretraining.pictures import PictureSet, Row
from lethe.pretraining.varied import BACKGROUNDS, CRISP, WHITE, backgrounds, vary

LOOSE, DROPPED, COLOURED = 0.15, 0.1, 0.15
LR = 1e-3
ON_GROUND = "{text} on a {colour} background"


def corpus(rows: list[Row]) -> list[str]:
    """All captions, each once."""
    grounds = [ON_GROUND.format(text=row.text, colour=colour) for row in rows for colour in BACKGROUNDS]
    return list(dict.fromkeys([one for row in rows for one in (*row.wordings, *row.loose)] + grounds))


def token_ids(words: CLIPTokenizer, texts: list[str], where: str) -> Tensor:
    """int64 [N, TEXT_LENGTH], padded as the pipeline pads. Raises UserError for a caption that is too long."""
    length = networks.TEXT_LENGTH
    found = words(list(texts)).input_ids
    for text, ids in zip(texts, found, strict=True):
        if len(ids) > length:
            raise UserError(
                f"{where}: caption {text!r} has {len(ids)} tokens, at most {length} are read; shorten it, or raise "
                "--vocabulary"
            )
    pad = words.pad_token_id
    return torch.tensor([ids + [pad] * (length - len(ids)) for ids in found])


class Captions:
    """Token ids of all captions on a device, and the drawing of one wording for each row."""

    def __init__(self, words: CLIPTokenizer, pictures: PictureSet, device: torch.device) -> None:
        rows = pictures.rows
        texts = ["", *corpus(rows)]
        place = {text: number for number, text in enumerate(texts)}
        self.ids = token_ids(words, texts, pictures.source).to(device)  # [number of texts, TEXT_LENGTH]
        self.full = _table([[place[one] for one in row.wordings] for row in rows]).to(device)
        self.loose = _table([[place[one] for one in row.loose or (row.text,)] for row in rows]).to(device)
        grounds = [[place[ON_GROUND.format(text=row.text, colour=colour)] for colour in BACKGROUNDS] for row in rows]
        self.grounds = torch.tensor([[place[row.text], *own] for row, own in zip(rows, grounds, strict=True)]).to(
            device
        )

    def draw(self, rows: Tensor, ground: Tensor, g: torch.Generator, dropped: float = 0.0) -> Tensor:
        """Token ids [B, TEXT_LENGTH] of rows on backgrounds: a wording of each; the empty caption in a share."""
        count, device = len(rows), rows.device

        def any_of(table: Tensor) -> Tensor:
            return table[rows, torch.randint(table.shape[1], (count,), generator=g, device=device)]

        chosen = torch.where(ground == WHITE, any_of(self.full), self.grounds[rows, ground])
        chosen = torch.where(torch.rand(count, generator=g, device=device) < LOOSE, any_of(self.loose), chosen)
        return self.ids[torch.where(torch.rand(count, generator=g, device=device) < dropped, 0, chosen)]


def _table(lists: list[list[int]]) -> Tensor:
    """int64 [N, W]: each list repeated to the length of the longest, or nearly: each member as often as the others."""
    width = max(len(one) for one in lists)
    return torch.tensor([(one * width)[:width] for one in lists])


@torch.no_grad()
def latents(vae: AutoencoderKL, pixels: Tensor, variants: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled posterior mean and std [variants, N, 16, 8, 8] of varied pictures, and their backgrounds [variants, N]."""
    g = torch.Generator(pixels.device).manual_seed(seed)
    means, stds, grounds = [], [], []
    for _ in range(variants):
        ground = backgrounds(len(pixels), COLOURED, g)
        mean, std = autoencoder.encode(vae, vary(pixels, g, CRISP, ground))
        means.append(mean * vae.config.scaling_factor)
        stds.append(std * vae.config.scaling_factor)
        grounds.append(ground)
    return torch.stack(means), torch.stack(stds), torch.stack(grounds)


def job(
    both: nn.ModuleDict,
    scheduler: DDIMScheduler,
    found: tuple[Tensor, Tensor, Tensor],
    captions: Captions,
    seen: Tensor,
    batch: int,
) -> Job:
    """Trains `both` ("unet", "text_encoder") on rows `seen` of what `latents` found."""
    mean, std, ground = found
    alphas = scheduler.alphas_cumprod.to(mean.device)

    def draw(g: torch.Generator) -> Batch:
        device = g.device
        rows = seen[torch.randint(len(seen), (batch,), generator=g, device=device)]
        variant = torch.randint(len(mean), (batch,), generator=g, device=device)
        z = mean[variant, rows]
        z = z + std[variant, rows] * torch.randn(z.shape, generator=g, device=device)
        noise = torch.randn(z.shape, generator=g, device=device)
        t = torch.randint(len(alphas), (batch,), generator=g, device=device)
        a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
        ids = captions.draw(rows, ground[variant, rows], g, DROPPED)
        return {"input": a * z + s * noise, "target": a * noise - s * z, "t": t, "ids": ids}

    def loss(given: Batch) -> Tensor:
        with amp(mean.device):
            context = both["text_encoder"](given["ids"]).last_hidden_state
            output = both["unet"](given["input"], given["t"], context).sample
        return F.mse_loss(output.float(), given["target"])

    return plain(both, draw, loss, lr=LR, weight_decay=0.01, warmup=200, ema=0.9995)


@torch.inference_mode()
def loss_on(job: Job, batches: int, seed: int) -> float:
    """The job's loss on batches of another seed, without a step."""
    student = job.modules["student"]
    text_encoder, unet = student.get_submodule("text_encoder"), student.get_submodule("unet")
    found = []
    for k in range(batches):
        given = job.draw(torch.Generator(job.device).manual_seed(seed + k))
        with amp(job.device):
            context = text_encoder(given["ids"]).last_hidden_state
            output = unet(given["input"], given["t"], context).sample
        found.append(F.mse_loss(output.float(), given["target"]))
    return torch.stack(found).mean().item()
