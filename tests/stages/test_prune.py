"""The stage's own command, on two bases, with every pruner, and its refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lethe.files.errors import UserError
from lethe.models import pipelines, unets
from lethe.params import registry
from lethe.params.recipe import of_folder, of_model, of_result, recipe
from stages import prune
from tests.stages import running

ROOT = Path(__file__).parents[2]
SETTINGS = ["--pruner", "magnitude", "--keep-least", "0.2", "--tolerance", "0.01"]
LOOKS = ["--pictures", "4", "--stride", "250", "--batch", "4"]


def run(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prune", *map(str, words)])
    prune.main()


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.prune", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def pictures(tiny_base, tiny_pictures, tmp_path_factory) -> Path:
    """Encoded with the tiny base."""
    out = tmp_path_factory.mktemp("encoded") / "data"
    running.stage("encode", "--base", tiny_base, "--pictures", tiny_pictures, "--out", out, **running.ENCODE)
    return out


def test_command(tiny_base, tmp_path):
    out = tmp_path / "pruned"
    words = ["--base", tiny_base, "--budget", "0.8", "--out", out, "--threads", "1", *SETTINGS]
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
    options = {"budget": 0.8, "pruner": "magnitude", "keep_least": 0.2, "tolerance": 0.01, "resolution": None}
    assert meta["options"] == options
    assert meta["recipe"] == recipe("prune", prune.VERSION, options, {"base": of_model(str(tiny_base), None)})
    pruning = unets.read_pruning(out)
    assert pruning["pruner"] == "magnitude"
    assert meta["macs"] == pruning["macs"]
    assert meta["macs_released"] == pruning["macs_released"]
    assert meta["params"] == pruning["params"]
    assert abs(meta["macs"]["kept"] / meta["macs"]["dense"] - 0.8) <= 0.01
    assert set(meta["latency_ms"]) == {"dense", "kept"}
    assert all(set(times) == {"1", "8"} for times in meta["latency_ms"].values())
    assert all(value > 0 for times in meta["latency_ms"].values() for value in times.values())
    assert "latency_ms" not in pruning
    assert all(word in done.stdout for word in ("heads", "ffn", "resnet", "M MACs", "ms a forward pass"))
    unet = unets.load_unet(out)
    assert sum(p.numel() for p in unet.parameters()) == meta["params"]["kept"]

    before = (out / "meta.json").stat().st_mtime_ns
    again = command(*words)
    assert again.returncode == 0
    assert "finished" in again.stdout
    assert (out / "meta.json").stat().st_mtime_ns == before


def test_other_base(other_base, tmp_path, monkeypatch):
    out = tmp_path / "pruned"
    run(monkeypatch, "--base", other_base, "--budget", "0.55", "--out", out, "--device", "cpu", *SETTINGS)
    base, unet = pipelines.load_base(str(other_base), None, ["unet"]).unet, unets.load_unet(out)
    x, text = torch.randn(1, 4, 12, 12), torch.randn(1, 20, 24)
    assert unet(x, torch.tensor(1), text).sample.shape == base(x, torch.tensor(1), text).sample.shape
    assert unets.read_pruning(out)["latent_shape"] == [4, 12, 12]
    assert unets.read_pruning(out)["text_length"] == 20


OPTIONS = {
    "magnitude": [],
    "random": ["--draw", "0"],
    "random_init": ["--draw", "0"],
    "taylor": LOOKS,
    "diff_pruning": [*LOOKS, "--threshold", "0.05"],
    "bk_small": [],
    "bk_tiny": [],
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_every_pruner_stores_what_the_loader_opens(tiny_base, pictures, tmp_path, monkeypatch, capsys, name):
    out, looks = tmp_path / "pruned", "data" in registry.needs("pruners", name)
    words = ["--pruner", name, "--keep-least", "0.1", "--tolerance", "0.02", *OPTIONS[name]]
    words += ["--data", pictures] if looks else []
    run(monkeypatch, "--base", tiny_base, "--budget", "0.45", "--out", out, "--device", "cpu", *words)
    meta, found = json.loads((out / "meta.json").read_text()), unets.read_pruning(out)
    assert found["pruner"] == name
    assert abs(meta["macs"]["kept"] / meta["macs"]["dense"] - 0.45) <= 0.02
    assert (meta["budget"]["student_backward"] > 0) == looks
    parents = {"base": of_model(str(tiny_base), None)} | ({"data": of_result(pictures)} if looks else {})
    assert meta["recipe"] == recipe("prune", prune.VERSION, meta["options"], parents)
    assert set(meta["parents"]) == set(parents)
    unet = unets.load_unet(out)
    assert sum(p.numel() for p in unet.parameters()) == meta["params"]["kept"]
    sample = unet(torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 16, 16)).sample
    assert sample.isfinite().all()
    capsys.readouterr()

    run(monkeypatch, "--list", out)
    lines = capsys.readouterr().out.splitlines()
    for path in (*found["layers"], *found["removed"]):
        assert any(line.startswith(f"{path} ") for line in lines)
    path, layer = next(iter(found["layers"].items()))
    line = next(line for line in lines if line.startswith(f"{path} "))
    kept, total = len(layer["kept"]), layer["total"]
    assert line.split() == [path, layer["kind"], f"{kept}/{total}", f"{100 * kept / total:.1f}", "%"]
    assert ("mid_block removed" in " ".join(" ".join(lines).split())) == name.startswith("bk")


def test_an_expert(tiny_base, tmp_path, monkeypatch, capsys):
    """Its folder's content is part of the recipe."""
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    from lethe.pruning.pruners import aptp
    from tests.pruning.pruners.test_aptp import expert

    widths = sum(gates for _, _, gates in aptp.width_gates(unet, 32))
    vector = torch.ones(1, widths + len(aptp.depth_gates(unet)))
    vector[0, widths + aptp.depth_gates(unet).index("up_blocks.1.resnets.1")] = 0
    kept = {key: v.clone() for key, v in unet.state_dict().items() if not key.startswith("up_blocks.1.resnets.1.")}
    folder = expert(tmp_path / "expert", unet, vector, kept)
    out = tmp_path / "pruned"
    words = ["--pruner", "aptp", "--keep-least", "0.1", "--tolerance", "0.1", "--checkpoint", folder]
    run(monkeypatch, "--base", tiny_base, "--budget", "0.9", "--out", out, "--device", "cpu", *words)
    meta = json.loads((out / "meta.json").read_text())
    parents = {"base": of_model(str(tiny_base), None), "checkpoint": of_folder(folder)}
    assert meta["recipe"] == recipe("prune", prune.VERSION, meta["options"], parents)
    assert sum(p.numel() for p in unets.load_unet(out).parameters()) == meta["params"]["kept"]
    capsys.readouterr()
    run(monkeypatch, "--list", out)
    shown = capsys.readouterr().out
    assert "up_blocks.1.resnets.1" in shown
    assert "1 dropped" in shown


