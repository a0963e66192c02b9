import csv
import json

import numpy as np
import pytest
import torch

from lethe.attacking import victims
from lethe.drawing.sampling import Settings, Start, draw
from lethe.files.errors import UserError
from lethe.files.images import Images, read_manifest
from lethe.files.io import read_meta, sha256
from lethe.models import pipelines, unets
from lethe.params.recipe import of_file, of_model, of_result, recipe
from lethe.texts.prompts import read_prompts
from lethe.training import data
from tests.stages.running import finished_without_torch, kill_after_first_checkpoint, stage

SAMPLE = {"sampler": "ddim", "steps": 4, "guidance": 4.0, "tile": 3, "precision": "float32"}
FLAGS = {f"sample_{key}": value for key, value in SAMPLE.items()}
CONCEPTS = {
    "monet": {"prompt": "by monet", "anchor": "a boat", "style": "dropped"},
    "van_gogh": {"prompt": "by van gogh", "anchor": "a boat"},
}
RELEARN = {"attack": "relearn", "source": "concepts", "count": None, "rank": None, "steps": 9, "batch": 2, "lr": 1.0e-3}
COMPLETION = {"attack": "completion", "strength": 0.5, "text": "own"}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for first, name in enumerate(CONCEPTS):
        rows = [
            f"{number},a {thing} by {name},{100 * first + number}" for number, thing in enumerate(["boat", "sun"] * 3)
        ]
        (folder / f"{name}.csv").write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]) + "\n")
    return {name: folder / f"{name}.csv" for name in CONCEPTS}


