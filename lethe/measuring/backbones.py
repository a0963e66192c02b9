"""Published weights made, once, into folders that `lethe.measuring.judges` opens: safetensors, config,
preprocessing, labels.

    python -m lethe.measuring.backbones csd pytorch_model.bin models/csd  # score.descriptor
    python -m lethe.measuring.backbones resnet50 resnet50-11ad3fa6.pth models/resnet50  # score.judges.content
    python -m lethe.measuring.backbones vit style50.pth models/unlearncanvas --labels styles.txt  # its style

csd       Contrastive Style Descriptors (2404.01292), huggingface.co/tomg-group-umd/CSD-ViT-L: OpenAI's CLIP ViT-L/14
          without its projection, fine-tuned, and the style head, whose output `judges.descriptor` brings to length 1.
          Pictures: short side to 224 (bicubic), centre crop, CLIP's mean and deviation. The authors say that these
          weights do not give their paper's numbers exactly.
resnet50  torchvision's ResNet-50 on ImageNet's 1,000 classes, in torchvision's names: ConceptPrune's and ESD's judge.
          download.pytorch.org/models/resnet50-11ad3fa6.pth is IMAGENET1K_V2: short side to 232 (bilinear), crop 224.
          (UnlearnDiffAtk asks microsoft/resnet-50 instead, and compares ids: tench 0, English springer 217, cassette
          player 482, chain saw 491, church 497, French horn 566, garbage truck 569, gas pump 571, golf ball 574,
          parachute 701. They are the same classes; that judge is a hub id here, and spells more names a class.)
vit       a ViT of timm with a class token, such as UnlearnCanvas' judges (vit_large_patch16_224, 51 styles or 20
          objects). Its labels, one a line in the order of its outputs, are those of their constants/const.py:
          theme_available or class_available. Pictures: 224 x 224 (bilinear), mean and deviation 0.5.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lethe.files import io
from lethe.files.errors import UserError
from lethe.measuring.weights import CONVERTED
from lethe.models import foreign
from lethe.stage import cli

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

PUBLISHED = {  # sha256 of weights files as their authors distribute them
    "csd": "40e92fad63a361b8136100cd234c42d401ef9b34ff1748234318929ebcc7e7a1",
}
HEAD = 64  # width of an attention head in every CLIP and every timm ViT of width 192 and more
RULE = tuple[str, str | Callable[[re.Match], str]]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)
BILINEAR, BICUBIC = 2, 3  # as Pillow numbers them


def main() -> None:
    """Reads the weights, writes the folder."""
    args = parsed()
    if args.out.exists():
        raise UserError(f"{args.out}: is there already; give another folder or delete it")
    sha256 = io.sha256(args.weights) if args.weights.is_file() else ""
    check_name(args.weights, sha256)
    state = foreign.read(args.weights)
    try:
        model, preprocessing = KINDS[args.kind](state, args.labels)
    except UserError as error:
        raise UserError(f"{args.weights}: {error}") from None
    write(args.out, model, preprocessing, {"kind": args.kind, "file": args.weights.name, "sha256": sha256})
    told = {True: ", as published", False: ", NOT the published file"}.get(sha256 == PUBLISHED.get(args.kind, sha256))
    print(f"{args.out}: {args.kind} of {args.weights.name}, sha256 {sha256}{told if args.kind in PUBLISHED else ''}")


def parsed() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m lethe.measuring.backbones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("kind", choices=sorted(KINDS))
    made.add_argument("weights", type=Path, help="the file as its authors distribute it, or safetensors with its keys")
    made.add_argument("out", type=Path, help="folder to write")
    made.add_argument("--labels", type=Path, help="text file with a label a line, in the order of the outputs")
    return made.parse_args()


def check_name(path: Path, sha256: str) -> None:
    """torch names its files NAME-HEX.pth by the head of their sha256. Raises UserError if the content is another."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", Path(path).name)
    if found and sha256 and not sha256.startswith(found[1]):
        raise UserError(f"{path}: its sha256 begins with {sha256[:8]}, its name says {found[1]}; fetch it again")


