"""The stage's own command, on two bases, and its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lethe import models
from lethe.errors import UserError
from lethe.recipe import of_model, recipe
from stages import prune

ROOT = Path(__file__).parents[2]
SETTINGS = ["--criterion", "l2", "--keep-least", "0.2", "--tolerance", "0.01"]


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prune", *words])
    prune.main()


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.prune", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_command(tiny_base, tmp_path):
    out = tmp_path / "pruned"
    words = ["--base", str(tiny_base), "--budget", "0.8", "--out", str(out), "--threads", "1", *SETTINGS]
    dry = command(*words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "0.8" in dry.stdout
    assert not out.exists()
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    assert sorted(path.name for path in (out / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "pruning.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]
    meta = json.loads((out / "meta.json").read_text())
    options = {"budget": 0.8, "criterion": "l2", "keep_least": 0.2, "tolerance": 0.01, "resolution": None}
    assert meta["options"] == options
    assert meta["recipe"] == recipe("prune", prune.VERSION, options, {"base": of_model(str(tiny_base), None)})
    pruning = models.read_pruning(out)
    assert meta["macs"] == pruning["macs"]
    assert meta["params"] == pruning["params"]
    assert abs(meta["macs"]["kept"] / meta["macs"]["dense"] - 0.8) <= 0.01
    unet = models.load_unet(out)
    assert sum(p.numel() for p in unet.parameters()) == meta["params"]["kept"]

    before = (out / "meta.json").stat().st_mtime_ns
    again = command(*words)
    assert again.returncode == 0
    assert "finished" in again.stdout
    assert (out / "meta.json").stat().st_mtime_ns == before


def test_other_base(other_base, tmp_path, monkeypatch):
    out = tmp_path / "pruned"
    run(monkeypatch, "--base", str(other_base), "--budget", "0.55", "--out", str(out), "--device", "cpu", *SETTINGS)
    base, unet = models.load_base(str(other_base), None, ["unet"]).unet, models.load_unet(out)
    x, text = torch.randn(1, 4, 12, 12), torch.randn(1, 20, 24)
    assert unet(x, torch.tensor(1), text).sample.shape == base(x, torch.tensor(1), text).sample.shape
    assert models.read_pruning(out)["latent_shape"] == [4, 12, 12]
    assert models.read_pruning(out)["text_length"] == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--budget": "1"}, ["--budget", "between 0 and 1"]),
        ({"--budget": "0"}, ["--budget", "between 0 and 1"]),
        ({"--budget": "nan"}, ["--budget", "between 0 and 1"]),
        ({"--criterion": "l3"}, ["'l3'", "l2"]),
        ({"--keep-least": "2"}, ["keep_least", "2"]),
        ({"--base": "nowhere/at/all"}, ["nowhere/at/all", "no such folder"]),
        ({"--base": "owner/name"}, ["owner/name", "40 hex digits"]),
        ({"--budget": "0.01"}, ["--budget", "goes down to"]),
        ({"--device": "tpu"}, ["--device", "tpu"]),
    ],
)
def test_refusals_leave_nothing_behind(tiny_base, tmp_path, monkeypatch, change, words):
    flags = {"--base": str(tiny_base), "--budget": "0.8", "--out": str(tmp_path / "out")}
    flags |= dict(zip(SETTINGS[::2], SETTINGS[1::2], strict=True)) | change
    with pytest.raises(UserError) as caught:
        run(monkeypatch, *(word for pair in flags.items() for word in pair))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = command("--base", str(tmp_path), "--budget", "0.8", "--out", str(tmp_path / "out"), *SETTINGS)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "model_index.json" in done.stderr
    assert not list(tmp_path.iterdir())
