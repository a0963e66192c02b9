"""params/attacks.yaml: it plans, tries every attack there is, and takes what it shares from params.yaml."""

from pathlib import Path

import pytest

from lethe.experiment.plan import build
from lethe.params import options, registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(monkeypatch):
    monkeypatch.chdir(ROOT)
    return options.load(Path("params/attacks.yaml"))


def test_values_are_those_of_the_default_experiment(params):
    default = options.load(Path("params.yaml"))
    assert params.keys() == default.keys()
    for section in params.keys() - {"experiment", "grid", "tables", "attacks"}:
        assert params[section] == default[section], section


def test_every_attack_is_tried_on_every_arm_that_erases_and_on_what_erases_nothing(params):
    tried = params["attacks"]["tried"]
    assert {own["attack"] for own in tried.values()} == set(registry.names("attacks"))
    plan = build(params)
    counts = {}
    for row in plan.rows:
        if row["attack"]:
            name = (row["arm"], *row["labels"].values())
            counts[name] = counts.get(name, 0) + 1
    leaks = sum(own["attack"] == "mask_leak" for own in tried.values())
    others = {(arm,): len(tried) - leaks for arm in ("distill", "esd", "uce", "salun", "bilevel")}
    assert counts == others | {("conceptprune",): len(tried), ("bilevel", "ours"): len(tried) - leaks}


def test_relearning_is_told_at_three_lengths(params):
    curves = {}
    for own in params["attacks"]["tried"].values():
        if own["attack"] == "relearn" and own["rank"] is None:
            curves.setdefault(own["source"], set()).add(own["steps"])
    assert curves == {"data": {50, 200, 1000}, "concepts": {50, 200, 1000}}
