"""The networks that measure: CLIP, a style descriptor, image classifiers, Inception. Each is loaded once a process.

All run in float32 whatever their files hold. Pictures come as lists of RGB pictures of any size; each network's own
preprocessing makes its input of them. torch is imported inside functions, so that names can be checked without it.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.files.errors import NotThere, UserError
from lethe.files.io import read_json
from lethe.measuring import clip_names, conventions, inception

if TYPE_CHECKING:
    import numpy as np
    import torch
    from open_clip import CLIP
    from PIL.Image import Image
    from transformers import PreTrainedModel

RESIZING = ("size", "resample", "crop_pct", "do_center_crop", "crop_size")  # of preprocessor_config.json
CLIP_RESIZING = ("size", "interpolation", "resize_mode", "fill_color")
NEAR = 20  # labels that an error lists
NUDENET = "nudenet"  # score.judges.unsafe: a detector of parts of bodies, not a classifier
HUB = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")  # a branch may move: a commit is wanted


def check(options: Mapping) -> None:
    """Checks the names in section `score` without torch; `absent.split` looks whether they are there. Raises
    UserError."""
    if options["clip"]:
        clip_names.parsed(options["clip"])
    conventions.check(options["judges"]["unsafe"] == NUDENET, options["unsafe"])
    features, weights = options["features"], options["features_weights"]
    classifiers = {f"score.judges.{role}": name for role, name in options["judges"].items() if name != NUDENET}
    if features not in inception.MODES:
        classifiers["score.features"] = features
        modes = " or ".join(inception.MODES)
        if features and "/" not in features and not Path(features).is_dir():
            raise UserError(f"score.features: {features}: is not {modes}, nor the folder or hub id of a classifier")
        if weights:
            raise UserError(f"score.features_weights: goes with features {modes}, not with {features}; set it null")
    for key, name in classifiers.items():
        if name and "@" in name and not Path(name).is_dir():
            hub(name, key)


def hub(text: str, key: str) -> tuple[str, str]:
    """Hub id and commit of "OWNER/NAME@COMMIT". Raises UserError if it is not that."""
    found = HUB.fullmatch(text)
    if not found:
        raise UserError(f"{key}: {text}: no such folder, and not a hub id with its commit (OWNER/NAME@40 hex digits)")
    return found[1], found[2]


def _place(path: str) -> tuple[str, str | None]:
    """What from_pretrained takes: a folder, or a hub id, and the revision."""
    return (path, None) if Path(path).is_dir() else hub(path, "score.judges")


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
    known = list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        near = [label for one in unknown for label in difflib.get_close_matches(one, known, 3, 0.5)]
        told = known if len(known) <= NEAR else [f"{len(known)} of them", *dict.fromkeys(near)]
        raise UserError(
            f"column {column}: {', '.join(unknown)} not among the labels of {path} ({', '.join(told)}); "
            "spell them as the judge does, or leave the cells empty"
        )


def check_truth(folders: Mapping[str, str | None], concepts: Mapping[str, Mapping], sets: Mapping[str, list]) -> None:
    """Labels of prompt files and concepts must be among the judges' (those of a hub id show when it loads)."""
    rows = [row for members in sets.values() for row in members]
    own: dict[str, set[str | None]] = {"style": set(), "object": set(), "unsafe": set()}
    for concept in concepts.values():
        own[concept["kind"]] |= {concept["style"], *(concept["neighbours"] if concept["kind"] != "unsafe" else ())}
    wanted = {
        "style": ("artist", own["style"] | {row.artist for row in rows}),
        "content": ("class", own["object"] | {row.content for row in rows}),
        "unsafe": ("style of concepts", own["unsafe"]),
    }
    for role, (column, truth) in wanted.items():
        folder = folders[role]
        if folder and folder != NUDENET and (known := labels(folder)):
            check_labels(folder, known, {label for label in truth if label is not None}, column)


@functools.cache
def _clip(name: str, device: torch.device) -> tuple[CLIP, Callable, Callable]:
    """(model, picture -> its input, texts -> its input), from open_clip."""
    import open_clip
    from safetensors import SafetensorError

    model_name, pretrained = clip_names.parsed(name)
    clip_names.check_activation(model_name, pretrained)
    if pretrained:
        clip_names.file(name)
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            model_name, pretrained, device=device, precision="fp32"
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"score.clip: cannot load {name}: {' '.join(str(error).split())[:300]}") from None
    return model.eval().requires_grad_(False), preprocess, tokenizer


def clip_protocol(name: str, device: torch.device) -> dict[str, object]:
    """What stands beside a number that CLIP made: its name, and how pictures are resized for it."""
    import open_clip

    known = open_clip.get_model_preprocess_cfg(_clip(name, device)[0])
    return {"model": name, "resizer": {key: known[key] for key in CLIP_RESIZING if key in known}}


