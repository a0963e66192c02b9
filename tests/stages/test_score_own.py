"""Evaluation in one command: models and pictures of somebody else, beside their prompts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lethe.files import io
from lethe.files.errors import UserError
from lethe.files.images import Images, read_tar
from lethe.measuring import evaluation
from lethe.models.cutting import cut
from lethe.models.pipelines import load_base
from lethe.models.unets import save_unet
from lethe.stage import cli
from lethe.stage.record import Recorder
from stages import sample, score
from tests import tiny_judges

ROOT = Path(score.__file__).parents[1]
VALUES = {"sampler": "ddim", "steps": 2, "guidance": 4.0, "tile": 4, "precision": "float32"}
FILES = ("scores.csv", "metrics.json", "features.safetensors")


@pytest.fixture(scope="module")
def ready(tmp_path_factory, tiny_pictures) -> dict:
    """Prompts, judges, and a plain folder of real pictures, some in a folder below."""
    folder = tmp_path_factory.mktemp("own")
    real = folder / "real" / "more"
    shutil.copytree(tiny_pictures, real)
    (real / "metadata.jsonl").unlink()
    for path in list(real.glob("0*.png")):
        path.rename(real.parent / path.name)
    prompts = tiny_judges.write_prompts(folder / "prompts")
    shutil.copy(prompts["eval"], folder / "my.csv")
    judges = tiny_judges.section(tiny_judges.judges(folder / "judges"))
    return {"cache": folder / "cache", "real": real.parent, "my": folder / "my.csv", "judges": judges} | prompts


def words(ready, out, *more, **changes) -> list[str]:
    flags = ["--out", out, "--threads", 1, "--cache", ready["cache"]]
    subject = {"--pictures", "--samples"}.isdisjoint(more)
    drawn = ["--state", f"{out}-state", *cli.flags(VALUES | changes)] if subject else []
    return [*map(str, [*flags, *drawn]), *cli.flags(ready["judges"]), *map(str, more)]


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["score", *arguments])
    score.main()


def drawn(monkeypatch, base, out, sets, *more) -> Path:
    """What stage sample draws."""
    flags = ["--base", base, "--out", out, "--state", f"{out}-state", "--threads", 1, "--prompts", *sets, *more]
    monkeypatch.setattr(sys, "argv", ["sample", *map(str, flags), *cli.flags(VALUES)])
    sample.main()
    return out


def metrics(out: Path) -> dict:
    return io.read_json(out / "metrics.json")


@pytest.fixture(scope="module")
def base_scores(ready, tiny_base, tmp_path_factory) -> Path:
    """The base's record on all sets, to compare others with."""
    out = tmp_path_factory.mktemp("base") / "scores"
    with pytest.MonkeyPatch.context() as patch:
        csvs = [ready[name] for name in ("monet", "retain", "eval")]
        concept = ["--concept", "monet", "--style", "monet", "--reference", ready["real"]]
        run(patch, *words(ready, out, "--model", tiny_base, "--prompts", *csvs, *concept))
    return out


