"""Tiny judges in the formats of real ones, and a set of pictures to score."""

import hashlib
from pathlib import Path

import numpy as np

from lethe.files import images
from lethe.files.io import write_json
from lethe.texts.rows import Prompt

STYLES = ["monet", "cassatt", "munch", "picasso"]
CONTENTS = ["boat", "house"]
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "crop_pct": 1.0,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def resnet(folder: Path, labels: list[str] | None, seed: int) -> Path:
    """A classifier with these labels, or a headless network, saved in half precision."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    kind = ResNetModel
    if labels:
        kind, config.id2label = ResNetForImageClassification, dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind(config).half().save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", PROCESSOR)
    return folder


def clip(folder: Path) -> Path:
    """An open_clip folder: its config, weights in half precision, a tokenizer of the transformers library."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from tests.conftest import tokenizer

    folder.mkdir()
    tokenizer(16).save_pretrained(folder)
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": 16, "vocab_size": 82, "width": 16, "heads": 2, "layers": 1}
    text |= {"hf_tokenizer_name": str(folder), "tokenizer_kwargs": {"clean": "canonicalize"}}
    model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = open_clip.CLIP(8, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    save_file({key: value.half() for key, value in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    return folder


def judges(folder: Path) -> Path:
    """Folder with clip, style, content and descriptor."""
    resnet(folder / "style", STYLES, 1)
    resnet(folder / "content", CONTENTS, 2)
    resnet(folder / "descriptor", None, 3)
    clip(folder / "clip")
    return folder


def section(folder: Path) -> dict:
    """Section score with the judges of a folder."""
    return {
        "clip": f"local-dir:{folder / 'clip'}",
        "descriptor": str(folder / "descriptor"),
        "features": str(folder / "content"),
        "features_weights": None,
        "lpips": None,
        "judges": {"style": str(folder / "style"), "content": str(folder / "content"), "unsafe": None},
        "unsafe": None,
        "pair": None,
        "kid_subsets": 3,
    }


SETS = {
    "monet": [Prompt(i, f"a boat {i} by monet", i, "monet", "boat") for i in range(6)],
    "picasso": [Prompt(i, f"a house {i} by picasso", i, None, "house") for i in range(4)],
    "retain": [
        Prompt(i, f"a boat by {artist}", i, artist, "boat")
        for i, artist in enumerate(["cassatt", "munch", "cassatt", "monet"])
    ],
    "eval": [Prompt(i, f"sun {i}", i) for i in range(8)],
}


def write_samples(
    folder: Path, seed: int, sets: dict[str, list[Prompt]] = SETS, recipe: str = "samples000", side: int = 32
) -> Path:
    """A finished samples folder of noisy plain pictures."""
    folder.mkdir(parents=True)
    rows = [(name, row) for name, members in sets.items() for row in members]
    noise = np.random.default_rng(seed)
    contents = {}
    for name, row in rows:
        pixels = noise.integers(0, 200, 3) + noise.integers(0, 56, (side, side, 3))
        contents[f"{name}/{row.case_number}.png"] = images.png(pixels.astype(np.uint8))
    images.write_tar(folder / images.TAR, contents.items())
    images.write_manifest(
        folder / images.MANIFEST,
        [
            images.Entry(name, row.case_number, row.prompt, row.seed, file, hashlib.sha256(content).hexdigest())
            for (name, row), (file, content) in zip(rows, contents.items(), strict=True)
        ],
    )
    write_json(folder / "meta.json", {"recipe": recipe})
    return folder


def write_prompts(folder: Path, sets: dict[str, list[Prompt]] = SETS) -> dict[str, Path]:
    """The CSVs of the sets."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        labels = [(r.artist, r.content, r.file_name) for r in rows]
        ends = [",".join(label or "" for label in own) for own in labels]
        lines = [f"{r.case_number},{r.prompt},{r.seed},{end}" for r, end in zip(rows, ends, strict=True)]
        text = "case_number,prompt,evaluation_seed,artist,class,file_name\n" + "\n".join(lines) + "\n"
        (folder / f"{name}.csv").write_text(text)
    return {name: folder / f"{name}.csv" for name in sets}


def concepts(pictures: Path) -> dict:
    """What --concepts holds: monet with pictures, picasso without."""
    return {
        "monet": {"kind": "style", "style": "monet", "neighbours": ["cassatt"], "pictures": str(pictures)},
        "picasso": {"kind": "style", "style": "picasso", "neighbours": [], "pictures": None},
    }
