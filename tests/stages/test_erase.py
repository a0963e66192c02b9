import json

import pytest

from lethe.files.errors import UserError
from lethe.files.io import read_meta
from lethe.models import pipelines, unets
from lethe.params import rules
from lethe.params.recipe import of_model, of_result, recipe
from tests.stages.running import PRUNE, finished_without_torch, stage, weights
from tests.tiny_training import OPTIONS, UPPER

ESD = {
    "variant": "x",
    "steps": 3,
    "batch": 2,
    "lr": 1.0e-3,
    "eta": 1.0,
    "erase_from": "empty",
    "states": "frozen",
    "guidance": 3.0,
    "sampler_steps": 4,
    "reuse": 2,
}
CONCEPTS = {
    "monet": {"prompt": "a painting by monet", "anchor": "a painting"},
    "van_gogh": {"prompt": "a painting by van gogh", "anchor": "a painting", "style": "dropped"},
}


def words(ready, out, concepts=CONCEPTS):
    text = concepts if isinstance(concepts, str) else json.dumps(concepts)
    places = ["--out", out, "--state", out.with_name("state")]
    return ["--base", ready.base, "--eraser", "esd", "--model", ready.pruned, "--seed", 0, "--concepts", text, *places]


def test_esd_edits_cross_attention_of_a_pruned_unet(ready, tmp_path):
    out = tmp_path / "out"
    stage("erase", *words(ready, out), **ESD)
    meta = read_meta(out)
    concepts = {name: {key: own[key] for key in ("prompt", "anchor")} for name, own in CONCEPTS.items()}
    options = {"eraser": "esd", "seed": 0, "concepts": concepts, "resolution": None, **ESD}
    parents = {"base": of_model(str(ready.base), None), "model": of_result(ready.pruned)}
    assert meta["recipe"] == recipe("erase", 2, options, parents)
    assert meta["budget"]["student_forward"] == meta["budget"]["student_backward"] == 6
    assert 0 < meta["budget"]["teacher_forward"] <= 2 * 2 * 2 * 4
    before, after = (unets.load_unet(folder).state_dict() for folder in (ready.pruned, out))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all("attn2" in name for name in changed)
    assert "finished" in finished_without_torch("erase", words(ready, out), ESD)


def test_without_weights_the_dense_base_forgets(ready, tmp_path):
    out, given = tmp_path / "out", words(ready, tmp_path / "out")
    at = given.index("--model")
    stage("erase", *given[:at], *given[at + 2 :], **ESD)
    assert read_meta(out)["parents"].keys() == {"base"}
    assert not (out / "unet/pruning.json").exists()
    before = pipelines.load_base(str(ready.base), None, ["unet"]).unet.state_dict()
    after = unets.load_unet(out).state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all("attn2" in name for name in changed)


def test_concepts_from_a_file_in_any_order_give_the_same_weights(tiny, tmp_path):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(dict(reversed(CONCEPTS.items()))))
    stage("erase", *words(tiny, tmp_path / "one"), **ESD)
    stage("erase", *words(tiny, tmp_path / "two", f"@{path}"), **ESD)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.mark.parametrize(
    ("concepts", "words_"),
    [
        ("{broken", "not JSON"),
        ("{}", "names no concept"),
        ('{"monet": {"prompt": "monet"}}', "monet has no text 'anchor'"),
        ("@nowhere.json", "nowhere.json: no such file"),
    ],
)
def test_wrong_concepts_are_refused(tiny, tmp_path, concepts, words_):
    with pytest.raises(UserError, match=words_):
        stage("erase", *words(tiny, tmp_path / "out", concepts), **ESD)


def test_unknown_eraser_and_wrong_option(tiny, tmp_path):
    given = words(tiny, tmp_path / "out")
    with pytest.raises(UserError, match="esd"):
        stage("erase", *["magic" if word == "esd" else word for word in given], **ESD)
    with pytest.raises(UserError, match="x-strict"):
        stage("erase", *given, **ESD | {"variant": "y"})
    assert list(tmp_path.iterdir()) == []


def test_an_eraser_that_reads_pictures_must_be_given_them(tiny, tmp_path):
    values = {key: rule.get("enum", [1])[0] for key, rule in rules.options_of("erasers", "salun").items()}
    given = [word if word != "esd" else "salun" for word in words(tiny, tmp_path / "out")]
    with pytest.raises(UserError, match="--concept-pictures: salun needs encoded pictures of monet, van_gogh: give"):
        stage("erase", *given, **values)
    with pytest.raises(UserError, match="--data: salun needs the fine-tuning pictures"):
        stage("erase", *given, "--concept-pictures", *tiny.named(), **values)
    stage("erase", *given, "--concept-pictures", *tiny.named(), "--data", tiny.data, **values)
    roles = {"base", "model", "data", "concept:monet", "concept:van_gogh"}
    assert set(read_meta(tmp_path / "out")["parents"]) == roles