def test_dense_weights_may_be_given(tiny_base, tmp_path, monkeypatch):
    """Pruned are those weights, and they are a parent."""
    dense = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.mul_(0.5)
    unets.save_unet(dense, None, tmp_path / "dense")
    (tmp_path / "dense" / "meta.json").write_text(json.dumps({"recipe": "0123456789"}))
    words = ["--base", tiny_base, "--model", tmp_path / "dense", "--budget", "0.8", "--device", "cpu", *SETTINGS]
    run(monkeypatch, *words, "--out", tmp_path / "out")
    unet, meta = unets.load_unet(tmp_path / "out"), json.loads((tmp_path / "out" / "meta.json").read_text())
    assert torch.equal(unet.conv_in.weight, dense.conv_in.weight)
    assert meta["parents"]["model"]["recipe"] == "0123456789"
    with pytest.raises(UserError, match="is pruned already"):
        words[3] = tmp_path / "out"
        run(monkeypatch, *words, "--out", tmp_path / "again")


def test_listing_needs_no_torch(tmp_path):
    record = {
        "budget": 0.5,
        "pruner": "bk_base",
        "macs": {"dense": 2000000, "kept": 1000000},
        "params": {"dense": 4000000, "kept": 3000000},
        "removed": ["down_blocks.0.resnets.1"],
        "layers": {
            "mid_block.resnets.0": {"kind": "resnet", "total": 8, "kept": [0, 3, 5]},
            "up_blocks.0.resnets.1": {"kind": "dropped", "total": 1, "kept": []},
        },
    }
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "pruning.json").write_text(json.dumps(record))
    code = f"import sys; sys.argv = ['prune', '--list', {str(tmp_path)!r}]; from stages import prune; prune.main();"
    code += "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[:3] == [
        ["down_blocks.0.resnets.1", "removed"],
        ["mid_block.resnets.0", "resnet", "3/8", "37.5", "%"],
        ["up_blocks.0.resnets.1", "dropped"],
    ]
    assert "kept 0.5000 of 2.0 M MACs" in done.stdout
    assert "0.7500 of 4.00 M parameters" in done.stdout