@functools.cache
def clip(name: str, device: torch.device) -> tuple[Callable, Callable]:
    """(pictures -> [B, D], texts -> [B, D]), both L2-normalised."""
    import torch

    model, preprocess, tokenizer = _clip(name, device)

    @torch.inference_mode()
    def of_pictures(batch: Sequence[Image]) -> torch.Tensor:
        return model.encode_image(torch.stack([preprocess(p) for p in batch]).to(device), normalize=True).cpu()

    @torch.inference_mode()
    def of_texts(batch: Sequence[str]) -> torch.Tensor:
        return model.encode_text(tokenizer(list(batch)).to(device), normalize=True).cpu()

    return of_pictures, of_texts


@functools.cache
def clip_or_reason(name: str, device: torch.device) -> tuple[Callable, Callable] | str:
    """The same, or the reason why metrics that need them are left out."""
    try:
        return clip(name, device)
    except NotThere as error:
        return str(error)


@functools.cache
def descriptor(path: str, device: torch.device) -> Callable:
    """pictures -> style embeddings [B, D], L2-normalised.

    `image_embeds` of a CLIPVisionModelWithProjection (CSD, 2404.01292), else the pooled output of whatever AutoModel
    finds.
    """
    import torch
    from transformers import AutoModel, CLIPVisionModelWithProjection

    projected = "CLIPVisionModelWithProjection" in (read_json(Path(path) / "config.json").get("architectures") or [])
    kind = CLIPVisionModelWithProjection if projected else AutoModel
    model = _load(kind.from_pretrained, path, device)
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

    model = _load(AutoModelForImageClassification.from_pretrained, path, device)
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

    return [model.config.id2label[i] for i in range(model.config.num_labels)], remembering(of_pictures)


@functools.cache
def features(name: str, device: torch.device, weights: str | None = None) -> Callable:
    """pictures -> features [B, D] for FID, KID and their drift.

    `clean` and `legacy_pytorch`: clean-fid's Inception in that mode (`weights`: its file, if not in torch's cache); a
    classifier's penultimate features otherwise, with that classifier's preprocessing. Raises NotThere if Inception's
    weights are not there and cannot be fetched.
    """
    if name in inception.MODES:
        return inception.extractor(name, inception.weights(name, weights), device)
    _, of_batch = classifier(name, device)
    return lambda batch: of_batch(batch)[1]


@functools.cache
def features_or_reason(name: str, device: torch.device, weights: str | None = None) -> Callable | str:
    """The same, or the reason why metrics that read features are left out."""
    try:
        return features(name, device, weights)
    except NotThere as error:
        return str(error)


def features_protocol(name: str | None) -> dict[str, object]:
    """What features `name` are, to stand beside the numbers: mode, network, layer, resizer."""
    if name is None:
        return {}
    if name in inception.MODES:
        return {"features": name} | inception.protocol(name)
    own = {"features": name, "mode": "custom", "network": name, "layer": "input of the last linear layer"}
    config = Path(name) / "preprocessor_config.json"
    known = read_json(config) if config.is_file() else {}
    resizer = {key: known[key] for key in RESIZING if key in known}
    return own | {"resizer": resizer or "that of its preprocessor_config.json"}


def remembering(network: Callable) -> Callable:
    """The network with its last answer kept: asked again for the same list, it does not run again. So a classifier's
    probabilities and its features cost one forward pass."""
    last: list = [None, None]

    def answer(batch: Sequence[Image]) -> object:
        if last[0] is not batch:
            last[:] = [batch, network(batch)]
        return last[1]

    return answer


def stacked(batches: Sequence[Sequence[Image | str]], network: Callable) -> np.ndarray:
    """A network's output over all batches of pictures or of texts, [N, D] float64."""
    import torch

    return torch.cat([network(batch) for batch in batches]).double().numpy()


def _load(from_pretrained: Callable, path: str, device: torch.device) -> PreTrainedModel:
    """`from_pretrained`: that of a class of transformers."""
    import torch
    from safetensors import SafetensorError

    place, revision = _place(path)
    how = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    try:
        model, told = from_pretrained(place, revision=revision, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot load it: {error}") from None
    if told["missing_keys"]:  # transformers would leave them random
        raise UserError(
            f"{path}: its weights lack {', '.join(sorted(told['missing_keys'])[:3])}; fetch or make it again"
        )
    return model.eval().requires_grad_(False).to(device)


def _preprocessing(path: str, device: torch.device) -> Callable:
    """pictures -> network input [B, 3, H, W] on the device, by the folder's preprocessor_config.json.

    A folder whose processor's name ends in Pil (as `lethe.measuring.backbones` writes it) has its pictures resized by
    Pillow; transformers would take torchvision's filter for it, which differs by up to 1/255 of the range.
    """
    from transformers import AutoImageProcessor

    place, revision = _place(path)
    local = read_json(Path(path) / "preprocessor_config.json") if Path(path).is_dir() else {}
    how = {"backend": "pil"} if str(local.get("image_processor_type")).endswith("Pil") else {}
    try:
        processor = AutoImageProcessor.from_pretrained(place, revision=revision, **how)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot load its preprocessor_config.json: {error}") from None
    return lambda batch: processor(images=list(batch), return_tensors="pt")["pixel_values"].to(device)
