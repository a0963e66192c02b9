"""On a GPU: the same bits twice, and after a stop; pictures that depend on their row alone."""

import pytest
import torch

from lethe.files.images import read_tar
from lethe.files.io import sha256
from lethe.stage import cli
from stages import sample
from tests.stages.running import Ready, prepare, stage
from tests.tiny_training import OPTIONS

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SAMPLE = {"sampler": "ddim", "steps": 4, "guidance": 4.0, "tile": 2, "precision": "float32"}

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.fixture(scope="module")
def ready(tiny_base, tiny_pictures, tmp_path_factory) -> Ready:
    return prepare(tiny_base, tiny_pictures, tmp_path_factory.mktemp("cuda"))


def on_gpu(monkeypatch, name: str, *words: object, **values: object) -> None:
    monkeypatch.setattr("tests.stages.running.DEVICE", "cuda")
    stage(name, *words, **values)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_gives_the_same_bits(ready, tmp_path, monkeypatch, precision):
    for name in ("one", "two"):
        words = [*ready.training("--state", tmp_path / f"state_{name}"), "--out", tmp_path / name]
        on_gpu(monkeypatch, "distill", *words, **OPTIONS | {"steps": 6, "precision": precision})
    assert sha256(tmp_path / "one" / WEIGHTS) == sha256(tmp_path / "two" / WEIGHTS)


def test_a_picture_is_the_same_alone_and_among_others(ready, tmp_path, monkeypatch):
    rows = ["case_number,prompt,evaluation_seed", "1,a boat by monet,5", "2,a sun by monet,6", "3,a tree,7"]
    (tmp_path / "many.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "alone.csv").write_text("\n".join([rows[0], rows[3]]) + "\n")
    found = []
    for name in ("many", "alone"):
        words = ["--base", ready.base, "--model", ready.pruned, "--prompts", f"own={tmp_path / name}.csv"]
        words += ["--state", tmp_path / f"state_{name}", "--out", tmp_path / name, "--device", "cuda"]
        sample.main([*map(str, words), *cli.flags(SAMPLE)])
        found.append(dict(read_tar(tmp_path / name / "images.tar"))["own/3.png"])
    assert found[0] == found[1]
