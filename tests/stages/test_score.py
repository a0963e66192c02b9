import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from lethe.files import io
from lethe.files.errors import UserError
from lethe.measuring.metrics import csd, kept
from lethe.stage import cli
from stages import score
from tests import tiny_judges

ROOT = Path(score.__file__).parents[1]


@pytest.fixture(scope="module")
def ready(tmp_path_factory, tiny_pictures) -> dict:
    """Samples, prompts, judges: all that a command line needs."""
    folder = tmp_path_factory.mktemp("score")
    return {
        "folder": folder,
        "samples": tiny_judges.write_samples(folder / "samples", 1),
        "prompts": tiny_judges.write_prompts(folder / "prompts"),
        "options": tiny_judges.section(tiny_judges.judges(folder / "judges")),
        "concepts": tiny_judges.concepts(tiny_pictures),
        "eval": tiny_pictures,
    }


def words(ready, out, *more, **changes) -> list[str]:
    own = ready | changes
    flags = ["--samples", own["samples"], "--out", out, "--eval-pictures", own["eval"], "--threads", "1"]
    flags += ["--cache", own["folder"] / "cache"]
    flags += ["--prompts", *(f"{name}={path}" for name, path in own["prompts"].items())]
    flags += ["--concepts", json.dumps(own["concepts"]), "--erased", *own.get("erased", ["monet"])]
    return [*map(str, flags), *cli.flags(own["options"]), *map(str, more)]


def run(monkeypatch, arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["score", *arguments])
    score.main()


def test_scores_and_metrics_of_a_run_and_of_one_against_it(ready, tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "distill", tmp_path / "esd"
    run(monkeypatch, words(ready, first, "--dry-run"))
    assert "would score 22 pictures" in capsys.readouterr().out
    run(monkeypatch, words(ready, first))
    table = pd.read_csv(first / "scores.csv")
    assert list(table.columns[:6]) == ["set", "case_number", "seed", "file", "artist", "class"]
    assert len(table) == 22
    assert load_file(first / "features.safetensors")["fid"].shape == (8, 12)
    meta = io.read_meta(first)
    assert "--originals" in meta["absent"]["removal_base"] and meta["converted"] == {}
    assert meta["networks"].keys() == {"clip", "descriptor", "features", "style", "content"}
    assert set(meta["files"]) == {"scores.csv", "metrics.json", "features.safetensors"}
    capsys.readouterr()
    run(monkeypatch, words(ready, first))
    assert "finished" in capsys.readouterr().out

    other = tiny_judges.write_samples(tmp_path / "samples", 2, recipe="samples111")
    run(monkeypatch, words(ready, second, "--reference", first, samples=other))
    mine = pd.read_csv(second / "scores.csv")
    erased = mine["set"] == "monet"
    fell = mine["clip"][erased].to_numpy() < table["clip"][erased].to_numpy()
    metrics = io.read_json(second / "metrics.json")
    assert metrics["cp"]["value"] == pytest.approx(100 * fell.mean())
    assert io.read_json(first / "metrics.json")["cp"]["value"] == 0
    assert io.read_meta(second)["parents"]["reference"]["recipe"] == meta["recipe"]


def test_what_is_not_there_is_left_out_and_said(ready, tmp_path, monkeypatch, capsys):
    lacking = ready["options"] | {"descriptor": None, "judges": {"style": None, "content": None, "unsafe": None}}
    run(monkeypatch, words(ready, tmp_path / "out", options=lacking))
    absent = {*csd.METRICS, *kept.METRICS, "ua", "shown", "removal"}
    told = io.read_meta(tmp_path / "out")["absent"]
    assert told.keys() >= absent and all(told.values())
    measured = io.read_json(tmp_path / "out" / "metrics.json").keys()
    assert measured >= {"clip", "clip_retain", "cp", "fid", "kid"} and not measured & told.keys()
    assert "csd, csd_near, csd_other, csd_raw: not measured, no descriptor" in capsys.readouterr().out


def test_what_is_named_and_not_there_is_not_run_until_it_comes(ready, tmp_path, monkeypatch, capsys):
    """All else is measured as ever; the metric says what to get; once it is there, the result is another one."""
    monkeypatch.chdir(tmp_path)
    own = ready["options"]
    lacking = own | {"descriptor": "csd", "lpips": "alex", "judges": own["judges"] | {"content": "typo"}}
    run(monkeypatch, words(ready, "out", options=lacking))
    told, found = io.read_meta("out")["absent"], io.read_json("out/metrics.json")
    assert told["csd_near"].startswith("score.descriptor: csd: no such folder; python -m lethe.measuring.backbones csd")
    assert told["lpips"].startswith("score.lpips: alex: wanted there are https")
    assert told["cra"].startswith("score.judges.content: typo: no such folder")
    assert not {*csd.METRICS, "lpips", "cra", "content_target"} & found.keys()
    output = capsys.readouterr().out
    assert output.startswith("warning: score.descriptor: csd: no such folder") and output.count("warning: ") == 3
    without = own | {"descriptor": None, "lpips": None, "judges": lacking["judges"] | {"content": None}}
    run(monkeypatch, words(ready, "null", options=without))
    assert io.read_json("null/metrics.json") == found

    shutil.copytree(own["descriptor"], "csd")
    with pytest.raises(UserError, match="out: holds a result of recipe"):
        run(monkeypatch, words(ready, "out", options=lacking))
    run(monkeypatch, words(ready, "again", options=lacking))
    assert set(io.read_json("again/metrics.json")) - found.keys() <= {*csd.METRICS}
    assert "csd_raw" in io.read_json("again/metrics.json")


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"erased": ["braque"]}, [], "--erased: 'braque' must stand there once, and in --concepts and --prompts too"),
        ({"erased": ["monet", "monet"]}, [], "--erased: 'monet' must stand there once"),
        (
            {"concepts": {"monet": {"kind": "painter"}}},
            [],
            "--concepts.monet.kind: 'painter' is not one of style, object, unsafe",
        ),
        ({"concepts": {}}, [], "--concepts"),
        ({"samples": "none"}, [], "none: no finished result"),
        ({"eval": "none"}, [], "none: no such picture folder"),
        ({}, ["--reference", "none"], "none: no finished result"),
        ({}, ["--kid-subsets", "0"], "score.kid_subsets"),
        ({}, ["--clip", "ViT-B-32"], "neither local-dir:FOLDER nor NAME@PRETRAINED"),
    ],
)
def test_a_mistake_leaves_nothing_behind(ready, tmp_path, monkeypatch, changes, more, message):
    with pytest.raises(UserError) as error:
        run(monkeypatch, words(ready, tmp_path / "out", *more, **changes))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_against_the_dense_base_and_with_what_is_kept(ready, tmp_path, monkeypatch):
    """Original pictures are a parent; features of real pictures are read from the cache, whatever is scored."""
    run(monkeypatch, words(ready, tmp_path / "distill"))
    kept = {path.name for path in (ready["folder"] / "cache").iterdir()}
    assert kept
    other = tiny_judges.write_samples(tmp_path / "samples", 2, recipe="samples111")
    more = ["--reference", tmp_path / "distill", "--originals", ready["samples"]]
    run(monkeypatch, words(ready, tmp_path / "esd", *more, samples=other))
    meta = io.read_meta(tmp_path / "esd")
    assert meta["parents"]["originals"]["recipe"] == "samples000"
    metrics = io.read_json(tmp_path / "esd" / "metrics.json")
    assert "--originals" not in meta["absent"].get("removal_base", "")
    assert "no picture of the dense base shows" in meta["absent"]["removal_base"] or "removal_base" in metrics
    assert kept <= {path.name for path in (ready["folder"] / "cache").iterdir()}
    with pytest.raises(UserError, match="holds a result of recipe"):  # it counts
        run(monkeypatch, words(ready, tmp_path / "esd", "--reference", tmp_path / "distill", samples=other))


