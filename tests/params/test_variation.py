"""Tables: their rows are all combinations, each changes its values alone, and a wrong one is refused in one line."""

import copy
from pathlib import Path

import pytest
import yaml

from lethe.files.errors import UserError
from lethe.params import options, variation

DEFAULT = yaml.safe_load((Path(__file__).resolve().parents[2] / "params.yaml").read_text())
PENALTY = {
    "bilevel.solver": "penalty",
    "bilevel.lambda": 100.0,
    "bilevel.inner_steps": 20,
    "bilevel.coupling": "none",
    "bilevel.pull": 0.5,
    "bilevel.lambda_growth": 1.0,
    "bilevel.lambda_most": 1000.0,
    "bilevel.gap_tolerance": 0.0,
    "bilevel.second_copy": "device",
}


def table(**own) -> dict:
    values = copy.deepcopy(DEFAULT)
    lr = {"low": {"erase.esd.lr": 1.0e-5}, "as_is": {}}
    values["tables"] = {"sweep": {"of": ["esd"], "budgets": None, "seeds": None, "vary": {"lr": lr}} | own}
    return values


def test_points_are_all_combinations_the_last_axis_fastest():
    axes = {"loss": {"a": {"x": 1}, "b": {"x": 2}}, "steps": {"5": {"y": 5}, "9": {"y": 9}}}
    found = list(variation.points({"vary": axes}))
    assert [tuple(labels.values()) for labels, _ in found] == [("a", "5"), ("a", "9"), ("b", "5"), ("b", "9")]
    assert found[1] == ({"loss": "a", "steps": "9"}, {"x": 1, "y": 9})


def test_a_change_sets_its_values_and_nothing_else():
    values = table()
    options.validate(values)
    found = variation.varied(values, {"erase.esd.lr": 1.0e-5, "grid.order": "erase"}, "esd", "here")
    assert found["erase"]["esd"]["lr"] == 1.0e-5 and found["grid"]["order"] == "erase" and found["tables"] == {}
    found["erase"]["esd"]["lr"], found["grid"]["order"] = DEFAULT["erase"]["esd"]["lr"], "distill_erase"
    assert found | {"tables": None} == DEFAULT | {"tables": None}
    assert values["erase"] == DEFAULT["erase"]


def test_another_plug_in_brings_its_own_keys_and_the_old_ones_go():
    values = table(of=["bilevel"], vary={"solver": {"penalty": PENALTY, "alternate": {}}})
    options.validate(values)
    found = variation.varied(values, PENALTY, "bilevel", "here")["bilevel"]
    assert "upper_every" not in found and found["inner_steps"] == 20
    assert found["eta"] == DEFAULT["bilevel"]["eta"]  # the suppression's stays
    alone = variation.varied(values, {"bilevel.solver": "penalty"}, "bilevel", "here")["bilevel"]
    assert alone == found  # PENALTY are the defaults


@pytest.mark.parametrize("arm", ["base", "pruned", "distill", "bilevel", "esd"])
def test_every_arm_may_be_drawn_otherwise(arm):
    changes = {"sample.precision": "int4", "sample.steps": 4, "sample.sampler": "dpmsolver++"}
    values = table(of=[arm], vary={"drawn": {"as_is": {}, "otherwise": changes}})
    options.validate(values)
    found = variation.varied(values, changes, arm, "here")
    assert found["sample"] == DEFAULT["sample"] | {"precision": "int4", "steps": 4, "sampler": "dpmsolver++"}
    assert {name for name in DEFAULT if found[name] != DEFAULT[name]} - {"tables"} == {"sample"}