@pytest.fixture(scope="module")
def originals(tiny, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("originals") / "out"
    named = [f"{name}={path}" for name, path in prompts.items()]
    stage("sample", "--base", tiny.base, "--prompts", *named, "--out", out, "--state", out.with_name("state"), **SAMPLE)
    return out


def words(ready, prompts, out, model="pruned"):
    given = ["--base", ready.base, "--concepts", json.dumps(CONCEPTS), "--each", 2, "--seed", 0]
    given += ["--prompts", *(f"{name}={path}" for name, path in prompts.items())]
    given += ["--model", getattr(ready, model)] if model else []
    return [*given, "--out", out]


def attack(ready, prompts, out, *more, model="pruned", **values):
    stage("attack", *words(ready, prompts, out, model), "--state", f"{out}-state", *more, **FLAGS, **values)


def pixels(folder):
    with Images(folder) as images:
        return {(e.set, e.case_number): np.asarray(images.picture(e)) for e in images.entries}


def table(folder):
    with open(folder / "attack.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_an_attack_that_asks_the_same_draws_what_sampling_draws(tiny, prompts, tmp_path):
    named = [f"{name}={path}" for name, path in prompts.items()]
    given = ["--base", tiny.base, "--model", tiny.pruned, "--prompts", *named]
    stage("sample", *given, "--out", tmp_path / "plain", "--state", tmp_path / "state", **SAMPLE)
    files = {name: str(path) for name, path in prompts.items()}
    attack(tiny, prompts, tmp_path / "out", attack="prompts", files=files, provenance="the same")
    before, after = pixels(tmp_path / "plain"), pixels(tmp_path / "out")
    assert list(after) == [("monet", 0), ("monet", 3), ("van_gogh", 0), ("van_gogh", 3)], "even steps of each file"
    assert all(np.array_equal(before[key], picture) for key, picture in after.items())
    assert read_meta(tmp_path / "out")["attack"] == {"provenance": "the same"}


def test_pictures_carry_the_rows_own_prompts_and_seeds_whatever_was_asked(tiny, prompts, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("case_number,prompt,evaluation_seed\n0,boat like monet,77\n3,sun like monet,78\n")
    files = {"monet": str(other), "van_gogh": str(prompts["van_gogh"]), "picasso": "nowhere.csv"}
    values = {"attack": "prompts", "files": files, "provenance": "a test"}
    out = tmp_path / "out"
    attack(tiny, prompts, out, **values)
    found = [(e.set, e.case_number, e.prompt, e.evaluation_seed) for e in read_manifest(out)]
    rows = {name: {row.case_number: row for row in read_prompts(path)} for name, path in prompts.items()}
    assert found == [(n, i, rows[n][i].prompt, rows[n][i].seed) for n in CONCEPTS for i in (0, 3)]
    assert [row["asked"] for row in table(out)][:2] == ["boat like monet", "sun like monet"]

    meta = read_meta(out)
    concepts = {name: {key: own[key] for key in ("prompt", "anchor")} for name, own in CONCEPTS.items()}
    options = {"attack": "prompts", "options": {key: values[key] for key in ("files", "provenance")}}
    options |= {"seed": 0, "each": 2, "concepts": concepts, "resolution": None} | SAMPLE
    parents = {"base": of_model(str(tiny.base), None), "model": of_result(tiny.pruned)}
    parents |= {f"prompts:{name}": of_file(path) for name, path in prompts.items()}
    parents |= {"file:monet": of_file(other), "file:van_gogh": of_file(prompts["van_gogh"])}
    assert meta["recipe"] == recipe("attack", 1, options, parents)
    assert meta["stage"] == "attack" and meta["pictures"] == 4
    assert meta["budget"] == {"student_forward": 0, "student_backward": 0, "teacher_forward": 0}
    told = finished_without_torch("attack", words(tiny, prompts, out), FLAGS | values)
    assert "finished" in told


def test_completion_hands_the_originals_to_the_victim(tiny, prompts, originals, tmp_path):
    attack(tiny, prompts, tmp_path / "out", "--originals", originals, **COMPLETION)
    base = pipelines.load_base(str(tiny.base), None, ["vae", "text_encoder", "tokenizer", "scheduler"])
    unet = unets.load_unet(tiny.pruned)
    base.latent_shape = pipelines.latent_shape(unet)
    rows = {name: read_prompts(path)[::3] for name, path in prompts.items()}
    starts = victims.originals(originals, rows, base, torch.device("cpu"))
    tiles = [[("monet", row) for row in rows["monet"]] + [("van_gogh", rows["van_gogh"][0])]]
    tiles.append([("van_gogh", rows["van_gogh"][1])])
    begun = [[Start(starts[name, row.case_number], 2) for name, row in tile] for tile in tiles]
    asked = [[row for _, row in tile] for tile in tiles]
    wanted = np.concatenate(list(draw(base, unet, asked, Settings(**SAMPLE), starts=begun)))
    assert np.array_equal(np.stack(list(pixels(tmp_path / "out").values())), wanted)
    assert set(read_meta(tmp_path / "out")["parents"]) >= {"base", "model", "originals"}
    assert read_meta(tmp_path / "out")["attack"] == {"first_step": 2, "steps": 4}


def test_originals_are_the_encoders_means_of_the_pictures(tiny, prompts, originals):
    base = pipelines.load_base(str(tiny.base), None, ["vae", "unet"])
    base.latent_shape = pipelines.latent_shape(base.unet)
    rows = {name: read_prompts(path) for name, path in prompts.items()}
    found = victims.originals(originals, rows, base, torch.device("cpu"))
    assert len(found) == 12 and {tuple(latent.shape) for latent in found.values()} == {(4, 8, 8)}
    with Images(originals) as images:
        entry = images.entries[7]
        image = data.fit(images.picture(entry), 32)[None]
    wanted = base.vae.encode(image).latent_dist.mean * base.vae.config.scaling_factor
    own = found[entry.set, entry.case_number]
    assert torch.allclose(own, wanted[0])
    (own.clone().requires_grad_(True) * own).sum().backward()  # no tensor of inference mode


def test_without_weights_the_base_is_attacked(tiny, prompts, originals, tmp_path):
    attack(tiny, prompts, tmp_path / "out", "--originals", originals, model=None, **COMPLETION | {"text": "empty"})
    assert "model" not in read_meta(tmp_path / "out")["parents"]
    assert {row["asked"] for row in table(tmp_path / "out")} == {""}


def test_a_killed_relearning_ends_in_the_same_bytes(tiny, prompts, tmp_path):
    values = FLAGS | RELEARN
    pictures = ["--concept-pictures", *tiny.named()]
    attack(tiny, prompts, tmp_path / "straight", *pictures, **RELEARN)
    given = [*words(tiny, prompts, tmp_path / "killed"), *pictures]
    kill_after_first_checkpoint("attack", given, values, tmp_path / "state")
    stage("attack", *given, "--state", tmp_path / "state", **values)
    metas = [read_meta(tmp_path / name) for name in ("straight", "killed")]
    assert metas[0]["files"] == metas[1]["files"] and "log.csv" in metas[0]["files"]
    assert (
        metas[0]["budget"]
        == metas[1]["budget"]
        == {
            "student_forward": 18,
            "student_backward": 18,
            "teacher_forward": 0,
        }
    )
    assert not (tmp_path / "state").exists()
    assert set(metas[0]["parents"]) >= {"concept:monet", "concept:van_gogh"}
    assert "data" not in metas[0]["parents"]


def test_what_guides_sampling_guides_under_attack_too(tiny, prompts, originals, tmp_path):
    short = json.dumps({"monet": {"prompt": "by monet", "anchor": "a boat"}})
    given = ["--base", tiny.base, "--model", tiny.pruned, "--eraser", "sld", "--concepts", short, "--seed", 0]
    stage("erase", *given, "--out", tmp_path / "sld", "--state", tmp_path / "state", preset="max")
    guided = type(tiny)(tiny.base, tmp_path / "sld", tiny.data, tiny.concepts)
    found = []
    for number, ready in enumerate((tiny, guided)):
        attack(ready, prompts, tmp_path / f"{number}", "--originals", originals, **COMPLETION | {"strength": 1.0})
        found.append(sha256(tmp_path / f"{number}" / "images.tar"))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"attack": "magic"}, "'magic' is not one of the attacks: .*completion"),
        ({"strength": 2.0}, "attack_completion.strength: 2.0 is greater than the maximum of 1"),
        ({"sample_steps": 0}, "sample.steps: 0 is less than the minimum of 1"),
        ({"each": 7}, r"--prompts monet=\S+: has 6 prompts, 7 are to be attacked; lower attacks.prompts"),
        ({"each": 0}, "--each: 0 is not at least 1"),
    ],
)
def test_wrong_values_are_refused(tiny, prompts, originals, tmp_path, change, text):
    values = FLAGS | COMPLETION | change
    with pytest.raises(UserError, match=text):
        stage("attack", *words(tiny, prompts, tmp_path / "out"), "--originals", originals, **values)
    assert list(tmp_path.iterdir()) == []


