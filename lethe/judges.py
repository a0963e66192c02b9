"""The networks that measure: CLIP, a style descriptor, image classifiers, Inception. Each is loaded once a process.

All run in float32 whatever their files hold. Pictures come as lists of RGB pictures of any size; each network's own
preprocessing makes its input of them. torch is imported inside functions, so that names can be checked without it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.errors import UserError
from lethe.io import read_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

LOCAL = "local-dir:"
INCEPTION = "inception"


def check(options: Mapping) -> None:
    """Checks section `score` without torch: names well formed, folders with the files they need. Raises UserError."""
    _clip_name(options["clip"])
    if options["clip"].startswith(LOCAL):
        _need(options["clip"].removeprefix(LOCAL), "score.clip", "open_clip_config.json")
    if options["descriptor"]:
        _need(options["descriptor"], "score.descriptor", "config.json", "preprocessor_config.json")
    classifiers = {f"score.judges.{role}": path for role, path in options["judges"].items()}
    if options["features"] != INCEPTION:
        classifiers["score.features"] = options["features"]
    for key, path in classifiers.items():
        if path and Path(path).is_dir():
            _need(path, key, "config.json", "preprocessor_config.json")
        elif path:
            hub(path, key)


def hub(text: str, key: str) -> tuple[str, str]:
    """Hub id and commit of "OWNER/NAME@COMMIT": a branch may move. Raises UserError if it is not that."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", text)
    if not found:
        raise UserError(f"{key}: {text}: no such folder, and not a hub id with its commit (OWNER/NAME@40 hex digits)")
    return found[1], found[2]


def _place(path: str) -> tuple[str, str | None]:
    """What from_pretrained takes: a folder, or a hub id, and the revision."""
    return (path, None) if Path(path).is_dir() else hub(path, "score.judges")


def _need(folder: str, key: str, *files: str) -> None:
    if not Path(folder).is_dir():
        raise UserError(f"{key}: {folder}: no such folder")
    for name in files:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{key}: {folder}: no {name} there")


def _clip_name(text: str) -> tuple[str, str | None]:
    """open_clip's name of a model and of its weights."""
    if text.startswith(LOCAL):
        return text, None
    name, sign, pretrained = text.partition("@")
    if not (name and sign and pretrained):
        raise UserError(f"score.clip: {text!r} is neither {LOCAL}FOLDER nor NAME@PRETRAINED (as in open_clip's list)")
    return name, pretrained


def labels(path: str) -> list[str] | None:
    """A classifier folder's labels in the order of its outputs; None for a hub id, whose labels show when it loads."""
    if not Path(path).is_dir():
        return None
    found = read_json(Path(path) / "config.json").get("id2label")
    if not found:
        raise UserError(f"{path}: its config.json has no id2label; add the label of each output")
    return [found[key] for key in sorted(found, key=int)]


def check_labels(path: str, known: Iterable[str], wanted: Iterable[str], column: str) -> None:
    """Raises UserError that lists labels of a prompt file's column which the judge does not know."""
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UserError(
            f"column {column}: {', '.join(unknown)} not among the labels of {path} ({', '.join(known)}); "
            "spell them as the judge does, or leave the cells empty"
        )


def check_truth(folders: Mapping[str, str | None], concepts: Mapping[str, Mapping], sets: Mapping[str, list]) -> None:
    """Labels of prompt files and concepts must be among the judges' (those of a hub id show when it loads)."""
    rows = [row for members in sets.values() for row in members]
    artists = {label for own in concepts.values() for label in (own["style"], *own["neighbours"])}
    wanted = {
        "style": ("artist", artists | {row.artist for row in rows}),
        "content": ("class", {row.content for row in rows}),
    }
    for role, (column, truth) in wanted.items():
        known = folders[role] and labels(folders[role])
        if known:
            check_labels(folders[role], known, truth - {None}, column)


@functools.cache
def clip(name: str, device: torch.device) -> tuple[Callable, Callable]:
    """(pictures -> [B, D], texts -> [B, D]), both L2-normalised, from open_clip."""
    import open_clip
    import torch
    from safetensors import SafetensorError

    model_name, pretrained = _clip_name(name)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            model_name, pretrained, device=device, precision="fp32"
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"score.clip: cannot load {name}: {error}") from None
    model.eval().requires_grad_(False)

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> torch.Tensor:
        return model.encode_image(torch.stack([preprocess(p) for p in batch]).to(device), normalize=True).cpu()

    @torch.inference_mode()
    def of_texts(batch: Sequence[str]) -> torch.Tensor:
        return model.encode_text(tokenizer(list(batch)).to(device), normalize=True).cpu()

    return of_pictures, of_texts