def test_a_pipeline_its_prompts_and_pictures(ready, tiny_base, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine"
    arguments = words(ready, out, "--model", tiny_base, "--prompts", ready["my"], "--reference", ready["real"])
    run(monkeypatch, *arguments, "--dry-run")
    assert f"would draw 8 pictures with {tiny_base} into {out}-samples" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    run(monkeypatch, *arguments)
    said = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine-samples"]
    found, meta = metrics(out), io.read_meta(out)
    assert found.keys() == {"clip_retain", "fid", "kid", "cmmd"}
    assert meta["absent"]["cp"] == meta["absent"]["ua"] == "no concept given (--concept, --concepts)"
    assert "metrics of concepts: not measured, no concept given" in said
    assert found["fid"]["protocol"]["n_real"] == 12
    assert {key: found["clip_retain"]["protocol"][key] for key in ("steps", "resolution")} == {
        "steps": 2,
        "resolution": 32,
    }
    line = next(line for line in said.splitlines() if line.startswith("CLIP kept"))
    assert f"{found['clip_retain']['value']:.2f}" in line and f"{found['clip_retain']['lo']:.2f} to" in line
    assert "prefer KID" in said and said.endswith(f"{out}: 8 pictures scored\n")

    twin = drawn(monkeypatch, tiny_base, tmp_path / "twin", [f"eval={ready['my']}"])
    samples = Path(f"{out}-samples")
    assert io.read_meta(twin)["recipe"] == io.read_meta(samples)["recipe"]
    for name in ("images.tar", "manifest.csv"):
        assert (twin / name).read_bytes() == (samples / name).read_bytes()
    more = ["--samples", twin, "--prompts", ready["my"], "--reference", ready["real"]]
    run(monkeypatch, *words(ready, tmp_path / "again", *more))
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    capsys.readouterr()
    run(monkeypatch, *arguments)
    told = [f"{folder}: finished, recipe {io.read_meta(folder)['recipe']}" for folder in (samples, out)]
    assert capsys.readouterr().out.splitlines() == told


def test_what_has_no_other_model_to_compare_with_is_not_measured(base_scores):
    """A picture is no worse than itself: without another model's record CP is no 0, and removal no 0 either."""
    told, found = io.read_meta(base_scores)["absent"], metrics(base_scores)
    assert told["cp"] == told["removal"] == "no scores of another model to compare with (--reference)"
    assert pd.read_csv(base_scores / "scores.csv")["cp"].isna().all()
    assert found.keys() >= {"clip", "ua", "shown", "clip_retain", "fid", "ira_other", "content_target"}


def test_pruned_weights_against_another_model(ready, base_scores, tiny_base, tmp_path, monkeypatch):
    """With a concept and a reference the scores are those of stages sample and score, byte by byte."""
    unet, pruned = load_base(str(tiny_base), None, ["unet"]).unet, tmp_path / "pruned"
    name = "down_blocks.0.attentions.0.transformer_blocks.0.ff"
    layers = {name: {"kind": "ffn", "total": 64, "kept": list(range(32))}}
    cut(unet, layers)
    save_unet(unet, {"layers": layers}, pruned)
    Recorder("prune", 1, "pruned", {}, {"base": tiny_base}).write(pruned)
    csvs = [ready[name] for name in ("monet", "retain", "eval")]
    against = ["--reference", base_scores, "--eval-pictures", ready["real"]]
    concept = ["--concept", "monet", "--style", "monet"]
    with pytest.raises(UserError, match=rf"give --base, such as {tiny_base}, which it was made from"):
        run(monkeypatch, *words(ready, tmp_path / "out", "--model", pruned, "--prompts", *csvs, *concept, *against))
    more = ["--model", pruned, "--base", tiny_base, "--prompts", *csvs, *concept, *against]
    run(monkeypatch, *words(ready, tmp_path / "out", *more))
    assert metrics(tmp_path / "out").keys() >= {"cp", "ua", "clip", "fid", "fid_drift", "change", "cra"}
    assert io.read_meta(tmp_path / "out-samples")["parents"]["model"]["recipe"] == "pruned"

    sets = [f"{name}={ready[name]}" for name in ("monet", "retain", "eval")]
    drawn(monkeypatch, tiny_base, tmp_path / "twin", sets, "--model", pruned)
    own = {"monet": {"kind": "style", "style": "monet", "neighbours": [], "pictures": None}}
    concept = ["--concepts", json.dumps(own), "--erased", "monet"]
    more = ["--samples", tmp_path / "twin", "--prompts", *sets, *concept, *against]
    run(monkeypatch, *words(ready, tmp_path / "again", *more))
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_real_picture_of_another_content_is_another_record(ready, tiny_base, tmp_path, monkeypatch, capsys):
    """Nobody planned an address, so pictures count by their bytes: the same name and size is not the same picture."""
    real = Path(shutil.copytree(ready["real"], tmp_path / "real"))
    more = ["--model", tiny_base, "--prompts", ready["my"], "--reference", real]
    run(monkeypatch, *words(ready, tmp_path / "out", *more))
    before = metrics(tmp_path / "out")["fid"]["protocol"]["reference_sha"]
    run(monkeypatch, *words(ready, tmp_path / "out", *more))
    assert f"{tmp_path / 'out'}: finished, recipe" in capsys.readouterr().out
    first = sorted(real.glob("*.png"))[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1  # behind the last pixel
    first.write_bytes(content)
    with pytest.raises(UserError, match="out: holds a result of recipe"):
        run(monkeypatch, *words(ready, tmp_path / "out", *more))
    run(monkeypatch, *words(ready, tmp_path / "again", *more))
    assert metrics(tmp_path / "again")["fid"]["protocol"]["reference_sha"] != before


@pytest.mark.parametrize("inside", [True, False])
def test_a_unet_that_others_saved(ready, base_scores, tiny_base, tmp_path, monkeypatch, inside):
    """`save_pretrained` into a folder, or into unet/ below it; the base's own U-Net draws the base's pictures."""
    folder = tmp_path / "finetuned"
    shutil.copytree(tiny_base / "unet", folder / "unet" if inside else folder)
    more = ["--model", folder, "--base", tiny_base, "--prompts", ready["monet"]]
    run(monkeypatch, *words(ready, tmp_path / "out", *more, "--concept", "Monet", "--style", "monet"))
    theirs = dict(read_tar(base_scores.with_name("scores-samples") / "images.tar"))
    found = dict(read_tar(tmp_path / "out-samples" / "images.tar"))
    assert len(found) == 6
    assert all(content == theirs[name.replace("Monet", "monet")] for name, content in found.items())
    assert metrics(tmp_path / "out").keys() >= {"clip", "ua"}


def test_pictures_of_other_code(ready, base_scores, tmp_path, monkeypatch):
    for name, content in read_tar(base_scores.with_name("scores-samples") / "images.tar"):
        path = tmp_path / "theirs" / name.replace(".png", "_0.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    sets = ("monet", "retain", "eval")
    more = ["--pictures", *(f"{name}={tmp_path / 'theirs' / name}" for name in sets)]
    more += ["--prompts", *(ready[name] for name in sets), "--concept", "monet", "--style", "monet"]
    run(monkeypatch, *words(ready, tmp_path / "out", *more, "--reference", ready["real"]))
    assert (tmp_path / "out" / "scores.csv").read_bytes() == (base_scores / "scores.csv").read_bytes()
    found, known = metrics(tmp_path / "out"), metrics(base_scores)
    assert {name: own["value"] for name, own in found.items()} == {name: own["value"] for name, own in known.items()}
    assert found["fid"]["protocol"]["steps"] is None and known["fid"]["protocol"]["steps"] == 2

    only = ["--pictures", tmp_path / "theirs" / "eval", "--prompts", ready["my"]]
    run(monkeypatch, *words(ready, tmp_path / "one", *only))
    assert metrics(tmp_path / "one").keys() == {"clip_retain"}
    assert io.read_meta(tmp_path / "one")["absent"]["cmmd"].startswith("no real pictures to compare with (--eval-pict")
    assert metrics(tmp_path / "one")["clip_retain"]["value"] == known["clip_retain"]["value"]
    (tmp_path / "theirs" / "eval" / "3_0.png").rename(tmp_path / "theirs" / "eval" / "99_0.png")
    with pytest.raises(UserError, match=r"eval: lacks 1 of the 8 pictures of .*my\.csv, named by case_number: 3\.png"):
        run(monkeypatch, *words(ready, tmp_path / "two", *only))
    with pytest.raises(UserError, match=r"--pictures: give a folder for each prompt set: monet=FOLDER eval=FOLDER"):
        csvs = ["--prompts", ready["monet"], ready["eval"], "--concept", "monet"]
        run(monkeypatch, *words(ready, tmp_path / "two", "--pictures", tmp_path / "theirs", *csvs))


def test_clip_is_looked_for_before_anything_is_drawn(ready, tiny_base, tmp_path, monkeypatch, capsys):
    folder = Path(ready["judges"]["clip"].removeprefix("local-dir:"))
    shutil.copytree(folder, tmp_path / "clip", ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--model", tiny_base, "--prompts", ready["my"], "--clip", f"local-dir:{tmp_path / 'clip'}"]
    run(monkeypatch, *words(ready, tmp_path / "out", *more))
    told = f"warning: score.clip: {tmp_path / 'clip'}: no *.safetensors there; "
    output = capsys.readouterr().out
    assert output.startswith(told) and output.index("not run without it: clip, ") < output.index("1 of 2 tiles")
    assert told.endswith(io.read_meta(tmp_path / "out")["absent"]["clip_retain"].partition("open_clip")[0])


@pytest.mark.parametrize(
    ("given", "out"),
    [
        (["--model", "models/small/"], "results/small"),
        (["--model", "owner/name", "--revision", "abc"], "results/name"),
        (["--pictures", "eval=there/my pictures"], "results/my-pictures"),
        (["--pictures", "there"], "results/there"),
        (["--model", "small", "--out", "mine"], "mine"),
        (["--samples", "there"], None),
        ([], None),
    ],
)
def test_where_a_record_goes_that_is_given_no_place(given, out):
    found = evaluation.placed(given)
    assert found[: len(given)] == given
    assert found[found.index("--out") + 1 :] == [out] if out else found == given


def test_a_place_in_one_word_is_kept():
    assert evaluation.placed(["--model", "small", "--out=mine"]) == ["--model", "small", "--out=mine"]


def test_the_command_without_a_place(ready, tiny_base, tmp_path):
    given = words(ready, "gone", "--model", tiny_base, "--prompts", ready["my"], "--reference", ready["real"])
    given = [*given[2:], "--dry-run"]  # without --out
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-m", "stages.score", *given], **how)
    assert found.returncode == 0, found.stderr
    assert f"pictures with {tiny_base} into results/{tiny_base.name}-samples" in found.stdout
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} <= {"state/hashes"}


def test_killed_while_drawing_and_run_again(ready, tiny_base, tmp_path, monkeypatch):
    out, state, changes = tmp_path / "cut", tmp_path / "cut-state", {"steps": 20, "tile": 1}
    more = ["--model", tiny_base, "--prompts", ready["my"], "--reference", ready["real"]]
    process = subprocess.Popen([sys.executable, "-m", "stages.score", *words(ready, out, *more, **changes)], cwd=ROOT)
    deadline = time.monotonic() + 240
    while len(list(state.glob("*.tar"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in state.glob("*.tar")}
    assert 2 <= len(kept) < 8
    assert not out.exists() and not Path(f"{out}-samples").exists()
    told = []
    make = sample.draw
    monkeypatch.setattr(sample, "draw", lambda *given: (told.append(len(given[5])), make(*given))[1])
    run(monkeypatch, *words(ready, out, *more, **changes))
    assert told == [8 - len(kept)]
    run(monkeypatch, *words(ready, tmp_path / "whole", *more, **changes))
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with Images(Path(f"{out}-samples")) as images:
        assert len(images.entries) == 8
    assert not state.exists()


def test_values_that_are_not_given_are_the_defaults(ready, tiny_base, tmp_path, monkeypatch, capsys):
    flags = ["--model", tiny_base, "--prompts", ready["my"], "--out", tmp_path / "out", "--steps", 2, "--dry-run"]
    seen = []
    monkeypatch.setattr(sample, "main", seen.append)
    run(monkeypatch, *map(str, flags))
    drawn = dict(zip(seen[0][0::2], seen[0][1::2], strict=False))
    wanted = {"--sampler": "ddim", "--steps": "2", "--guidance": "7.5", "--tile": "8", "--resolution": "none"}
    assert {key: drawn[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "{no}"], "{no}: no such folder, and not a hub id (OWNER/NAME)"),
        (["--model", "owner/name"], "owner/name: a hub id needs its revision, the 40 hex digits of a commit"),
        (["--model", "{my}"], "--model: {my} is a file; give a folder: load it into its pipeline or U-Net"),
        (["--model", "{base}", "--base", "{base}"], "--model {base} is a whole pipeline; leave it out"),
        (["--model", "{no}", "--base", "{base}"], "--model {no} is no folder with a U-Net; leave it out"),
        (["--model", "{real}"], "--model: {real} is no whole pipeline (no model_index.json); give --base"),
        (["--model", "{real}", "--base", "{base}"], "{real}: no folder unet there; give a weights folder, or one that"),
        (["--model", "{base}/vae", "--base", "{base}"], "says 'AutoencoderKL', not 'UNet2DConditionModel'"),
        (["--model", "{other}/unet", "--base", "{base}"], "unet: cross_attention_dim 24, but {base} has 16 (the width"),
        (["--model", "{two}", "--base", "{base}"], "{two}: holds a text_encoder too; give the whole"),
        (["--model", "{base}", "--sample-number", "0"], "--sample-number: goes with --pictures only"),
        (["--pictures", "{real}", "--base", "{base}"], "--base: goes with --model only"),
        (["--pictures", "{real}", "--steps", "9"], "--steps: goes with --model only"),
        (["--samples", "{real}", "--guidance", "9"], "--guidance: goes with --model only"),
        (["--model", "{base}", "--kind", "object"], "--kind: goes with --concept only"),
        (["--model", "{base}", "--concept", "x", "--concepts", "{{}}"], "--concept: is short for --concepts; give one"),
        (["--model", "{base}", "--concept", "?!"], "--concept: '?!' gives no name for its prompts"),
        (["--model", "{base}", "--concept", "m", "--style", "braque"], "column artist: braque not among the labels of"),
        (
            ["--model", "{base}", "--concepts", '{{"m": {{"style": "x", "neighbours": ["x"]}}}}'],
            "--concepts.m.neighbours: 'x' is its own label (style)",
        ),
        (
            ["--model", "{base}", "--reference", "{no}"],
            "--reference: {no}: no finished result, nor a folder of pictures",
        ),
        (["--model", "{base}", "--reference", "{empty}"], "{empty}: no metadata.jsonl there"),
        (["--model", "{base}", "--reference", "{real}", "--eval-pictures", "{real}"], "{real} holds no scores; beside"),
        (["--model", "{base}", "--prompts", "{no}"], "{no}: no such prompt file"),
        (
            ["--model", "{base}", "--prompts", "{my}", "{my}"],
            "--prompts: which set is {my}? write NAME={my}, where NAME",
        ),
        (["--model", "{base}", "--prompts", "eval={my}", "{my}"], "--prompts: which set is {my}? write NAME={my}"),
        (
            ["--model", "{base}", "--prompts", "eval={my}", "--concept", "m"],
            "--prompts: none of m; give its prompts as",
        ),
        (["--model", "{base}", "--prompts", "monet={my}"], "--prompts: 'monet' is not one of retain, eval"),
        (
            ["--model", "{base}", "--prompts", "{i2p}"],
            "of format i2p: python -m lethe.texts.prompts {i2p} --out OUT.csv",
        ),
        (["--model", "{base}", "--resolution", "33"], "resolution: 33 is not a multiple of 4"),
        (["--model", "{base}", "--sampler", "euler"], "sample.sampler: 'euler' is not one of ddim, dpmsolver++"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    ready, tiny_base, other_base, tmp_path, monkeypatch, flags, message
):
    places = {"base": tiny_base, "other": other_base, "my": ready["my"], "real": ready["real"], "no": "nowhere/at/all"}
    places |= {name: tmp_path / name for name in ("two", "empty")} | {"i2p": tmp_path / "i2p.csv"}
    shutil.copytree(tiny_base / "unet", tmp_path / "two" / "unet")
    shutil.copytree(tiny_base / "text_encoder", tmp_path / "two" / "text_encoder")
    (tmp_path / "empty").mkdir()
    places["i2p"].write_text("prompt,categories,sd_seed\na,hate,1\n")
    more = [flag.format(**places) for flag in flags]
    more += [] if "--prompts" in flags else ["--prompts", str(ready["my"])]
    arguments = words(ready, tmp_path / "out", *more)
    with pytest.raises(UserError) as error:
        run(monkeypatch, *arguments)
    assert message.format(**places) in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"two", "empty", "i2p.csv"}


@pytest.mark.parametrize("flags", [["--model", "owner/name"], ["--model", "nowhere/at/all"], ["--pictures", "nowhere"]])
def test_nothing_is_fetched_before_the_subject_is_looked_over(ready, tmp_path, monkeypatch, flags):
    fetched = []
    monkeypatch.setattr(evaluation, "fetched", fetched.append)
    with pytest.raises(UserError, match=r"owner/name|nowhere"):
        run(monkeypatch, *words(ready, tmp_path / "out", *flags, "--prompts", ready["my"]))
    assert fetched == [] and not list(tmp_path.iterdir())


def test_a_part_of_the_real_pictures_and_of_the_prompts(ready, tiny_base, tiny_pictures, tmp_path, monkeypatch, capsys):
    real = shutil.copytree(tiny_pictures, tmp_path / "real")
    (real / "05.png").unlink()
    prompts = tmp_path / "eval.csv"
    prompts.write_text(ready["eval"].read_text().rstrip("\n") + "\n99,,1\n")
    given = ["--model", tiny_base, "--prompts", prompts, "--reference", real]
    with pytest.raises(UserError, match="column prompt: empty"):
        run(monkeypatch, *words(ready, tmp_path / "out", *given))
    with pytest.raises(UserError, match=r"05\.png: no such file .*--subset"):
        run(monkeypatch, *words(ready, tmp_path / "out", *given, "--skip-empty"))
    run(monkeypatch, *words(ready, tmp_path / "out", *given, "--skip-empty", "--subset"))
    said, meta = capsys.readouterr().err, io.read_meta(tmp_path / "out")
    assert "rows without a prompt, left out: 1 of eval" in said and "1 of 12 lines have no picture" in said
    assert (meta["without_prompt"], meta["without_picture"]) == ({"eval": 1}, {str(real): 1})
    assert metrics(tmp_path / "out")["fid"]["protocol"]["n_real"] == 11
