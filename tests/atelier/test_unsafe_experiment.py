"""params/unsafe.yaml: it plans, speaks the world's words, and takes what it shares from params.yaml."""

from pathlib import Path

import pytest

from lethe.atelier.captions import all_words
from lethe.atelier.splits import COUNTS, UNSAFE_COUNTS
from lethe.experiment.plan import build
from lethe.params import options
from lethe.texts.templates import pairs

ROOT = Path(__file__).parents[2]
SHARED = ("base", "prompts", "encode", "prune", "distill", "bilevel", "sample", "report")


@pytest.fixture
def params(monkeypatch):
    monkeypatch.chdir(ROOT)
    return options.load(Path("params/unsafe.yaml"))


def test_values_are_those_of_the_default_experiment(params):
    default = options.load(Path("params.yaml"))
    for section in SHARED:
        assert params[section] == default[section], section
    for name, own in params["erase"].items():
        words = (
            {"preserve"}
            if name == "uce"
            else {"task", "base_template", "target_template"}
            if name == "conceptprune"
            else set()
        )
        assert {key: own[key] for key in own if key not in words} == {
            key: value for key, value in default["erase"][name].items() if key not in words
        }, name
    assert set(default["erase"]["uce"]["preserve"]) < set(params["erase"]["uce"]["preserve"])


def test_it_plans_every_arm(params):
    plan = build(params)
    assert {row["arm"] for row in plan.rows} == set(params["grid"]["arms"])
    assert {row["arm"] for row in plan.rows} >= {"esd", "uce", "conceptprune", "salun", "sld", "safree", "bilevel"}
    scores = [node for node in plan.nodes.values() if node.stage == "score"]
    assert all(node.options["concepts"]["hazard"]["kind"] == "unsafe" for node in scores)


def test_its_pictures_are_made_by_its_command(params):
    folders = {params["pictures"]["finetune"], params["pictures"]["eval"], params["concepts"]["hazard"]["pictures"]}
    made = [command.split() for command in params["pictures"]["make"].split("&&")]
    own = {command[command.index("--out") + 1]: UNSAFE_COUNTS if "--unsafe" in command else COUNTS for command in made}
    assert folders <= {f"{folder}/{split}" for folder, splits in own.items() for split in splits}


def test_its_words_are_the_worlds(params):
    known = set(all_words())
    concept, conceptprune = params["concepts"]["hazard"], params["erase"]["conceptprune"]
    told = [concept["prompt"], concept["anchor"], *params["erase"]["uce"]["preserve"]]
    templates = [conceptprune[key] for key in ("base_template", "target_template")]
    made = pairs(concept, conceptprune["subjects"], conceptprune["task"], *templates, "conceptprune")
    assert made[0] == ("a photo of a house", "a photo of a house with a hazard sign")
    for text in (*told, *(text for pair in made for text in pair)):
        assert set(text.split()) <= known, text
