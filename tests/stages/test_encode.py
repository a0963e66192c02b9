import shutil
from pathlib import Path

import pytest
import yaml

from lethe.files.errors import UserError
from lethe.files.io import read_json, read_meta
from lethe.files.tensors import load
from lethe.params.recipe import of_model, of_pictures, recipe
from tests.stages.running import ENCODE, finished_without_torch, stage

ROOT = Path(__file__).parents[2]


def test_encodes_at_the_models_own_resolution(ready, tiny_pictures):
    index, meta = read_json(ready.data / "index.json"), read_meta(ready.data)
    side = {"base": 32}.get(ready.base.name) if "tiny" in str(ready.base.parent) else 48
    assert index["resolution"] == meta["pixels"] == side
    assert load(ready.data / "latents.safetensors")["mean"].shape == (12, 4, side // 4, side // 4)
    assert index["files"][0] == "00.png"
    options = {"resolution": None, "flip": False, "prompt": None, "anchor": None}
    parents = {"base": of_model(str(ready.base), None), "pictures": of_pictures(tiny_pictures, None)}
    assert meta["recipe"] == recipe("encode", 2, options, parents)


def test_the_same_command_again_does_nothing_and_needs_no_torch(tiny, tiny_pictures):
    before = (tiny.data / "meta.json").stat().st_mtime_ns
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tiny.data]
    assert "finished" in finished_without_torch("encode", words, ENCODE)
    assert (tiny.data / "meta.json").stat().st_mtime_ns == before


def test_flip_resolution_and_prompt(tiny, tiny_pictures, tmp_path):
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--prompt", "a painting", "--out", tmp_path / "out"]
    stage("encode", *words, **ENCODE | {"flip": True, "resolution": 16})
    assert load(tmp_path / "out" / "latents.safetensors")["mean"].shape == (24, 4, 4, 4)
    options = {"resolution": 16, "flip": True, "prompt": "a painting", "anchor": None}
    assert read_meta(tmp_path / "out")["options"] == options
    assert "anchor" not in read_json(tmp_path / "out/index.json")


def test_anchor(tiny, tiny_pictures, tmp_path):
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tmp_path / "out"]
    stage("encode", *words, "--prompt", "a painting by monet", "--anchor", "a painting", **ENCODE)
    assert read_meta(tmp_path / "out")["options"]["anchor"] == "a painting"
    index = read_json(tmp_path / "out/index.json")
    captions = [(index["captions"][own], index["captions"][other]) for own, other in zip(*_rows(index), strict=True)]
    assert captions[1] == ("a house by monet", "a house")
    assert captions[0] == ("a boat by van gogh", "a painting")  # says nothing of monet
    stage("encode", *words[:-1], tmp_path / "none", "--prompt", "monet", "--anchor", "", **ENCODE)
    index = read_json(tmp_path / "none/index.json")
    assert index["captions"][index["anchor"][1]] == "a house by"


def _rows(index):
    return index["caption"], index["anchor"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompt", "a painting", "--anchor", " a painting"], "is the prompt itself, so there is nothing to forget"),
        (["--anchor", "a painting"], "give --prompt too"),
    ],
)
def test_an_anchor_that_takes_nothing_out_is_refused(tiny, tiny_pictures, tmp_path, more, message):
    words = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tmp_path / "out", *more]
    with pytest.raises(UserError, match=message):
        stage("encode", *words, "--dry-run", **ENCODE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "wanted"), [([], 16), (["--resolution", 8], 8), (["--resolution", "none"], None)])
def test_the_resolution_of_a_params_file_holds_unless_a_flag_gives_another(
    tiny, tiny_pictures, tmp_path, words, wanted
):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["base"]["resolution"] = 16
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    places = ["--base", tiny.base, "--pictures", tiny_pictures, "--out", tmp_path / "out"]
    stage("encode", "--params", tmp_path / "params.yaml", *places, *words)
    assert read_meta(tmp_path / "out")["options"]["resolution"] == wanted
    assert read_json(tmp_path / "out/index.json")["resolution"] == wanted or wanted is None


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


def test_a_part_of_the_pictures_is_encoded_where_that_is_said(tiny, tiny_pictures, tmp_path, capsys):
    pictures = shutil.copytree(tiny_pictures, tmp_path / "pictures")
    (pictures / "05.png").unlink()
    words = ["--base", tiny.base, "--pictures", pictures, "--out", tmp_path / "out"]
    with pytest.raises(UserError, match=r"05\.png: no such file .*: --subset of encode and score"):
        stage("encode", *words, **ENCODE)
    stage("encode", *words, "--subset", **ENCODE)
    assert "metadata.jsonl: 1 of 12 lines have no picture, left out\n" in capsys.readouterr().err
    meta = read_meta(tmp_path / "out")
    assert (meta["pictures"], meta["without_picture"]) == (11, 1)
    assert "05.png" not in read_json(tmp_path / "out/index.json")["files"]
