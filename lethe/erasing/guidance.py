"""What a weights folder may bring to sampling beside its U-Net: `guidance.json`, and a text encoder of its own.

`guidance.json` is the record of an eraser that leaves the weights alone and acts while pictures are drawn: {"eraser":
name, ...}, plain JSON. Such an eraser's module has, beside `erase`, which makes the record,

    guide(base, unet, record, settings, embeddings) -> begin

called once a process, without gradients: `base` holds tokenizer, text_encoder and scheduler, `settings` is
`lethe.drawing.sampling.Settings`, `embeddings` the prompts' {text: [L, D]} on the CPU, the empty one's among them.
`begin(prompts)` is called once for each tile of pictures and returns the tile's `lethe.drawing.sampling.Predict`, so
what that keeps from step to step belongs to these pictures; no row may depend on another. The module's constants:
GUIDES = True, and PASSES, the texts that the U-Net is asked at each step beside those of classifier-free guidance
(default: 0), or {option: texts} for those that an option of the record brings when it is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import UserError
from lethe.files.io import META, checked, read_json, read_meta
from lethe.params import registry

if TYPE_CHECKING:
    from transformers import CLIPTextModel

GUIDANCE, TEXT_ENCODER = "guidance.json", "text_encoder"
ADVICE = "delete the folder and run again"


def read(folder: Path) -> dict | None:
    """The record in a weights folder; None if it has none, or others saved it. torch is not imported.

    Raises UserError if it is not the file that `meta.json` lists, is damaged, or names no eraser that guides sampling.
    """
    path = Path(folder) / GUIDANCE
    if not (path.parent / META).is_file() or not checked(folder, GUIDANCE):
        return None
    record = read_json(path)
    name = record.get("eraser") if isinstance(record, dict) else None
    known = [eraser for eraser in registry.names("erasers") if registry.guides(eraser)]
    if name not in known:
        raise UserError(f"{path}: eraser {name!r} is not one that guides sampling: {', '.join(known)}; {ADVICE}")
    return record


def check_unet_alone(folder: Path, flag: str) -> None:
    """Of weights from which a stage takes the U-Net alone. Raises UserError if their erasure lies elsewhere, too."""
    names = read_meta(folder).get("files") or {} if (Path(folder) / META).is_file() else {}
    more = [GUIDANCE] * (GUIDANCE in names) + [TEXT_ENCODER] * any(
        name.startswith(f"{TEXT_ENCODER}/") for name in names
    )
    if more:
        raise UserError(
            f"{flag}: {folder} forgets by its {' and '.join(more)}, which would be lost here, where the U-Net alone is "
            "taken; give the weights that it came from, and erase afterwards"
        )


def passes(record: dict | None, scale: float) -> int:
    """Forwards of the U-Net a picture takes at each step, under classifier-free guidance of a scale."""
    more = registry.literal("erasers", record["eraser"], "PASSES", 0) if record else 0
    if record and isinstance(more, dict):
        more = sum(texts for option, texts in more.items() if record.get(option))
    return (1 if scale == 1 else 2) + more


def load_text_encoder(folder: Path) -> CLIPTextModel | None:
    """The text encoder of a weights folder of ours, float32, in eval mode, frozen, on the CPU; None if it has none.

    Raises UserError if a file is not the one that `meta.json` lists, or the folder cannot be loaded whole.
    """
    if not (Path(folder) / META).is_file() or not checked(folder, f"{TEXT_ENCODER}/"):
        return None
    import torch
    from safetensors import SafetensorError
    from transformers import CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = Path(folder) / TEXT_ENCODER
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, told = CLIPTextModel.from_pretrained(place, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{place}: cannot load it: {' '.join(str(error).split())[:300]}; {ADVICE}") from None
    if told["missing_keys"]:  # transformers would leave them random
        raise UserError(f"{place}: its weights lack {', '.join(sorted(told['missing_keys'])[:3])}; {ADVICE}")
    return model.eval().requires_grad_(False)
