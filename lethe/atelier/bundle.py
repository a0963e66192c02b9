"""Parts of the base bundle, in the order they are made; each part's result is kept and not made again.

    pictures     rendered training pictures                   <state>/pictures/
    autoencoder  VAE                                          <state>/autoencoder-<steps>-s<seed>.safetensors
    pipeline     U-Net and text encoder                       <state>/pipeline-...
    judges       style, content, emblem, descriptor, clip     <state>/style-..., ...

`export` stores all of them in float16 as the bundle; `lethe.atelier.quality` measures it.
"""

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lethe import tensors
from lethe.atelier import networks, training
from lethe.atelier.captions import STYLE_NAMES, corpus
from lethe.atelier.splits import judge_rows, pretrain_rows, render_row
from lethe.atelier.world import CONTENTS, STYLES
from lethe.io import write_json

EMBLEMS = ("none", "hazard")
JUDGES = {"style": STYLES, "content": CONTENTS, "emblem": EMBLEMS}


def rendered(state: Path, name: str, rows: list[dict], workers: int) -> tuple[list[dict], np.ndarray]:
    """Rows and their pictures uint8 [N, 64, 64, 3], rendered once and kept in <state>/pictures."""
    file = state / "pictures" / f"{name}-{len(rows)}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with Pool(workers) as pool:
            pictures = np.stack(list(pool.imap(render_row, rows, chunksize=100)))
        part = file.with_suffix(".part.npy")
        np.save(part, pictures)
        part.rename(file)
    return rows, np.load(file, mmap_mode="r")


def training_rows(n: int, seed: int) -> list[dict]:
    """Rows of split `pretrain`; a few captions name the style alone or nothing, as erasers' prompts and anchors do."""
    rows = pretrain_rows(n, seed)
    for i, row in enumerate(rows):
        if row["emblem"] != "none" or row["style"] == "photo":
            continue
        if i % 20 == 0:
            row["text"] = f"a painting by {STYLE_NAMES[row['style']]}"
        elif i % 20 == 10:
            row["text"] = "a painting"
    return rows


def token_ids(words: object, texts: list[str]) -> Tensor:
    """int64 [N, TEXT_LENGTH], padded as the pipeline pads."""
    return words(
        texts, padding="max_length", truncation=True, max_length=networks.TEXT_LENGTH, return_tensors="pt"
    ).input_ids


def made(state: Path, name: str, module: nn.Module, train: Callable[[Path], None]) -> nn.Module:
    """The module with its weights from <state>/<name>.safetensors; if there are none, trained and kept there."""
    file = state / f"{name}.safetensors"
    if file.is_file():
        module.load_state_dict(tensors.load(file))
    else:
        train(state / name)
        tensors.save(file, module.state_dict())
    return module.eval()


def make_autoencoder(state: Path, pictures: np.ndarray, steps: int, batch: int, seed: int) -> nn.Module:
    """The VAE, with the scaling factor that gives latents unit variance: one number, as in Stable Diffusion."""
    torch.manual_seed(seed)
    vae = networks.autoencoder()
    made(
        state,
        f"autoencoder-{steps}-s{seed}",
        vae,
        lambda folder: training.train_autoencoder(vae, pictures, steps=steps, batch=batch, seed=seed, state=folder),
    )
    mean, std = training.encode(vae, pictures[:2000])
    vae.register_to_config(scaling_factor=round(float((mean.var() + (std**2).mean()).rsqrt()), 5))
    return vae


def make_pipeline(
    state: Path, vae: nn.Module, rows: list[dict], pictures: np.ndarray, rounds: Sequence[int], batch: int, seed: int
) -> dict:
    """The pipeline's five parts; U-Net and text encoder are trained on the VAE's latents of the pictures.

    Each round of training starts from the averaged weights of the one before and has its own cosine, from a lower
    learning rate: a model can be improved without training it anew. The first round sees the pictures as they are and
    does not learn the emblem, small and in one of seven; in later ones every second picture has it.
    """
    torch.manual_seed(seed)
    words = networks.tokenizer(corpus(4000))
    both = nn.ModuleDict({"unet": networks.unet(), "text_encoder": networks.text_encoder(words)})
    scheduler = networks.scheduler()

    def train(number: int, folder: Path) -> None:
        latents = tuple(part * vae.config.scaling_factor for part in training.encode(vae, pictures))
        tokens, empty = token_ids(words, [row["text"] for row in rows]), token_ids(words, [""])[0]
        rare = label_ids(rows, "emblem").float()
        share = rare.mean() if number == 0 else 0.5
        weights = rare * share / rare.mean() + (1 - rare) * (1 - share) / (1 - rare.mean())
        how = {"steps": rounds[number], "batch": batch, "lr": 1e-3 * 0.6**number, "seed": seed + number}
        training.train_pipeline(both.train(), scheduler, latents, tokens, empty, weights, state=folder, **how)

    for number in range(len(rounds)):
        name = "pipeline-" + "-".join(map(str, rounds[: number + 1]))
        made(state, f"{name}-s{seed}", both, functools.partial(train, number))
    return {**both, "vae": vae, "tokenizer": words, "scheduler": scheduler}


