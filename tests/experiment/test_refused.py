"""What would fail in a job is refused when the experiment is planned."""

import re
import shutil

import pytest

from lethe.experiment import plan
from lethe.files.errors import UserError


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("base", "path"), "models/nowhere/at/all", ["base.path", "models/nowhere/at/all", "no such folder"]),
        (("base", "path"), "owner/model", ["base.path", "owner/model", "revision", "40 hex digits"]),
        (("base", "path"), "prompts", ["base.path", "prompts", "model_index.json"]),
        (("concepts", "monet", "prompts"), "prompts/manet.csv", ["concepts.monet.prompts", "prompts/manet.csv"]),
        (("prompts", "eval"), "prompts/evil.csv", ["prompts.eval", "prompts/evil.csv"]),
        (("pictures", "make"), None, ["pictures.make is null", "data/atelier"]),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_key(params, path, value, words):
    section = params
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(UserError) as found:
        plan.build(params)
    text = str(found.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize("name", ["eval", "retain", "finetune"])
def test_a_concept_must_not_be_named_like_a_set(params, name):
    params["concepts"][name] = params["concepts"].pop("picasso")
    with pytest.raises(UserError, match=f"'{name}' is the name of a set of prompts"):
        plan.build(params)


def test_an_anchor_must_not_be_the_prompt(params):
    params["concepts"]["monet"]["anchor"] = params["concepts"]["monet"]["prompt"].upper()
    with pytest.raises(UserError, match=r"concepts\.monet\.anchor: .* is the prompt itself"):
        plan.build(params)


def test_a_plan_of_other_params_is_not_written_under_this_name(params, root, monkeypatch):
    target = root / "results/plans/0000000000.json"
    monkeypatch.setattr("sys.argv", ["plan", "params.yaml", "--out", str(target)])
    with pytest.raises(UserError, match="has changed while the workflow ran"):
        plan.main()
    assert not target.exists()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("score", "descriptor"), "params.yaml", "score.descriptor: params.yaml: is a file"),
        (("score", "judges", "content"), "owner/name@main", "OWNER/NAME@40 hex digits"),
        (("score", "clip"), "ViT-B-32", "score.clip: 'ViT-B-32' is neither"),
        (("score", "features"), "somewhere", "score.features: somewhere: is not clean or legacy_pytorch"),
        (("sample", "steps"), 5000, "sample.steps: 5000 is more than the 1000 noise levels"),
        (("erase", "esd", "sampler_steps"), 5000, "erase.esd.sampler_steps: 5000 is more than the 1000"),
        (("base", "resolution"), 63, "base.resolution: resolution: 63 is not a multiple of 4"),
    ],
)
def test_what_would_fail_in_the_last_job_is_refused_before_the_first(params, place, value, words):
    *path, last = place
    section = params
    for key in path:
        section = section[key]
    section[last] = value
    with pytest.raises(UserError, match=re.escape(words)):
        plan.build(params)


def test_a_prompt_file_with_a_label_that_no_judge_knows_is_refused(params, root):
    path = root / "prompts/atelier/retain.csv"
    text = path.read_text()
    path.write_text(text.replace(",munch,", ",bosch,"))
    try:
        if "bosch" not in path.read_text():
            path.write_text(text.replace("monet,", "bosch,"))
        with pytest.raises(UserError, match="column artist: bosch not among the labels"):
            plan.build(params)
    finally:
        path.write_text(text)


def test_pictures_of_ones_own_are_looked_through(params, root):
    folder = root / "mine"
    shutil.copytree(root / "pictures", folder)
    params["pictures"] = {"make": None, "finetune": "mine", "eval": "mine"}
    for concept in params["concepts"].values():
        concept["pictures"] = None
    before = plan.build(params)
    (folder / "sub").mkdir()
    shutil.move(folder / "00.png", folder / "sub/00.png")
    with pytest.raises(UserError, match=r"pictures\..*00\.png: no such file"):
        plan.build(params)
    shutil.move(folder / "sub/00.png", folder / "00.png")
    (folder / ".DS_Store").write_text("x")
    assert plan.build(params).nodes.keys() == before.nodes.keys()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a {subjct}", "erase.conceptprune.target_template: 'a {subjct}' has the unknown field"),
        ("a painting of a {subject}", "erase.conceptprune: subject 'house' gives the pair"),
    ],
)
def test_templates_that_make_no_pairs_are_refused_before_the_first_job(params, template, words):
    params["grid"]["arms"] = ["distill", "conceptprune"]
    own = {"base_template": "a painting of a {subject}", "target_template": template, "subjects": ["house"]}
    params["erase"]["conceptprune"] |= own
    with pytest.raises(UserError, match=re.escape(words)):
        plan.build(params)
