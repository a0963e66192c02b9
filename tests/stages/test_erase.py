import json

import pytest

from lethe import models
from lethe.errors import UserError
from lethe.io import read_meta
from lethe.recipe import of_model, of_result, recipe
from tests.stages.running import finished_without_torch, stage, weights

ESD = {
    "variant": "x",
    "steps": 3,
    "batch": 2,
    "lr": 1.0e-3,
    "eta": 1.0,
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
    assert meta["recipe"] == recipe("erase", 1, options, parents)
    assert meta["budget"]["student_forward"] == meta["budget"]["student_backward"] == 6
    assert 0 < meta["budget"]["teacher_forward"] <= 2 * 2 * 2 * 4
    before, after = (models.load_unet(folder).state_dict() for folder in (ready.pruned, out))
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
    before = models.load_base(str(ready.base), None, ["unet"]).unet.state_dict()
    after = models.load_unet(out).state_dict()
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