def test_an_eraser_that_guides_leaves_the_weights_and_says_how(tiny, tmp_path):
    short = json.dumps({"monet": {"prompt": "by monet", "anchor": "a boat"}})  # the tiny tokenizer counts letters
    given = [word if word != "esd" else "sld" for word in words(tiny, tmp_path / "out", short)]
    stage("erase", *given, preset="medium")
    found = json.loads((tmp_path / "out/guidance.json").read_text())
    assert found["eraser"] == "sld"
    before, after = (unets.load_unet(folder).state_dict() for folder in (tiny.pruned, tmp_path / "out"))
    assert all(before[name].equal(after[name]) for name in before)
    meta = read_meta(tmp_path / "out")
    assert "guidance.json" in meta["files"] and "text_encoder/config.json" not in meta["files"]


def test_what_guides_sampling_is_not_lost_by_a_second_eraser(tiny, tmp_path):
    short = json.dumps({"monet": {"prompt": "by monet", "anchor": "a boat"}})
    stage("erase", *[word if word != "esd" else "sld" for word in words(tiny, tmp_path / "one", short)], preset="weak")
    given = [tmp_path / "one" if word == tiny.pruned else word for word in words(tiny, tmp_path / "two", short)]
    with pytest.raises(UserError, match="was erased by an eraser that acts while sampling"):
        stage("erase", *given, **ESD)
    assert not (tmp_path / "two").exists()


def test_what_lies_beside_the_unet_is_not_lost_by_training_or_pruning(tiny, tmp_path):
    short = json.dumps({"monet": {"prompt": "by monet", "anchor": "a boat"}})
    guided, given = tmp_path / "guided", words(tiny, tmp_path / "guided", short)
    stage("erase", *[word if word != "esd" else "sld" for word in given], preset="weak")
    at = ["--base", tiny.base, "--seed", 0, "--data", tiny.data, "--out", tmp_path / "out", "--state", tmp_path / "s"]
    lost = "forgets by its guidance.json, which would be lost here"
    with pytest.raises(UserError, match=rf"--pruned: .*guided {lost}"):
        stage("distill", *at, "--pruned", guided, **OPTIONS)
    with pytest.raises(UserError, match=rf"--teacher: .*guided {lost}"):
        stage("distill", *at, "--pruned", tiny.pruned, "--teacher", guided, **OPTIONS)
    with pytest.raises(UserError, match=rf"--pruned: .*guided {lost}"):
        stage("bilevel", *at, "--pruned", guided, "--concepts", *tiny.named(), **OPTIONS | UPPER)
    cut = given.index("--model")
    dense = [tmp_path / "dense" if word == guided else word for word in [*given[:cut], *given[cut + 2 :]]]
    stage("erase", *[word if word != "esd" else "sld" for word in dense], preset="weak")
    with pytest.raises(UserError, match=rf"--model: .*dense {lost}"):
        stage("prune", "--base", tiny.base, "--model", tmp_path / "dense", "--budget", 0.8, "--out", "x", **PRUNE)


def test_a_dense_net_that_forgot_can_be_healed(tiny, tmp_path):
    given = words(tiny, tmp_path / "one")
    at = given.index("--model")
    stage("erase", *given[:at], *given[at + 2 :], **ESD)
    at = ["--base", tiny.base, "--seed", 0, "--data", tiny.data, "--out", tmp_path / "out", "--state", tmp_path / "s"]
    stage("distill", *at, "--pruned", tmp_path / "one", **OPTIONS)
    assert weights(tmp_path / "one") != weights(tmp_path / "out")
    assert unets.read_pruning(tmp_path / "out") is None


def test_a_dense_net_can_be_erased_twice(tiny, tmp_path):
    given = words(tiny, tmp_path / "one")
    at = given.index("--model")
    stage("erase", *given[:at], *given[at + 2 :], **ESD)
    given = [tmp_path / "one" if word == tiny.pruned else word for word in words(tiny, tmp_path / "two")]
    stage("erase", *given, **ESD)
    assert weights(tmp_path / "one") != weights(tmp_path / "two")
    assert not (tmp_path / "two/unet/pruning.json").exists()


def test_an_edited_text_encoder_is_stored_with_the_weights(tiny, tmp_path):
    values = {
        "task": "style",
        "subjects": ["boat"],
        "base_template": None,
        "target_template": None,
        "layers": "text",
        "skill_ratio": 0.1,
        "timesteps": 1,
        "select_ratio": 0.0,
        "sampler_steps": 2,
        "guidance": 3.0,
    }
    given = [word if word != "esd" else "conceptprune" for word in words(tiny, tmp_path / "out")]
    stage("erase", *given, **values)
    before = pipelines.load_base(str(tiny.base), None, ["text_encoder"]).text_encoder
    after = type(before).from_pretrained(tmp_path / "out/text_encoder", local_files_only=True)
    changed = {
        name for name, value in before.state_dict().items() if not value.float().equal(after.state_dict()[name].float())
    }
    assert changed and all("fc2.weight" in name for name in changed)
    assert read_meta(tmp_path / "out")["eraser"]["edited"] == "text_encoder"
