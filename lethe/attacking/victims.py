"""What attacks work with, and what they hand back. An attack asks erased weights for what they should not draw.

The pictures of an attack pair with the victim's own: same rows of the prompt files, same seeds, other text, other
weights or another beginning. So success before and after is a paired difference.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from lethe.drawing import sampling
from lethe.drawing.sampling import Settings, Start
from lethe.erasing import erased, guidance
from lethe.files.errors import UserError
from lethe.files.images import Entry, Images, png
from lethe.models import pipelines, unets
from lethe.texts.rows import Prompt
from lethe.training.data import fit, posterior
from lethe.training.loop import Progress

__all__ = ["Attacked", "Key", "Settings", "Start", "Victim", "prepare"]
Key = tuple[str, int]  # concept (name of a prompt set), case_number


@dataclass(frozen=True)
class Victim:
    """Erased weights, and what is known about them. Networks are frozen, in eval mode, float32, on `device`.

    base: tokenizer, text_encoder (the victim's own if it brings one), scheduler, vae, latent_shape (C, h, w), `data`
        (Encoded or None) and `concepts` {name: Encoded}, where NEEDS names them
    unet: the attacked one; an attack may change it in place, for nobody else has it
    dense: -> the dense base U-Net, loaded at the first call, frozen
    guidance: record of an eraser that acts while sampling, None for others; the drawing heeds it by itself, white-box
        losses on `unet` alone do not see it
    concepts: {name: {"prompt", "anchor"}}, sorted by name
    rows: {name: [Prompt]}, the pictures to draw: prompt and seed as they stand in the prompt file
    settings: section `sample`
    originals: {(name, case_number): latent [C, h, w] float32 on `device`}, the VAE's mean, scaled, of what the dense
        base draws for that row; empty unless NEEDS names originals
    skip_empty: whether rows without a prompt are left out of files that an attack reads
    """

    base: SimpleNamespace
    unet: nn.Module
    dense: Callable[[], nn.Module]
    guidance: Mapping | None
    concepts: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, list[Prompt]]
    settings: Settings
    originals: Mapping[Key, torch.Tensor]
    device: torch.device
    pruning: Mapping = field(default_factory=dict)
    skip_empty: bool = False

    def pictures(self) -> Iterable[tuple[str, Prompt]]:
        """Every picture to draw: name of its concept and row, in a fixed order."""
        return ((name, row) for name, rows in self.rows.items() for row in rows)


@dataclass(frozen=True)
class Attacked:
    """How to draw. What is left out stays as it is for the victim.

    asked: {(name, case_number): text} given instead of the row's prompt
    states: {text: [L, D]} embeddings of texts that no tokenizer makes; such a text takes the place of its encoding,
        so it must not be a row's own prompt unless that is to be replaced too
    unet: weights that draw in the victim's place, on the same device
    starts: {(name, case_number): Start} where drawing begins; all rows or none
    facts: rows for attack.csv, each with "set" and "case_number" and any columns of its own, such as "loss"
    about: for meta.json, plain JSON
    progress: of a training by `lethe.training.loop.run`
    """

    asked: Mapping[Key, str] = field(default_factory=dict)
    states: Mapping[str, torch.Tensor] = field(default_factory=dict)
    unet: nn.Module | None = None
    starts: Mapping[Key, Start] = field(default_factory=dict)
    facts: list[dict] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    progress: Progress | None = None


def prepare(
    base: str,
    revision: str | None,
    folders: Mapping[str, Path],
    resolution: int | None,
    device: torch.device,
    concepts: Mapping[str, Mapping[str, str]],
    rows: Mapping[str, list[Prompt]],
    settings: Settings,
    skip_empty: bool = False,
) -> Victim:
    """Loads the victim.

    `folders`: "model" (weights; without it the base itself is attacked), "originals" (samples of the base), "data" and
    "concept:NAME" (results of encode). Raises UserError if they do not fit, or if originals lack a row.
    """
    own = {role: path for role, path in folders.items() if role != "originals"}
    parts, unet = erased.prepare(base, revision, own, resolution, device, guided=True)
    parts.vae.to(device)

    @cache
    def dense() -> nn.Module:
        return pipelines.load_base(base, revision, ["unet"]).unet.to(device)

    return Victim(
        base=parts,
        unet=unet.eval().requires_grad_(False),
        dense=dense,
        guidance=guidance.read(folders["model"]) if "model" in folders else None,
        concepts=concepts,
        rows=rows,
        settings=settings,
        originals=originals(folders["originals"], rows, parts, device) if "originals" in folders else {},
        device=device,
        pruning=unets.read_layers(folders["model"]) if "model" in folders else {},
        skip_empty=skip_empty,
    )


def originals(
    folder: Path, rows: Mapping[str, list[Prompt]], base: SimpleNamespace, device: torch.device
) -> dict[Key, torch.Tensor]:
    """Latents of a samples folder's pictures for these rows. Raises UserError for a row that it was not drawn from."""
    side, found = pipelines.vae_scale(base.vae) * base.latent_shape[1], {}
    with Images(folder) as images:
        drawn = {(entry.set, entry.case_number): entry for entry in images.entries}
        for name, row in ((name, row) for name, own in rows.items() for row in own):
            entry = drawn.get((name, row.case_number))
            if entry is None or (entry.prompt, entry.evaluation_seed) != (row.prompt, row.seed):
                raise UserError(
                    f"{folder}: has no picture of {name}, case_number {row.case_number}, drawn for this prompt and "
                    "seed; sample the base model with the same prompt files"
                )
            pixels = fit(images.picture(entry), side)[None]  # alone, so that no other row changes a bit
            latent = posterior(base.vae, pixels, device)[0][0]
            found[name, row.case_number] = latent.to(device).clone()  # one that a gradient may pass
    return found


def draw(victim: Victim, found: Attacked, workers: int) -> tuple[list[Entry], list[tuple[str, bytes]]]:
    """Manifest rows, with the rows' own prompts, and tar members of all pictures. `workers`: as in `sampling.draw`."""
    pictures = list(victim.pictures())
    tiles = [pictures[tile.start : tile.stop] for tile in sampling.tiles(len(pictures), victim.settings.tile)]

    def asked(name: str, row: Prompt) -> Prompt:
        return replace(row, prompt=found.asked.get((name, row.case_number), row.prompt))

    drawn = sampling.draw(
        victim.base,
        found.unet or victim.unet,
        [[asked(*picture) for picture in tile] for tile in tiles],
        victim.settings,
        workers,
        victim.guidance,
        found.states,
        [[found.starts[name, row.case_number] for name, row in tile] for tile in tiles] if found.starts else None,
    )
    entries, members = [], []
    for (name, row), pixels in zip(pictures, (one for tile in drawn for one in tile), strict=True):
        file, content = f"{name}/{row.case_number}.png", png(pixels)
        digest = hashlib.sha256(content).hexdigest()
        entries.append(Entry(name, row.case_number, row.prompt, row.seed, file, digest))
        members.append((file, content))
    return entries, members


def facts(victim: Victim, found: Attacked) -> str:
    """attack.csv: set, case_number, asked, and the attack's own columns; empty where it says nothing of a row."""
    told = {(row["set"], row["case_number"]): row for row in found.facts}
    rows = []
    for name, row in victim.pictures():
        key = name, row.case_number
        asked = {"set": name, "case_number": row.case_number, "asked": found.asked.get(key, row.prompt)}
        rows.append(asked | told.get(key, {}))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