@functools.cache
def descriptor(path: str, device: torch.device) -> Callable:
    """pictures -> style embeddings [B, D], L2-normalised.

    `image_embeds` of a CLIPVisionModelWithProjection (CSD, 2404.01292), else the pooled output of whatever AutoModel
    finds.
    """
    import torch
    from transformers import AutoModel, CLIPVisionModelWithProjection

    projected = "CLIPVisionModelWithProjection" in (read_json(Path(path) / "config.json").get("architectures") or [])
    model = _load(CLIPVisionModelWithProjection if projected else AutoModel, path, device)
    prepare = _preprocessing(path, device)

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> torch.Tensor:
        output = model(pixel_values=prepare(batch))
        found = output.image_embeds if projected else output.pooler_output
        return torch.nn.functional.normalize(found.flatten(1), dim=1).cpu()

    return of_pictures


@functools.cache
def classifier(path: str, device: torch.device) -> tuple[list[str], Callable]:
    """(labels, pictures -> (probabilities [B, K], penultimate features [B, D])) of an image-classification model.

    The features are what its last linear layer reads.
    """
    import torch
    from transformers import AutoModelForImageClassification

    model = _load(AutoModelForImageClassification, path, device)
    prepare = _preprocessing(path, device)
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.config.num_labels]
    if not last:
        raise UserError(f"{path}: no linear layer with {model.config.num_labels} outputs; give another classifier")
    seen: list[torch.Tensor] = []
    last[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(pixel_values=prepare(batch)).logits
        return logits.softmax(1).cpu(), seen.pop().flatten(1).cpu()

    return [model.config.id2label[i] for i in range(model.config.num_labels)], of_pictures


@functools.cache
def features(name: str, device: torch.device) -> Callable:
    """pictures -> features [B, D] for FID and KID.

    `inception`: clean-fid's Inception in mode "clean" (resized to 299 by its own antialiased bicubic filter); a
    classifier's penultimate features otherwise, with that classifier's preprocessing.
    """
    import torch

    if name != INCEPTION:
        _, of_batch = classifier(name, device)
        return lambda batch: of_batch(batch)[1]

    import numpy as np
    from cleanfid.features import build_feature_extractor
    from cleanfid.resize import build_resizer

    try:
        model = build_feature_extractor("clean", device, use_dataparallel=False)
    except OSError as error:
        raise UserError(f"score.features: cannot fetch clean-fid's Inception weights: {error}") from None
    resize = build_resizer("clean")

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> torch.Tensor:
        pixels = np.stack([resize(np.asarray(picture)) for picture in batch]).transpose(0, 3, 1, 2)
        return model(torch.from_numpy(pixels).to(device)).cpu()

    return of_pictures


def stacked(batches: Sequence[Sequence[Image]], network: Callable) -> np.ndarray:
    """A network's output over all batches, [N, D] float64."""
    import torch

    return torch.cat([network(batch) for batch in batches]).double().numpy()


def _load(kind: type, path: str, device: torch.device) -> torch.nn.Module:
    import torch
    from safetensors import SafetensorError

    place, revision = _place(path)
    how = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    try:
        model, told = kind.from_pretrained(place, revision=revision, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot load it: {error}") from None
    if told["missing_keys"]:  # transformers would leave them random
        raise UserError(
            f"{path}: its weights lack {', '.join(sorted(told['missing_keys'])[:3])}; fetch or make it again"
        )
    return model.eval().requires_grad_(False).to(device)


def _preprocessing(path: str, device: torch.device) -> Callable:
    """pictures -> network input [B, 3, H, W] on the device, by the folder's preprocessor_config.json."""
    from transformers import AutoImageProcessor

    place, revision = _place(path)
    try:
        processor = AutoImageProcessor.from_pretrained(place, revision=revision)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot load its preprocessor_config.json: {error}") from None
    return lambda batch: processor(images=list(batch), return_tensors="pt")["pixel_values"].to(device)