def write(out: Path, model: PreTrainedModel, preprocessing: Mapping, source: Mapping) -> None:
    """The folder, whole or not at all. What it was made of, and the sha256 of its weights, stand in `CONVERTED`."""
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(part)
        io.write_json(part / "preprocessor_config.json", preprocessing)
        weights = {path.name: io.sha256(path) for path in sorted(part.glob("*.safetensors"))}
        io.write_json(part / CONVERTED, dict(source) | {"weights": weights})
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def csd(state: Mapping[str, torch.Tensor], labels: Path | None) -> tuple[PreTrainedModel, dict]:
    """A CLIPVisionModelWithProjection whose projection is the style head (stored [width, out], as CLIP's `proj`)."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    _no_labels(labels)
    _need(state, "backbone.conv1.weight", "backbone.positional_embedding", "last_layer_style")
    block, inner = r"backbone\.transformer\.resblocks\.(\d+)\.", r"vision_model.encoder.layers.\1."
    found = renamed(
        {key: own.T if key == "last_layer_style" else own for key, own in state.items()},
        (r"backbone\.class_embedding", "vision_model.embeddings.class_embedding"),
        (r"backbone\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (r"backbone\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
        (r"backbone\.ln_pre\.(\w+)", r"vision_model.pre_layrnorm.\1"),  # so it is spelt there
        (r"backbone\.ln_post\.(\w+)", r"vision_model.post_layernorm.\1"),
        (block + r"ln_([12])\.(\w+)", inner + r"layer_norm\2.\3"),
        (block + r"attn\.in_proj_(\w+)", inner + r"self_attn.{}_proj.\2"),
        (block + r"attn\.out_proj\.(\w+)", inner + r"self_attn.out_proj.\2"),
        (block + r"mlp\.c_fc\.(\w+)", inner + r"mlp.fc1.\2"),
        (block + r"mlp\.c_proj\.(\w+)", inner + r"mlp.fc2.\2"),
        ("last_layer_style", "visual_projection.weight"),
        (r"last_layer_content.*|backbone\.proj", ""),
    )
    width, _, patch, _ = state["backbone.conv1.weight"].shape
    side = patch * round((len(state["backbone.positional_embedding"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(found.get("vision_model.encoder.layers.0.mlp.fc1.weight", [])),
        num_hidden_layers=_count(found, r"vision_model\.encoder\.layers\.(\d+)\."),
        num_attention_heads=width // HEAD,
        projection_dim=state["last_layer_style"].shape[1],
        image_size=side,
        patch_size=patch,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    size = {"shortest_edge": side}
    return _filled(CLIPVisionModelWithProjection, config, found), _preprocessing(size, side, BICUBIC, CLIP)


def resnet50(state: Mapping[str, torch.Tensor], labels: Path | None) -> tuple[PreTrainedModel, dict]:
    """A ResNetForImageClassification: both stride in the 3 x 3 convolution, so the weights only change their names."""
    from torchvision.models import ResNet50_Weights
    from transformers import ResNetConfig, ResNetForImageClassification

    _need(state, "fc.weight", "conv1.weight", "layer4.0.conv3.weight")
    names = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    layers = {"conv": "convolution", "bn": "normalization"}

    def inner(match: re.Match) -> str:
        stage, block, kind, number, rest = match.groups()
        place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}"
        return f"{place}.{layers[kind]}.{rest}"

    def shortcut(match: re.Match) -> str:
        stage, block, number, rest = match.groups()
        place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.shortcut"
        return f"{place}.{('convolution', 'normalization')[int(number)]}.{rest}"

    found = renamed(
        state,
        (r"conv1\.weight", "resnet.embedder.embedder.convolution.weight"),
        (r"bn1\.(\w+)", r"resnet.embedder.embedder.normalization.\1"),
        (r"layer([1-4])\.(\d+)\.(conv|bn)([123])\.(\w+)", inner),
        (r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)", shortcut),
        (r"fc\.(\w+)", r"classifier.1.\1"),
    )
    config = ResNetConfig(
        embedding_size=len(state["conv1.weight"]),
        hidden_sizes=[len(state.get(f"layer{stage}.0.conv3.weight", [])) for stage in range(1, 5)],
        depths=[_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)],
        layer_type="bottleneck",
        **_labels(len(state["fc.weight"]), labels, names),
    )
    size = {"shortest_edge": 232}
    return _filled(ResNetForImageClassification, config, found), _preprocessing(size, 224, BILINEAR, IMAGENET)


def vit(state: Mapping[str, torch.Tensor], labels: Path | None) -> tuple[PreTrainedModel, dict]:
    """A ViTForImageClassification of timm's: class token, no distillation token, layer norm with epsilon 1e-6."""
    from transformers import ViTConfig, ViTForImageClassification

    _need(state, "patch_embed.proj.weight", "pos_embed", "cls_token", "head.weight")
    block, inner = r"blocks\.(\d+)\.", r"vit.layers.\1."
    found = renamed(
        state,
        ("cls_token", "vit.embeddings.cls_token"),
        ("pos_embed", "vit.embeddings.position_embeddings"),
        (r"patch_embed\.proj\.(\w+)", r"vit.embeddings.patch_embeddings.projection.\1"),
        (block + r"norm1\.(\w+)", inner + r"layernorm_before.\2"),
        (block + r"norm2\.(\w+)", inner + r"layernorm_after.\2"),
        (block + r"attn\.qkv\.(\w+)", inner + r"attention.{}_proj.\2"),
        (block + r"attn\.proj\.(\w+)", inner + r"attention.o_proj.\2"),
        (block + r"mlp\.fc([12])\.(\w+)", inner + r"mlp.fc\2.\3"),
        (r"norm\.(\w+)", r"vit.layernorm.\1"),
        (r"head\.(\w+)", r"classifier.\1"),
    )
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = patch * round((state["pos_embed"].shape[1] - 1) ** 0.5)
    config = ViTConfig(
        hidden_size=width,
        intermediate_size=len(found.get("vit.layers.0.mlp.fc1.weight", [])),
        num_hidden_layers=_count(found, r"vit\.layers\.(\d+)\."),
        num_attention_heads=width // HEAD,
        image_size=side,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        **_labels(len(state["head.weight"]), labels, None),
    )
    size = {"height": side, "width": side}
    return _filled(ViTForImageClassification, config, found), _preprocessing(size, None, BILINEAR, HALVES)


