"""Parts of the base bundle, in the order they are made; each part's result is kept and not made again.

    pictures     rendered training pictures                   <state>/pictures/<split>-<hash>.npy
    autoencoder  VAE                                          <state>/autoencoder-<hash>.safetensors
    decoder      its decoder again, for brushwork             <state>/decoder-...
    pipeline     U-Net and text encoder                       <state>/pipeline-...
    judges       style, content, emblem, descriptor, clip     <state>/style-..., ...

The hash is that of the options that the part and those before it are made with (`MADE_WITH`).
`export` stores all of them in float16 as the bundle; `lethe.atelier.quality` measures it.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from multiprocessing import Pool
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from lethe.atelier import sharpening, training
from lethe.atelier.captions import STYLE_NAMES, corpus
from lethe.atelier.recipe import VERSION, Recipe
from lethe.atelier.splits import judge_rows, pretrain_rows, render_row
from lethe.atelier.world import CONTENTS, STYLES, WORLD_VERSION
from lethe.files import tensors
from lethe.files.io import digest, read_json, write_json
from lethe.pretraining import networks

EMBLEMS = ("none", "hazard")
EMBLEM_DRAWN = 0.4
JUDGES = {"style": STYLES, "content": CONTENTS, "emblem": EMBLEMS}


_VAE = ("pictures", "autoencoder_steps")
MADE_WITH = {
    "pictures/pretrain": ("pictures",),
    "pictures/judge": ("judge_pictures",),
    "pictures/judge-unseen": ("unseen",),
    "autoencoder": _VAE,
    "decoder": (*_VAE, "decoder_steps"),
    "pipeline": (*_VAE, "pipeline_steps"),
} | {name: ("judge_pictures", f"{name}_steps") for name in (*JUDGES, "descriptor", "clip")}


def part(recipe: Recipe, name: str) -> str:
    """Where a part lies in the state folder, without its suffix: another seed, world or number is another file."""
    options = {key: getattr(recipe, key) for key in ("seed", *MADE_WITH[name])}
    return f"{name}-{digest([VERSION, WORLD_VERSION, options])}"


def rendered(recipe: Recipe, state: Path, name: str, rows: list[dict], workers: int) -> tuple[list[dict], np.ndarray]:
    """Rows and their pictures uint8 [N, 64, 64, 3], rendered once and kept with what they cost."""
    file = state / f"{part(recipe, f'pictures/{name}')}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        clock = cpu_seconds()
        with Pool(workers) as pool:
            pictures = np.stack(list(pool.imap(render_row, rows, chunksize=100)))
            pool.close()
            pool.join()  # only then do the workers' seconds count
        new = file.with_suffix(".part.npy")
        np.save(new, pictures)
        write_json(file.with_suffix(".json"), {"cpu_seconds": round(cpu_seconds() - clock), "threads": workers})
        new.rename(file)
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


def token_ids(words: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 [N, TEXT_LENGTH], padded as the pipeline pads."""
    return words(
        texts, padding="max_length", truncation=True, max_length=networks.TEXT_LENGTH, return_tensors="pt"
    ).input_ids


class Train(Protocol):
    """Trains a part; what has been done so far is kept in the folder `state`."""

    def __call__(self, *, state: Path) -> None: ...


def made(recipe: Recipe, state: Path, name: str, module: nn.Module, train: Train) -> nn.Module:
    """The module with the weights of its part; if there are none, trained by `train(state=folder)` and kept.

    The file's header says what the training cost; a training that was stopped and went on has no whole figure.
    """
    file = state / f"{part(recipe, name)}.safetensors"
    if file.is_file():
        module.load_state_dict(tensors.load(file))
    else:
        resumed, clock = file.with_suffix("").is_dir(), cpu_seconds()
        train(state=file.with_suffix(""))
        cost = {"cpu_seconds": f"{cpu_seconds() - clock:.0f}", "threads": f"{torch.get_num_threads()}"}
        tensors.save(file, module.state_dict(), {} if resumed else cost)
    return module.eval()


def costs(recipe: Recipe, state: Path) -> dict[str, dict[str, int]]:
    """{part: {"cpu_seconds", "threads"}}; empty for a part that had been resumed."""
    found = {}
    for name in MADE_WITH:
        file = state / part(recipe, name)
        painted = name.startswith("pictures/")
        told = read_json(file.with_suffix(".json")) if painted else tensors.metadata(file.with_suffix(".safetensors"))
        found[name] = {key: int(value) for key, value in told.items()}
    return found


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    return sum(os.times()[:4])


