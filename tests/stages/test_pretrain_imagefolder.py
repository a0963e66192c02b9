"""A base of a dozen pictures of one's own, by steps that teach nothing: what it leaves, and that parts are kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

from lethe.files import tensors
from lethe.files.images import png
from lethe.files.io import read_json, sha256
from lethe.measuring import judges
from lethe.models import pipelines
from lethe.pretraining.trunk import ARCHITECTURE

STYLES, CONTENTS = ("ink", "wash", "chalk"), ("boat", "tree", "house", "dog")
STEPS = dict.fromkeys(("autoencoder", "decoder", "pipeline", "content", "style", "clip"), 1)
BATCHES = dict.fromkeys(("autoencoder", "pipeline", "content", "style", "clip"), 4)
TINY = {f"{name}_steps": 1 for name in STEPS} | {f"{name}_batch": size for name, size in BATCHES.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures, and a trunk of random weights."""
    found = tmp_path_factory.mktemp("imagefolder")
    (found / "pictures").mkdir()
    rng, lines = np.random.default_rng(0), []
    for style in STYLES:
        for content in CONTENTS:
            file = f"{style}-{content}.png"
            (found / "pictures" / file).write_bytes(png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
            lines.append({"file_name": file, "text": f"a {content} in {style}", "style": style, "content": content})
    (found / "pictures/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    torch.manual_seed(0)
    tensors.save(found / "trunk.safetensors", timm.create_model(ARCHITECTURE, num_classes=0).state_dict())
    return found


def run(place, **more):
    options = TINY | {"vocabulary": 300, "variants": 1, "samples": 2} | more
    command = [sys.executable, "-m", "stages.pretrain", f"--imagefolder={place / 'pictures'}", "--device=cpu"]
    command += [f"--trunk={place / 'trunk.safetensors'}", f"--out={place / 'bundle'}", f"--state={place / 'state'}"]
    command += ["--threads=1", *(f"--{key.replace('_', '-')}={value}" for key, value in options.items())]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def bundle(place):
    done = run(place)
    assert done.returncode == 0, done.stderr
    return place / "bundle"


def test_the_pipeline_is_a_base_like_any_other(bundle):
    pipelines.check_base(str(bundle / "pipeline"), None)


def test_judges_are_folders_that_scoring_reads(bundle):
    from PIL import Image

    device = torch.device("cpu")
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    for name, labels in (("style", STYLES), ("content", CONTENTS)):
        found, network = judges.classifier(str(bundle / "judges" / name), device)
        probabilities, features = network(pictures)
        assert found == list(labels) and probabilities.shape == (2, len(labels)) and features.shape == (2, 1280)
    assert judges.descriptor(str(bundle / "judges/style"), device)(pictures).shape == (2, 1280)


def test_the_card_tells_what_was_measured_and_the_hashes_hold(bundle):
    facts = read_json(bundle / "bundle.json")
    assert (facts["rows"], facts["pairs"], facts["held"]) == (12, 12, 1)
    assert {"seen style", "held style", "seen content", "held content"} <= set(facts["samples"])
    assert all(sha256(bundle / name) == value for name, value in facts["files"].items())
    assert all(line in (bundle / "CARD.md").read_text() for line in facts["missed"])
    assert len((bundle / "samples.csv").read_text().splitlines()) == 1 + 2 + 2


def test_finished_is_finished_and_finished_parts_are_not_made_again(place, bundle):
    assert "finished" in run(place).stdout
    kept = {path.name: path.stat().st_mtime_ns for path in (place / "state").glob("*.safetensors")}
    assert len(kept) == len(STEPS)
    next((place / "state").glob("clip-*.safetensors")).unlink()
    (bundle / "bundle.json").unlink()
    assert run(place).returncode == 0
    again = {path.name: path.stat().st_mtime_ns for path in (place / "state").glob("*.safetensors")}
    assert set(again) == set(kept)
    assert {name for name in kept if again[name] != kept[name]} == {name for name in kept if name.startswith("clip-")}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"clip_batch": 0}, "--clip-batch: 0 is too small"),
        ({"unseen": 5}, "--unseen: goes without --imagefolder"),
        ({"trunk": "absent", "seed": 1}, "--trunk: absent: no such file; `make emoji` writes data/"),
        ({"imagefolder": "absent"}, "absent: no metadata.jsonl there, and not a tar of an imagefolder"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(place, more, told):
    done = run(place, **more)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"error: {told}") and "\n" not in done.stderr.strip()
