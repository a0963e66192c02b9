"""Parts of a base, in the order they are made; each is kept in the state folder when it is finished.

    autoencoder  VAE                                   <state>/autoencoder-<hash>.safetensors
    decoder      its decoder again                     <state>/decoder-...
    pipeline     U-Net and text encoder                <state>/pipeline-...
    content      judge of content
    style        judge of style, which is the style descriptor too
    clip         text-image model

With `seconds` each part gets its share of what is left, and the number of steps is found from the time of one.
`export` stores all of them in float16 as the bundle.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from lethe.files import tensors
from lethe.files.io import digest, write_json
from lethe.pretraining import autoencoder, diffusion, judging, networks
from lethe.pretraining.diffusion import Captions
from lethe.pretraining.fitting import Job, Pace, train
from lethe.pretraining.pictures import PictureSet
from lethe.pretraining.recipe import SHARES, VERSION, Recipe
from lethe.pretraining.trunk import ARCHITECTURE
from lethe.pretraining.varied import CRISP, How, vary

WIDTHS, CONTEXT = (80, 80, 96, 96), 96  # of the U-Net, and of the text encoder
STILL = How(shift=0)
RECONSTRUCTIONS = 2  # of each picture, for the judges
CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": networks.CLIP_CONFIG["vision_cfg"],
    "text_cfg": networks.CLIP_CONFIG["text_cfg"],
}


class Judges(TypedDict):
    """Those that judge."""

    content: judging.Content
    style: judging.Style
    clip: nn.Module


class Networks(networks.Pipeline, Judges):
    """All networks of a base."""


class Parts:
    """All networks of a base over one picture set; each made, or read from the state folder, when it is asked for."""

    def __init__(
        self,
        pictures: PictureSet,
        recipe: Recipe,
        state: Path,
        device: torch.device,
        weights: Path,
        seconds: float | None = None,
        graphs: bool = True,
    ) -> None:
        self.pictures, self.recipe, self.state, self.device, self.weights = pictures, recipe, state, device, weights
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.graphs = graphs
        self.costs: dict[str, dict] = {}
        self.left = dict(SHARES)
        self.pixels = torch.from_numpy(pictures.pixels).to(device)
        self.held = torch.from_numpy(pictures.held).to(device)
        self.seen = (~self.held).nonzero()[:, 0]
        self.labels = {"style": pictures.styles, "content": pictures.contents}
        self.ids = {name: torch.from_numpy(pictures.ids(name)).to(device) for name in self.labels}
        self.words = networks.tokenizer(diffusion.corpus(pictures.rows), recipe.vocabulary)
        self.captions = Captions(self.words, pictures, device)

    def make(self) -> Networks:
        """All networks, in evaluation mode, float32, on the device."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        vae = networks.autoencoder().to(self.device)
        seen = self.pixels[self.seen]
        self._made("autoencoder", vae, lambda: autoencoder.whole(vae, seen, recipe.autoencoder_batch))
        decoder = nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
        self._made("decoder", decoder, lambda: autoencoder.sharper(vae, decoder, seen, recipe.autoencoder_batch))
        still = self.still(self.pixels)
        mean, std = autoencoder.encode(vae, still[self.seen])
        vae.register_to_config(scaling_factor=round(float((mean.var() + (std**2).mean()).rsqrt()), 5))

        torch.manual_seed(recipe.seed)
        both = nn.ModuleDict(
            {"unet": networks.unet(WIDTHS, CONTEXT), "text_encoder": networks.text_encoder(self.words, CONTEXT)}
        ).to(self.device)
        scheduler = networks.scheduler()

        def pipeline_job(rows: Tensor) -> Job:
            found = diffusion.latents(vae, self.pixels, recipe.variants, recipe.seed)
            return diffusion.job(both.train(), scheduler, found, self.captions, rows, recipe.pipeline_batch)

        self._made("pipeline", both, lambda: pipeline_job(self.seen))
        judges = self._judges(vae)
        return {
            "unet": both["unet"],
            "text_encoder": both["text_encoder"],
            "vae": vae,
            "tokenizer": self.words,
            "scheduler": scheduler,
            **judges,
        }

    def still(self, pixels: Tensor) -> Tensor:
        """Pictures as they are, on white: [N, 3, 64, 64]."""
        return vary(pixels, torch.Generator(self.device).manual_seed(0), STILL)

    def _judges(self, vae: AutoencoderKL) -> Judges:
        recipe = self.recipe
        g = torch.Generator(self.device).manual_seed(recipe.seed + 1)
        copies = [autoencoder.rebuilt(vae, vary(self.pixels, g, CRISP)) for _ in range(RECONSTRUCTIONS)]
        kept = [part[self.seen] for part in (self.pixels, *copies)]
        bank, repeats = torch.cat(kept), 1 + RECONSTRUCTIONS
        style, content = (self.ids[name][self.seen].repeat(repeats) for name in ("style", "content"))
        known = ~torch.tensor(judging.unseen(self.pictures.contents), device=self.device)[content]

        torch.manual_seed(recipe.seed)
        of_content = judging.Content(self.labels["content"], self.weights).to(self.device)
        self._made("content", of_content, lambda: judging.content_job(of_content, bank, content, recipe.content_batch))
        torch.manual_seed(recipe.seed)
        of_style = judging.Style(self.labels["style"], self.weights).to(self.device)
        self._made(
            "style", of_style, lambda: judging.style_job(of_style, bank[known], style[known], recipe.style_batch)
        )
        torch.manual_seed(recipe.seed)
        clip = networks.clip(len(self.words), self.words.eos_token_id, CLIP).to(self.device)
        self._made(
            "clip",
            clip,
            lambda: judging.clip_job(clip, self.pixels, self.captions, self.seen, recipe.clip_batch),
        )
        return {"content": of_content, "style": of_style, "clip": clip}

    def _made(self, name: str, module: nn.Module, job: Callable[[], Job]) -> None:
        """Fills the module with the weights of its part; trains it first if there are none."""
        file = self.state / f"{name}-{digest([VERSION, asdict(self.recipe), self.pictures.source])}.safetensors"
        share = self.left.pop(name)
        if file.is_file():
            module.load_state_dict(tensors.load(file))
            self.costs[name] = json.loads(tensors.metadata(file).get("cost", "{}"))
            module.eval()
            return
        started = time.monotonic()
        pace = Pace(steps=getattr(self.recipe, f"{name}_steps"), graphs=self.graphs)
        made = job()
        if self.deadline is not None:
            whole = share + sum(self.left.values())
            own = (self.deadline - started) * share / whole - (time.monotonic() - started)
            pace = Pace(seconds=max(own, 0.0), graphs=self.graphs)
        cost = train(made, pace, self.recipe.seed, file.with_suffix(""))
        cost["with_preparation"] = round(time.monotonic() - started, 1)
        print(f"{name}: {json.dumps(cost)}", flush=True)
        tensors.save(file, module.state_dict(), {"cost": json.dumps(cost)})
        self.costs[name] = cost
        module.eval()