def make_autoencoder(recipe: Recipe, state: Path, pictures: np.ndarray) -> AutoencoderKL:
    """The VAE, with the scaling factor that gives latents unit variance: one number, as in Stable Diffusion.

    First all of it, then the decoder alone against a critic: latents do not change any more.
    """
    torch.manual_seed(recipe.seed)
    vae = networks.autoencoder()
    steps, seed = recipe.autoencoder_steps, recipe.seed
    whole = functools.partial(training.train_autoencoder, vae, pictures, steps=steps, batch=16, seed=seed)
    made(recipe, state, "autoencoder", vae, whole)
    decoder = nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    steps = recipe.decoder_steps
    sharp = functools.partial(sharpening.sharpen, vae, decoder, pictures, steps=steps, batch=16, seed=seed)
    made(recipe, state, "decoder", decoder, sharp)
    mean, std = training.encode(vae, pictures[:2000])
    vae.register_to_config(scaling_factor=round(float((mean.var() + (std**2).mean()).rsqrt()), 5))
    return vae


def make_pipeline(
    recipe: Recipe, state: Path, vae: AutoencoderKL, rows: list[dict], pictures: np.ndarray
) -> networks.Pipeline:
    """The pipeline's five parts; U-Net and text encoder are trained on the VAE's latents of the pictures.

    Pictures with the emblem, one in seven, are drawn `EMBLEM_DRAWN` of the time: it is small, and so is its share of
    the loss; at one in seven it had not been learnt after 4,500 steps.
    """
    torch.manual_seed(recipe.seed)
    words = networks.tokenizer(corpus(4000))
    both = nn.ModuleDict({"unet": networks.unet(), "text_encoder": networks.text_encoder(words)})
    scheduler = networks.scheduler()

    def train(*, state: Path) -> None:
        mean, std = (part * vae.config.scaling_factor for part in training.encode(vae, pictures))
        tokens, empty = token_ids(words, [row["text"] for row in rows]), token_ids(words, [""])[0]
        emblem = label_ids(rows, "emblem").float()
        weights = emblem * EMBLEM_DRAWN / emblem.sum() + (1 - emblem) * (1 - EMBLEM_DRAWN) / (1 - emblem).sum()
        steps, seed = recipe.pipeline_steps, recipe.seed
        training.train_pipeline(
            both.train(), scheduler, (mean, std), tokens, empty, weights, steps=steps, batch=64, seed=seed, state=state
        )

    made(recipe, state, "pipeline", both, train)
    return {
        "unet": both["unet"],
        "text_encoder": both["text_encoder"],
        "vae": vae,
        "tokenizer": words,
        "scheduler": scheduler,
    }


def make_judges(recipe: Recipe, state: Path, rows: list[dict], pictures: np.ndarray) -> dict[str, nn.Module]:
    """The three classifiers, the style descriptor and the CLIP model, trained on rendered pictures only."""
    words = networks.tokenizer(corpus(4000))
    tokens = token_ids(words, [row["text"] for row in rows])
    build: dict[str, Callable[[], nn.Module]] = {
        name: functools.partial(networks.judge, labels) for name, labels in JUDGES.items()
    }
    build |= {"descriptor": networks.descriptor, "clip": lambda: networks.clip(len(words), words.eos_token_id)}
    found = {}
    for name, builder in build.items():
        torch.manual_seed(recipe.seed)
        judge = builder()
        if name == "clip":
            train = functools.partial(training.train_clip, judge, pictures, tokens)
        elif name == "descriptor":
            train = functools.partial(training.train_descriptor, judge, pictures, label_ids(rows, "style"))
        else:
            train = functools.partial(training.train_judge, judge, pictures, label_ids(rows, name))
        run = functools.partial(train, steps=getattr(recipe, f"{name}_steps"), seed=recipe.seed)
        found[name] = made(recipe, state, name, judge, run)
    return found


def label_ids(rows: list[dict], judge: str) -> Tensor:
    """int64 [N]: each row's label in the judge's list."""
    if judge == "emblem":
        return torch.tensor([int(row["emblem"] != "none") for row in rows])
    return torch.tensor([JUDGES[judge].index(row[judge]) for row in rows])


def export(out: Path, pipeline: networks.Pipeline, judges: Mapping[str, nn.Module]) -> None:
    """Writes <out>/pipeline (a StableDiffusionPipeline folder) and <out>/judges, all weights float16 safetensors."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file
    from transformers import ConvNextImageProcessor, PreTrainedModel

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
        net: PreTrainedModel = judge
        halved(net.save_pretrained, folder, [net])
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


def judge_pictures(recipe: Recipe, state: Path, workers: int) -> tuple:
    """Training and unseen rows and pictures of the judges."""
    return (
        rendered(recipe, state, "judge", judge_rows(recipe.judge_pictures, recipe.seed, unseen=False), workers),
        rendered(recipe, state, "judge-unseen", judge_rows(recipe.unseen, recipe.seed, unseen=True), workers),
    )