def test_listing_what_is_not_pruned(tmp_path):
    done = command("--list", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pruning.json" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--budget": "1"}, ["--budget", "between 0 and 1"]),
        ({"--budget": "0"}, ["--budget", "between 0 and 1"]),
        ({"--budget": "nan"}, ["--budget", "between 0 and 1"]),
        ({"--pruner": "l3"}, ["'l3'", "magnitude", "aptp", "bk_tiny"]),
        ({"--keep-least": "2"}, ["keep_least", "2"]),
        ({"--base": "nowhere/at/all"}, ["nowhere/at/all", "no such folder"]),
        ({"--base": "owner/name"}, ["owner/name", "40 hex digits"]),
        ({"--budget": "0.01"}, ["--budget", "goes down to"]),
        ({"--device": "tpu"}, ["--device", "tpu"]),
        ({"--pruner": "random", "--draw": "-1"}, ["prune.draw", "-1"]),
        ({"--pruner": "bk_base"}, ["layers_per_block 1"]),
        ({"--pruner": "bk_small", "--budget": "0.99"}, ["0.99", "ask for"]),
        ({"--pruner": "taylor", **dict(zip(LOOKS[::2], LOOKS[1::2], strict=True))}, ["--data", "stage encode"]),
        ({"--pruner": "taylor", **dict(zip(LOOKS[::2], LOOKS[1::2], strict=True)), "--stride": "0"}, ["prune.stride"]),
        (
            {"--pruner": "diff_pruning", **dict(zip(LOOKS[::2], LOOKS[1::2], strict=True)), "--threshold": "1.5"},
            ["prune.threshold", "1.5"],
        ),
        ({"--pruner": "aptp", "--checkpoint": "nowhere"}, ["nowhere", "arch_vector.pt"]),
    ],
)
def test_refusals_leave_nothing_behind(tiny_base, tmp_path, monkeypatch, change, words):
    flags = {"--base": str(tiny_base), "--budget": "0.8", "--out": str(tmp_path / "out")}
    flags |= dict(zip(SETTINGS[::2], SETTINGS[1::2], strict=True)) | change
    with pytest.raises(UserError) as caught:
        run(monkeypatch, *(word for pair in flags.items() for word in pair))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_pictures_of_another_base_or_size(tiny_base, other_base, pictures, tmp_path, monkeypatch):
    words = ["--budget", "0.8", "--out", tmp_path / "out", "--device", "cpu", *SETTINGS, *LOOKS, "--pruner", "taylor"]
    with pytest.raises(UserError, match="captions are 16 wide, the U-Net takes 24"):
        run(monkeypatch, "--base", other_base, "--data", pictures, *words)
    with pytest.raises(UserError, match=r"latents \[4, 8, 8\], pruned is at \[4, 16, 16\]"):
        run(monkeypatch, "--base", tiny_base, "--data", pictures, "--resolution", "64", *words)
    broken = Path(shutil.copytree(pictures, tmp_path / "broken"))
    (broken / "latents.safetensors").unlink()
    with pytest.raises(UserError, match="latents"):
        run(monkeypatch, "--base", tiny_base, "--data", broken, *words)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = command("--base", tmp_path, "--budget", "0.8", "--out", tmp_path / "out", *SETTINGS)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "model_index.json" in done.stderr
    assert not list(tmp_path.iterdir())