def test_flags_of_the_section_sample_begin_with_its_name(tiny, prompts, originals, tmp_path):
    with pytest.raises(UserError, match=r"sample\.tile: 0 is less than the minimum of 1"):
        values = FLAGS | COMPLETION | {"sample_tile": 0}
        stage("attack", *words(tiny, prompts, tmp_path / "out"), "--originals", originals, **values)


def test_what_an_attack_needs_must_be_given(tiny, prompts, originals, tmp_path):
    with pytest.raises(UserError, match="--originals: completion needs what the dense model drew: give samples"):
        attack(tiny, prompts, tmp_path / "out", **COMPLETION)
    with pytest.raises(UserError, match="--concept-pictures: relearn needs encoded pictures of monet, van_gogh: give"):
        attack(tiny, prompts, tmp_path / "out", **RELEARN)
    with pytest.raises(UserError, match="--data: relearn needs the fine-tuning pictures"):
        attack(tiny, prompts, tmp_path / "out", **RELEARN | {"source": "data"})
    with pytest.raises(UserError, match="--prompts: none of van_gogh: give NAME=CSV"):
        attack(tiny, {"monet": prompts["monet"]}, tmp_path / "out", "--originals", originals, **COMPLETION)
    with pytest.raises(UserError, match="prompts: no file of prompts for van_gogh; give each of the concepts a CSV"):
        files = {"monet": str(prompts["monet"])}
        attack(tiny, prompts, tmp_path / "out", attack="prompts", files=files, provenance="x")
    with pytest.raises(UserError, match="mask_leak: no matrix of this victim is exactly zero"):
        leak = {"attack": "mask_leak", "estimate": "low_rank", "rank": 1, "rounds": 1, "scale": 1.0}
        attack(tiny, prompts, tmp_path / "out", **leak)
    assert not (tmp_path / "out").exists()


def test_originals_of_other_prompts_are_refused(tiny, prompts, originals, tmp_path):
    other = tmp_path / "monet.csv"
    other.write_text(prompts["monet"].read_text().replace("boat by", "boat of"))
    with pytest.raises(UserError, match="has no picture of monet, case_number 0, drawn for this prompt and seed"):
        attack(tiny, prompts | {"monet": other}, tmp_path / "out", "--originals", originals, **COMPLETION)
