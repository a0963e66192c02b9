"""The base bundle, at a size that teaches nothing: its files, that they load, and that finished parts are kept."""

import subprocess
import sys

import pytest
import torch

from lethe.atelier.world import CONTENTS, STYLES
from lethe.files.io import read_json, sha256
from lethe.measuring import judges
from lethe.models import pipelines, unets

TINY = {
    "pictures": 80,
    "judge_pictures": 100,
    "unseen": 200,
    "samples": 12,
    "autoencoder_steps": 1,
    "decoder_steps": 1,
    "pipeline_steps": 2,
    "style_steps": 2,
    "content_steps": 2,
    "emblem_steps": 2,
    "descriptor_steps": 2,
    "clip_steps": 2,
}


def command(folder, **more):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (TINY | more).items()]
    return [
        sys.executable,
        "-m",
        "stages.pretrain",
        f"--out={folder / 'bundle'}",
        f"--state={folder / 'state'}",
        *flags,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("pretrain")
    subprocess.run(command(found), check=True, capture_output=True)
    return found


def test_the_pipeline_is_a_base_like_any_other(folder):
    pipelines.check_base(str(folder / "bundle/pipeline"), None)
    base = pipelines.load_base(
        str(folder / "bundle/pipeline"), None, ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    )
    assert pipelines.latent_shape(base.unet) == (16, 8, 8)
    assert base.scheduler.config.prediction_type == "v_prediction"
    text = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["a boat by van gogh", ""])
    assert text.shape == (2, 24, 64)
    assert not torch.equal(text[0], text[1])
    # SD 2.1's structure: enough levels for hooks, neurons and heads to exist on several
    assert len(unets.hook_blocks(base.unet)) == 9
    assert sum(name.endswith("attn2") for name, _ in base.unet.named_modules()) == 10


def test_judges_carry_their_labels(folder):
    bundle = folder / "bundle/judges"
    assert set(judges.labels(str(bundle / "style"))) == set(STYLES)
    assert set(judges.labels(str(bundle / "content"))) == set(CONTENTS)
    assert (bundle / "clip/open_clip_model.safetensors").is_file()
    assert (bundle / "descriptor/model.safetensors").is_file()


def test_the_card_tells_what_was_measured_and_the_hashes_hold(folder):
    bundle = folder / "bundle"
    facts = read_json(bundle / "bundle.json")
    assert facts["options"]["pipeline_steps"] == 2
    assert set(facts["samples"]) == {"style", "content", "emblem_named", "emblem_implied"}
    assert all(0 <= value <= 100 for value in facts["samples"].values())
    assert facts["missed"], "two steps can not meet the bars"
    assert all(sha256(bundle / name) == value for name, value in facts["files"].items())
    assert sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file()) <= 16 * 2**20
    assert facts["missed"][0] in (bundle / "CARD.md").read_text()


def test_finished_is_finished_and_parts_are_kept(folder):
    again = subprocess.run(command(folder), check=True, capture_output=True, text=True)
    assert "finished" in again.stdout
    kept = {p.name: p.stat().st_mtime_ns for p in (folder / "state").glob("*.safetensors")}
    assert len(kept) == 8
    subprocess.run(command(folder, samples=10), check=True, capture_output=True)
    assert kept == {p.name: p.stat().st_mtime_ns for p in (folder / "state").glob("*.safetensors")}
    assert read_json(folder / "bundle/bundle.json")["options"]["samples"] == 10


def test_a_number_too_small_is_refused_in_one_line(tmp_path):
    done = subprocess.run(command(tmp_path, unseen=0), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --unseen: 0 is too small"