def make_judges(
    state: Path, rows: list[dict], pictures: np.ndarray, steps: Mapping[str, int], seed: int
) -> dict[str, nn.Module]:
    """The three classifiers, the style descriptor and the CLIP model, trained on rendered pictures only."""
    words = networks.tokenizer(corpus(4000))
    tokens = token_ids(words, [row["text"] for row in rows])
    build = {name: functools.partial(networks.judge, labels) for name, labels in JUDGES.items()}
    build |= {"descriptor": networks.descriptor, "clip": lambda: networks.clip(len(words), words.eos_token_id)}
    found = {}
    for name, builder in build.items():
        torch.manual_seed(seed)
        judge = builder()
        if name == "clip":
            train = functools.partial(training.train_clip, judge, pictures, tokens)
        elif name == "descriptor":
            train = functools.partial(training.train_descriptor, judge, pictures, label_ids(rows, "style"))
        else:
            train = functools.partial(training.train_judge, judge, pictures, label_ids(rows, name))
        run = functools.partial(train, steps=steps[name], seed=seed)
        found[name] = made(state, f"{name}-{steps[name]}-s{seed}", judge, lambda folder, run=run: run(state=folder))
    return found


def label_ids(rows: list[dict], judge: str) -> Tensor:
    """int64 [N]: each row's label in the judge's list."""
    if judge == "emblem":
        return torch.tensor([int(row["emblem"] != "none") for row in rows])
    return torch.tensor([JUDGES[judge].index(row[judge]) for row in rows])


def export(out: Path, pipeline: Mapping[str, object], judges: Mapping[str, nn.Module]) -> None:
    """Writes <out>/pipeline (a StableDiffusionPipeline folder) and <out>/judges, all weights float16 safetensors."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file
    from transformers import ConvNextImageProcessor

    whole = StableDiffusionPipeline(
        **pipeline, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    halved(whole.save_pretrained, out / "pipeline", [whole.unet, whole.vae, whole.text_encoder])
    for name, judge in judges.items():
        folder = out / "judges" / name
        if name == "clip":
            folder.mkdir(parents=True)
            config = json.loads(json.dumps(networks.CLIP_CONFIG))
            words = pipeline["tokenizer"]
            config["text_cfg"] |= {
                "vocab_size": len(words),
                "eos_id": words.eos_token_id,
                "pool_type": "eos",
                "hf_tokenizer_name": "this-folder",
            }
            plain = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
            write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": plain})
            words.save_pretrained(folder)
            half = {k: v.detach().half().contiguous() for k, v in judge.state_dict().items() if k != "attn_mask"}
            save_file(half, folder / "open_clip_model.safetensors")
            continue
        halved(judge.save_pretrained, folder, [judge])
        ConvNextImageProcessor(
            size={"shortest_edge": networks.SIZE}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder)


def halved(save: Callable[[Path], object], folder: Path, modules: list[nn.Module]) -> None:
    """Saves float16 copies; the modules go on in float32 with the rounded values that others will load."""
    for module in modules:
        module.half()
    save(folder)
    for module in modules:
        module.float()


def replace(new: Path, old: Path) -> None:
    """Puts the folder `new` in the place of `old`."""
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def judge_pictures(state: Path, seed: int, workers: int, train: int, unseen: int) -> tuple:
    """Training and unseen rows and pictures of the judges."""
    return (
        rendered(state, "judge", judge_rows(train, seed, unseen=False), workers),
        rendered(state, "judge-unseen", judge_rows(unseen, seed, unseen=True), workers),
    )
