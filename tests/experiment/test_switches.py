"""prompts.skip_empty and pictures.subset: what was refused is read, in every stage that reads it; no address moves."""

import argparse

import pytest

from lethe.experiment import plan
from lethe.files.errors import UserError
from lethe.stage import cli


def test_an_address_does_not_know_them(params):
    params["pictures"] = {"make": None, "finetune": "pictures", "eval": "pictures"}
    for concept in params["concepts"].values():
        concept["pictures"] = "pictures"
    before = plan.build(params)
    params["prompts"]["skip_empty"] = params["pictures"]["subset"] = True
    after = plan.build(params)
    assert before.nodes.keys() == after.nodes.keys()
    told = {"--skip-empty": {"sample", "score"}, "--subset": {"encode", "score"}}
    for word, stages in told.items():
        assert {node.stage for node in after.nodes.values() if word in node.flags} == stages
        assert not any(word in node.flags for node in before.nodes.values())
    drawn = [node for node in after.nodes.values() if node.stage == "sample" and "--prompts" in node.flags]
    assert drawn and all("--skip-empty" in node.flags for node in drawn)


def test_a_row_without_a_prompt_does_not_stop_a_plan(params, root):
    path = root / "prompts/atelier/retain.csv"
    text = path.read_text()
    path.write_text(text + "77,,5,monet,boat\n")
    try:
        with pytest.raises(UserError, match=r"prompts\.retain: .*column prompt: empty; .*prompts\.skip_empty"):
            plan.build(params)
        params["prompts"]["skip_empty"] = True
        assert plan.build(params).nodes
    finally:
        path.write_text(text)


def test_a_part_of_pictures_that_a_command_makes_is_refused(params):
    params["pictures"]["subset"] = True
    with pytest.raises(UserError, match=r"pictures: make and subset: .*; leave one out"):
        plan.build(params)
    with pytest.raises(UserError, match="--make and --subset"):
        cli.subset(argparse.Namespace(make="true", subset=True, params=None))


def test_a_base_that_is_a_folder_has_no_revision(params):
    params["base"]["revision"] = "0" * 40
    with pytest.raises(UserError, match=r"base\.path: .* is a folder, so no revision can be meant"):
        plan.build(params)
