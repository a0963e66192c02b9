import shutil

import pytest

from lethe.errors import UserError
from lethe.io import read_json, read_meta
from lethe.recipe import of_model, of_pictures, recipe
from lethe.tensors import load
from tests.stages.running import ENCODE, finished_without_torch, stage


def test_encodes_at_the_models_own_resolution(ready, tiny_pictures):
    index, meta = read_json(ready.data / "index.json"), read_meta(ready.data)
    side = {"base": 32}.get(ready.base.name) if "tiny" in str(ready.base.parent) else 48
    assert index["resolution"] == meta["pixels"] == side
    assert load(ready.data / "latents.safetensors")["mean"].shape == (12, 4, side // 4, side // 4)
    assert index["files"][0] == "00.png"
    options = {"resolution": None, "flip": False, "prompt": None}
    parents = {"base": of_model(str(ready.base), None), "pictures": of_pictures(tiny_pictures, None)}
    assert meta["recipe"] == recipe("encode", 1, options, parents)


def test_the_same_command_again_does_nothing_and_needs_no_torch(tiny, tiny_pictures):
    before = (tiny.data / "meta.json").stat().st_mtime_ns
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tiny.data]
    assert "finished" in finished_without_torch("encode", words, ENCODE)
    assert (tiny.data / "meta.json").stat().st_mtime_ns == before


def test_flip_resolution_and_prompt(tiny, tiny_pictures, tmp_path):
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--prompt", "a painting", "--out", tmp_path / "out"]
    stage("encode", *words, **ENCODE | {"flip": True, "resolution": 16})
    assert load(tmp_path / "out" / "latents.safetensors")["mean"].shape == (24, 4, 4, 4)
    assert read_meta(tmp_path / "out")["options"] == {"resolution": 16, "flip": True, "prompt": "a painting"}


def test_a_wrong_row_stops_it_before_anything_is_written(tiny, tiny_pictures, tmp_path):
    pictures = shutil.copytree(tiny_pictures, tmp_path / "pictures")
    (pictures / "05.png").write_bytes(b"broken")
    words = ["--base", tiny.base, "--pictures", pictures, "--out", tmp_path / "results" / "out"]
    with pytest.raises(UserError, match=r"line 6: 05\.png"):
        stage("encode", *words, **ENCODE)
    assert list((tmp_path / "results").iterdir()) == []
    (pictures / "05.png").unlink()
    with pytest.raises(UserError, match=r"line 6: 05\.png: no such file"):
        stage("encode", *words, "--dry-run", **ENCODE)


def test_dry_run_writes_nothing(tiny, tiny_pictures, tmp_path, capsys):
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tmp_path / "out", "--dry-run"]
    stage("encode", *words, **ENCODE)
    assert "would encode 12 pictures" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
