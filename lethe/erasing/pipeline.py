"""Any weights folder as a diffusers pipeline, for whoever wants to draw with it in code of their own.

It stands in this room since it must know what erasers leave beside a U-Net: a text encoder, or a way of sampling.
torch and diffusers are imported when a pipeline is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lethe.erasing import guidance
from lethe.files.errors import UserError
from lethe.files.io import META, read_meta
from lethe.models import pipelines, unets

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, StableDiffusionPipeline

INDEX = "model_index.json"  # says that a folder is a whole pipeline
LOADED = ("vae", "text_encoder", "tokenizer")


def load_pipeline(
    folder: str | Path, base: str | Path | None = None, revision: str | None = None
) -> StableDiffusionPipeline:
    """The pipeline that draws with the weights in a folder; float32, in eval mode, on the CPU.

    `folder`: what stage prune, distill, bilevel or erase made, a U-Net that others saved, or a whole
    StableDiffusionPipeline. `base`: the model that weights alone were made from, a folder or a hub id with the
    `revision`; weights of ours know theirs. The U-Net comes from the strict loader, pruned widths and all, the text
    encoder from the folder if an eraser edited it, and the scheduler is the one that the base names. There is no
    safety checker, as in stage sample. Raises UserError for a folder that is none of these, that is damaged, or that
    forgets while it samples, which a pipeline does not do.

    `pipeline.save_pretrained` writes the U-Net's weights without what they were cut by: keep the folder itself.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        if base is not None:
            raise UserError(f"{folder}: is a whole pipeline; leave out base={str(base)!r}")
        return _assembled(str(folder), None, None)
    if not unets.unet_folder(folder).is_dir():
        raise UserError(
            f"{folder}: neither a weights folder (no unet/ there) nor a {pipelines.PIPELINE} folder (no {INDEX}); "
            "give one of them"
        )
    if (folder / META).is_file():
        record = guidance.read(folder)
        if record:
            raise UserError(
                f"{folder}: {record['eraser']} forgets while it samples, which a pipeline does not do; draw with "
                f"lethe sample --model {folder}"
            )
    source = _base_of(folder) if base is None else str(base)
    if not Path(source).is_dir() and not revision:
        raise UserError(f"{source}: no such folder; give base=FOLDER, or a hub id with revision=COMMIT")
    pipelines.check_base(source, revision)
    unets.check_unet(folder, source)
    return _assembled(source, revision, folder)


def _base_of(folder: Path) -> str:
    """The base model that meta.json names. A relative path counts from here or from a folder above the weights, so that
    they load from anywhere."""
    own = read_meta(folder).get("parents", {}).get("base", {}) if (folder / META).is_file() else {}
    if "folder" not in own:
        raise UserError(f"{folder}: does not tell its base model; give base=FOLDER, the pipeline that it was made from")
    told = own["folder"]
    places = [above / told for above in (Path(), *folder.resolve().parents)]
    return next((str(place) for place in places if (place / INDEX).is_file()), told)


def _assembled(base: str, revision: str | None, weights: Path | None) -> StableDiffusionPipeline:
    """A base model's parts with the U-Net, and the text encoder if there is one, of a weights folder."""
    from diffusers import StableDiffusionPipeline

    own = guidance.load_text_encoder(weights) if weights else None
    parts = [part for part in LOADED if not (own and part == "text_encoder")] + ([] if weights else ["unet"])
    found = pipelines.load_base(base, revision, parts)
    return StableDiffusionPipeline(
        vae=found.vae,
        text_encoder=own or found.text_encoder,
        tokenizer=found.tokenizer,
        unet=unets.load_unet(weights).requires_grad_(False) if weights else found.unet,
        scheduler=_scheduler(base, revision),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler(base: str, revision: str | None) -> SchedulerMixin:
    """The sampler that a base model names. Raises UserError if diffusers has none of this name."""
    import diffusers

    config = diffusers.DDIMScheduler.load_config(base, subfolder="scheduler", revision=revision)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise UserError(f"{base}: its scheduler {config.get('_class_name')!r} is not one of diffusers")
    return kind.from_config(config)