def test_pictures_that_the_manifest_does_not_name_are_refused(ready, tmp_path, monkeypatch):
    from lethe.files import images

    folder = tiny_judges.write_samples(tmp_path / "samples", 1)
    members = list(images.read_tar(folder / images.TAR))
    images.write_tar(folder / images.TAR, [*members, ("eval/99.png", members[0][1])])
    with pytest.raises(UserError, match=r"holds 1 beside the 22 pictures of manifest\.csv, such as eval/99\.png"):
        run(monkeypatch, words(ready, tmp_path / "out", samples=folder))
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_grey_real_pictures_are_counted_in_the_record(ready, tmp_path, monkeypatch):
    from PIL import Image

    folder = tmp_path / "real"
    shutil.copytree(ready["eval"], folder)
    with Image.open(folder / "00.png") as picture:
        picture.convert("L").save(folder / "00.png")
    run(monkeypatch, words(ready, tmp_path / "out", eval=folder))
    assert io.read_meta(tmp_path / "out")["converted"] == {str(folder): {"L": 1}}
    with Image.open(folder / "01.png") as picture:
        picture.putalpha(7)
        picture.save(folder / "01.png")
    with pytest.raises(UserError, match=r"line 2: 01\.png: has transparent parts"):
        run(monkeypatch, words(ready, tmp_path / "other", eval=folder))
    assert not (tmp_path / "other").exists()


def test_labels_that_the_judge_does_not_know_are_listed(ready, tmp_path, monkeypatch):
    text = ready["prompts"]["retain"].read_text().replace("munch", "hokusai")
    (tmp_path / "retain.csv").write_text(text)
    changed = ready["prompts"] | {"retain": tmp_path / "retain.csv"}
    with pytest.raises(UserError, match=r"column artist: hokusai not among the labels of .* \(monet, cassatt, munch"):
        run(monkeypatch, words(ready, tmp_path / "out", prompts=changed))


def test_other_prompts_than_those_drawn_are_refused(ready, tmp_path, monkeypatch):
    text = ready["prompts"]["retain"].read_text().replace("2,a boat by cassatt,2", "2,a boat by cassatt,3")
    (tmp_path / "retain.csv").write_text(text)
    changed = ready["prompts"] | {"retain": tmp_path / "retain.csv"}
    with pytest.raises(UserError, match="first difference: set retain, case_number 2"):
        run(monkeypatch, words(ready, tmp_path / "out", prompts=changed))
    assert [path.name for path in tmp_path.iterdir()] == ["retain.csv"]


def test_a_finished_stage_does_not_import_torch(ready, tmp_path, monkeypatch):
    lacking = ready["options"] | {"descriptor": None, "judges": {"style": None, "content": None, "unsafe": None}}
    arguments = words(ready, tmp_path / "out", options=lacking)
    run(monkeypatch, arguments)
    code = "import sys; sys.argv[0] = 'score'; from stages import score; score.main(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "False"