KINDS = {"csd": csd, "resnet50": resnet50, "vit": vit}


def renamed(state: Mapping[str, torch.Tensor], *rules: RULE) -> dict[str, torch.Tensor]:
    """The tensors in float32 under their new names. A new name with {} takes three equal parts, for q, k and v; an
    empty one leaves the tensor out. Raises UserError that lists keys which no rule knows."""
    found: dict[str, torch.Tensor] = {}
    unknown = []
    for key, own in state.items():
        match, name = next(((m, new) for old, new in rules if (m := re.fullmatch(old, key))), (None, ""))
        if match is None:
            unknown.append(key)
        elif name:
            own = own if own.dtype == torch.int64 else own.float()
            name = name(match) if callable(name) else match.expand(name)
            parts = zip("qkv", own.chunk(3), strict=True) if "{}" in name else [("", own)]
            found |= {name.format(letter): part.contiguous() for letter, part in parts}
    if unknown:
        raise UserError(f"unknown keys {', '.join(sorted(unknown)[:3])}{' ...' * (len(unknown) > 3)}")
    return found


def _need(state: Mapping[str, torch.Tensor], *keys: str) -> None:
    missing = [key for key in keys if key not in state]
    if missing:
        raise UserError(f"lacks {', '.join(missing)}; its keys begin with {', '.join(sorted(state)[:3])}")


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many numbers stand at the group of the pattern."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _no_labels(labels: Path | None) -> None:
    if labels:
        raise UserError("a descriptor has no labels; leave --labels out")


def _labels(count: int, path: Path | None, names: Sequence[str] | None) -> dict:
    """id2label and label2id, from the file if there is one, or else the names known for that many outputs."""
    if path:
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--labels: {path}: cannot be read ({error})") from None
    if names is None or len(names) != count:
        found = f"{path} has {len(names)}" if path and names is not None else "none are known"
        raise UserError(f"it has {count} outputs, so --labels needs that many lines; {found}")
    if len(set(names)) != count:
        raise UserError(f"--labels: {path}: a label stands there twice")
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _filled(
    kind: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    """A model that holds these tensors. Raises UserError for tensors missing, left over, or of another shape."""
    with torch.device("meta"):  # no time for random weights
        model = kind(config)
    own = model.state_dict()
    missing, more = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    shapes = [key for key in set(own) & set(state) if own[key].shape != state[key].shape]
    for keys, word in ((missing, "lacks"), (more, "has no place for"), (shapes, "has another shape of")):
        if keys:
            raise UserError(f"{word} {', '.join(keys[:3])}{' ...' * (len(keys) > 3)} (named as in {kind.__name__})")
    counters = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    model.load_state_dict(counters | dict(state), assign=True)
    return model.eval()


def _preprocessing(size: Mapping, crop: int | None, resample: int, moments: Sequence[Sequence[float]]) -> dict:
    """preprocessor_config.json: resized by Pillow, as the published numbers were."""
    return {
        "image_processor_type": "CLIPImageProcessorPil",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": dict(size),
        "resample": resample,
        "do_center_crop": crop is not None,
        "crop_size": {"height": crop, "width": crop} if crop else None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(moments[0]),
        "image_std": list(moments[1]),
    }


if __name__ == "__main__":
    cli.run(main)