def export(out: Path, found: Networks, labels: Mapping[str, list[str]]) -> None:
    """Writes <out>/pipeline (a StableDiffusionPipeline folder) and <out>/judges; networks go on with rounded values."""
    from diffusers import StableDiffusionPipeline

    whole = StableDiffusionPipeline(
        unet=found["unet"],
        vae=found["vae"],
        text_encoder=found["text_encoder"],
        tokenizer=found["tokenizer"],
        scheduler=found["scheduler"],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    halved(whole.save_pretrained, out / "pipeline", [whole.unet, whole.vae, whole.text_encoder])
    _export_clip(out / "judges" / "clip", found["clip"], found["tokenizer"])
    _export_content(out / "judges" / "content", found["content"], labels["content"])
    found["style"].net.save_pretrained(out / "judges" / "style")  # small: float32
    write_json(out / "judges" / "style" / "preprocessor_config.json", _preprocessing())


def halved(save: Callable[[Path], object], folder: Path, modules: list[nn.Module]) -> None:
    """Saves float16 copies; the modules go on in float32 with the rounded values that others will load."""
    for module in modules:
        module.half()
    save(folder)
    for module in modules:
        module.float()


def _rounded(module: nn.Module) -> dict[str, Tensor]:
    """Matrices in float16, vectors (a normalisation's moments among them) in float32; the module is rounded alike."""
    found = {}
    for key, value in module.state_dict().items():
        half = value.is_floating_point() and value.ndim > 1
        if half:
            value.copy_(value.half())
        found[key] = (value.half() if half else value).detach().cpu().contiguous()
    return found


def _export_clip(folder: Path, clip: nn.Module, words: CLIPTokenizer) -> None:
    """A local-dir folder of open_clip."""
    folder.mkdir(parents=True)
    text = {"vocab_size": len(words), "eos_id": words.eos_token_id, "pool_type": "eos"}
    config = CLIP | {"text_cfg": CLIP["text_cfg"] | text | {"hf_tokenizer_name": "this-folder"}}
    plain = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": plain})
    words.save_pretrained(folder)
    rounded = {key: value for key, value in _rounded(clip).items() if key != "attn_mask"}
    save_file(rounded, folder / "open_clip_model.safetensors")


def _export_content(folder: Path, judge: judging.Content, labels: list[str]) -> None:
    """An image-classification folder of timm's network, as transformers' timm wrapper reads it."""
    folder.mkdir(parents=True)
    weights = {f"timm_model.{key}": value for key, value in _rounded(judge.net).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["TimmWrapperForImageClassification"],
        "architecture": ARCHITECTURE,
        "model_type": "timm_wrapper",
        "num_classes": len(labels),
        "label_names": labels,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _preprocessing())


def _preprocessing() -> dict[str, object]:
    """Both judges': Pillow makes of pictures what `judging.enlarged` does."""
    side = judging.SIDE
    return {
        "image_processor_type": "CLIPImageProcessorPil",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
