"""A weights folder as a pipeline: it draws what the sampler draws, and anything else is refused in one line."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import lethe
from lethe.drawing import sampling
from lethe.erasing import erased
from lethe.files.errors import UserError
from lethe.files.io import result_folder, write_json
from lethe.models import unets
from lethe.stage.record import Recorder
from lethe.texts.rows import Prompt
from tests.stages.running import PRUNE, stage

ROWS = [Prompt(0, "a boat", 5), Prompt(1, "a house by monet", 0), Prompt(2, "", 7)]
SETTINGS = sampling.Settings(sampler="ddim", steps=4, guidance=4.0, tile=3)


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def base(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def pruned_of(tmp_path_factory):
    """base -> its pruned weights, made once."""

    @functools.cache
    def made(base: Path) -> Path:
        out = tmp_path_factory.mktemp("weights") / "pruned"
        stage("prune", "--base", base, "--budget", 0.8, "--out", out, **PRUNE)
        return out

    return made


@pytest.fixture
def pruned(base, pruned_of) -> Path:
    return pruned_of(base)


def with_text_encoder(pruned: Path, base: Path, out: Path) -> Path:
    """The pruned U-Net with a text encoder of its own, as an eraser leaves it."""
    parts, unet = erased.prepare(str(base), None, {"model": pruned}, None, torch.device("cpu"))
    with torch.no_grad():
        for parameter in parts.text_encoder.parameters():
            parameter.mul_(1.1)
    with result_folder(out) as part:
        unets.save_unet(unet, unets.read_pruning(pruned), part)
        erased.save(erased.Erased(), parts, part)
        Recorder("erase", 0, "0123456789", {}, {"base": base, "model": pruned}).write(part)
    return out


def copied(pruned: Path, out: Path, base: str, guidance: dict | None = None) -> Path:
    """The pruned U-Net in a result that names another base, and maybe an eraser that acts while sampling."""
    with result_folder(out) as part:
        shutil.copytree(pruned / "unet", part / "unet")
        if guidance:
            write_json(part / "guidance.json", guidance)
        Recorder("erase", 0, "0123456789", {}, {"base": Path(base)}).write(part)
    return out


def by_sampler(base: Path, weights: Path | None) -> np.ndarray:
    """The pictures of stage sample, uint8."""
    folders = {"model": weights} if weights else {}
    parts, unet = erased.prepare(str(base), None, folders, None, torch.device("cpu"))
    (pictures,) = sampling.draw(parts, unet, [ROWS], SETTINGS)
    return pictures


def by_pipeline(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """The same rows from a pipeline, in [0, 255]; its DDIM as the sampler's, which does not clip latents."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    return 255 * np.concatenate(
        [
            pipeline(
                row.prompt,
                num_inference_steps=SETTINGS.steps,
                guidance_scale=SETTINGS.guidance,
                generator=torch.Generator().manual_seed(row.seed),
                output_type="np",
            ).images
            for row in ROWS
        ]
    )


def test_pruned_weights_draw_as_the_sampler_does(base, pruned):
    pipeline = lethe.load_pipeline(pruned)
    assert isinstance(pipeline, StableDiffusionPipeline)
    own = StableDiffusionPipeline.from_pretrained(base, safety_checker=None).scheduler
    assert type(pipeline.scheduler) is type(own) and pipeline.scheduler.config == own.config
    wanted = by_sampler(base, pruned)
    assert np.abs(by_pipeline(pipeline) - wanted).max() < 0.51  # rounded to whole numbers, and batched otherwise
    assert not np.array_equal(wanted, by_sampler(base, None))


def test_a_text_encoder_that_an_eraser_edited_comes_along(base, pruned, tmp_path):
    weights = with_text_encoder(pruned, base, tmp_path / "weights")
    wanted = by_sampler(base, weights)
    assert np.abs(by_pipeline(lethe.load_pipeline(weights)) - wanted).max() < 0.51
    assert not np.array_equal(wanted, by_sampler(base, pruned))


def test_a_stock_pipeline_and_a_saved_unet(base, tmp_path):
    wanted = by_sampler(base, None)
    assert np.abs(by_pipeline(lethe.load_pipeline(str(base))) - wanted).max() < 0.51
    lethe.load_pipeline(base).unet.save_pretrained(tmp_path / "unet")
    for folder in (tmp_path, tmp_path / "unet"):
        assert np.abs(by_pipeline(lethe.load_pipeline(folder, base=base)) - wanted).max() < 0.51


def test_the_base_is_found_from_anywhere(tiny_base, pruned_of, tmp_path, monkeypatch):
    shutil.copytree(tiny_base, tmp_path / "models/base")
    weights = copied(pruned_of(tiny_base), tmp_path / "results/own/pruned", "models/base")
    monkeypatch.chdir("/")
    assert lethe.load_pipeline(weights)
    (tmp_path / "models").rename(tmp_path / "moved")
    refused(weights, "models/base: no such folder; give base=FOLDER")
    assert lethe.load_pipeline(weights, base=tmp_path / "moved/base")


def refused(folder: Path, *words: str, **more: object) -> None:
    with pytest.raises(UserError) as caught:
        lethe.load_pipeline(folder, **more)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_none_is_refused_in_one_line(tiny_base, other_base, pruned_of, tmp_path):
    weights, sld = pruned_of(tiny_base), {"eraser": "sld", "text": "monet", "preset": "max"}
    refused(tmp_path / "nowhere", "nowhere: neither a weights folder", "model_index.json")
    refused(tmp_path, "neither a weights folder")
    refused(tiny_base, "is a whole pipeline; leave out base=", base=other_base)
    refused(weights, "cross_attention_dim 16", "24", base=other_base)
    refused(weights, "owner/name", "revision=COMMIT", base="owner/name")
    refused(tiny_base / "unet", "does not tell its base model", "base=FOLDER")
    guiding = copied(weights, tmp_path / "sld", str(tiny_base), sld)
    refused(guiding, "sld forgets while it samples", "lethe sample --model")
    broken = Path(shutil.copytree(weights, tmp_path / "broken"))
    (broken / "unet/config.json").write_text((broken / "unet/config.json").read_text() + " ")
    refused(broken, "unet/config.json", "changed or damaged")


def test_importing_lethe_stays_light():
    code = "import lethe, sys; lethe.__version__; sys.exit('torch' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        _ = lethe.load