def test_a_row_in_order_erase_may_be_drawn_otherwise():
    values = table(vary={"drawn": {"few": {"grid.order": "erase", "sample.steps": 4}}})
    options.validate(values)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"of": ["base"]}, ["tables.sweep.low: 'erase.esd.lr' is no value that base reads; those of sample are"]),
        ({"of": ["ecd"]}, ["tables.sweep.of", "'ecd'", "esd"]),
        ({"of": []}, ["tables.sweep.of"]),
        (
            {"against": ["base"]},
            ["tables.sweep.against: 'base' is not one of the grid's arms that erase: esd", "bilevel"],
        ),
        ({"vary": {}}, ["tables.sweep.vary"]),
        ({"vary": {"lr": {}}}, ["tables.sweep.vary.lr"]),
        ({"vary": {"lr": {"x": {"erase.esd.lrr": 1.0e-5}}}}, ["tables.sweep.x: erase.esd", "unknown key 'lrr'"]),
        ({"vary": {"lr": {"x": {"score.kid_subsets": 3}}}}, ["tables.sweep.x", "'score.kid_subsets'", "grid.order"]),
        ({"vary": {"draw": {"x": {"sample.tile": 3}}}}, ["tables.sweep.x: sample.tile says nothing of a model"]),
        ({"vary": {"draw": {"x": {"sample.step": 3}}}}, ["tables.sweep.x: sample: unknown key 'step'"]),
        (
            {"vary": {"draw": {"x": {"sample.precision": "int3"}}}, "of": ["base"]},
            ["tables.sweep.x: sample.precision: 'int3' is not one of float32, bfloat16, float16, int8, int4"],
        ),
        ({"vary": {"lr": {"x": {"lr": 3}}}}, ["'lr' is no value that esd reads"]),
        ({"vary": {"lr": {"x": {"erase.esd.lr": "1e-6"}}}}, ["tables.sweep.x: erase.esd.lr", "is text", "1.0e-6"]),
        ({"vary": {"lr": {"x": {"bilevel.upper_lr": 0.1}}}}, ["'bilevel.upper_lr' is no value that esd reads"]),
        ({"vary": {"lr": {"x": {"grid.seeds": [1]}}}}, ["'grid.seeds' is no value that esd reads"]),
        ({"vary": {"o": {"x": {"grid.order": "erase"}}}, "of": ["bilevel"]}, ["no value that bilevel reads"]),
        ({"vary": {"s": {"x": {"bilevel.solver": "newton"}}}, "of": ["bilevel"]}, ["'newton'", "solvers", "penalty"]),
        (
            {"vary": {"s": {"x": PENALTY | {"bilevel.inner_steps": 0}}}, "of": ["bilevel"]},
            ["tables.sweep.x: bilevel.inner_steps", "0 is less than the minimum of 1"],
        ),
        (
            {"vary": {"s": {"x": PENALTY | {"bilevel.lambda": -1.0}}}, "of": ["bilevel"]},
            ["tables.sweep.x: bilevel.lambda", "-1.0 is less than the minimum of 0"],
        ),
        ({"vary": {"lr": {150: {}}}}, ["tables.sweep.vary.lr", "150", "in quotes"]),
        ({"vary": {"lr": {"a b": {}}}}, ["tables.sweep.vary.lr", "'a b'", "letters, digits"]),
        ({"vary": {"lr": {"x": {1: 3}}}}, ["tables.sweep.vary.lr.x", "1", "quotes"]),
        (
            {"vary": {"a": {"x": {"erase.esd.lr": 0.1}}, "b": {"y": {"erase.esd.lr": 0.2}}}},
            ["tables.sweep.vary: axes a and b both set erase.esd.lr"],
        ),
        (
            {"vary": {"a": {"x": {"grid.order": "erase", "distill.lr": 0.1}}}},
            ["tables.sweep.x: distill.lr has no say in order erase"],
        ),
        ({"seeds": [0, 0]}, ["tables.sweep.seeds"]),
        ({"budgets": [80]}, ["tables.sweep.budgets.0", "80"]),
    ],
)
def test_a_wrong_table_is_refused(own, words):
    with pytest.raises(UserError) as found:
        options.validate(table(**own))
    text = str(found.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize("name", ["style", "esd", "sweep_paired", "sweep_matrix"])
def test_a_table_must_not_take_the_name_of_something_else(name):
    values = table()
    values["tables"][name] = values["tables"].pop("sweep")
    with pytest.raises(UserError, match=f"tables.{name}: is the name of another"):
        options.validate(values)


@pytest.mark.parametrize("axis", ["budget", "fid", "ua_hi"])
def test_an_axis_must_not_take_the_name_of_a_column(axis):
    with pytest.raises(UserError, match=f"tables.sweep.vary.{axis}: is the name of a column"):
        options.validate(table(vary={axis: {"x": {}}}))


def test_names_of_measures_are_those_of_the_report():
    from lethe.measuring.measures import METRICS
    from lethe.report.columns import PAIRED, SPENT

    assert set(variation.MEASURES) == set(METRICS)
    assert {*PAIRED, *SPENT} <= variation.TAKEN
