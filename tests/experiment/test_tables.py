"""Rows of tables and orders of steps: what they share, and what they are compared with."""

import pytest

from lethe.experiment import plan
from lethe.experiment.graph import arguments
from lethe.files.errors import UserError


def sweep(**own) -> dict:
    values = {"same": {}, "other": {"erase.esd.lr": 1.5e-3}}
    return {"of": ["esd"], "budgets": None, "seeds": None, "vary": {"lr": values}} | own


def test_a_tables_row_is_one_more_run_and_the_same_value_the_same_result(params):
    before = plan.build(params)
    params["tables"] = {"sweep": sweep()}
    after = plan.build(params)
    assert after.rows[: len(before.rows)] == before.rows
    (esd,) = (row for row in before.rows if row["arm"] == "esd")
    same, other = after.rows[len(before.rows) :]
    assert same == esd | {"table": "sweep", "labels": {"lr": "same"}}
    assert (other["table"], other["labels"], other["arm"]) == ("sweep", {"lr": "other"}, "esd")
    assert other["weights"][:-1] == esd["weights"][:-1]
    fresh = [after.nodes[name] for name in after.nodes.keys() - before.nodes.keys()]
    assert {(node.arm, node.kind) for node in fresh} == {("esd", kind) for kind in ("weights", "samples", "metrics")}
    assert next(node.options["lr"] for node in fresh if node.kind == "weights") == 1.5e-3


def test_a_table_has_budgets_and_seeds_of_its_own(params):
    params["tables"] = {"sweep": sweep(of=["distill", "bilevel"], budgets=[0.7, 0.6], seeds=[5], vary={"x": {"a": {}}})}
    rows = [row for row in plan.build(params).rows if row["table"]]
    assert [(row["arm"], row["budget"], row["seed"]) for row in rows] == [
        ("distill", 0.7, 5),
        ("distill", 0.6, 5),
        ("bilevel", 0.7, 5),
        ("bilevel", 0.6, 5),
    ]


def test_rows_of_a_table_share_what_they_can(params):
    """Two pruners, three arms: two pruned nets, two distilled ones, and every picture set once."""
    before = plan.build(params)
    pruners = {"magnitude": {}, "random": {"prune.pruner": "random", "prune.draw": 0}}
    params["tables"] = {"plugins": sweep(of=["distill", "bilevel", "esd"], vary={"pruner": pruners})}
    after = plan.build(params)
    fresh = [after.nodes[name] for name in after.nodes.keys() - before.nodes.keys()]
    count = {kind: sum(node.kind == kind for node in fresh) for kind in ("encode", "weights", "samples", "metrics")}
    assert count == {"encode": 0, "weights": 4, "samples": 3, "metrics": 3}


def test_a_tables_row_is_compared_with_the_grids_arm_distill(params):
    plain = {"plain": {"distill.w_feat": 0.0}}
    params["tables"] = {"losses": sweep(of=["distill", "bilevel"], vary={"loss": plain})}
    found = plan.build(params)
    (distill,) = (row for row in found.rows if row["arm"] == "distill" and not row["table"])
    for row in (row for row in found.rows if row["table"]):
        assert str(found.nodes[row["metrics"]].parents["reference"].folder) == distill["metrics"]
        assert row["weights"] != distill["weights"]


def drawn_otherwise(*arms: str) -> dict:
    few = {"sample.sampler": "dpmsolver++", "sample.steps": 4}
    return sweep(of=[*arms], vary={"drawn": {"as_is": {}, "int4": {"sample.precision": "int4"}, "few": few}})


def test_other_pictures_of_the_same_weights(params):
    """Two ways to draw, four arms: no weights, a picture set and scores each, compared with the grid's distill."""
    before = plan.build(params)
    params["tables"] = {"deployment": drawn_otherwise("base", "distill", "bilevel", "esd")}
    after = plan.build(params)
    fresh = [after.nodes[name] for name in after.nodes.keys() - before.nodes.keys()]
    count = {kind: sum(node.kind == kind for node in fresh) for kind in ("encode", "weights", "samples", "metrics")}
    assert count == {"encode": 0, "weights": 0, "samples": 8, "metrics": 8}
    grid = {row["arm"]: row for row in before.rows}
    rows = after.rows[len(before.rows) :]
    assert [row["labels"]["drawn"] for row in rows] == ["as_is", "int4", "few"] * 4
    for row in rows:
        own = grid[row["arm"]]
        assert row["weights"] == own["weights"] and (row["budget"], row["seed"]) == (own["budget"], own["seed"])
        assert (row["samples"] == own["samples"]) == (row["labels"]["drawn"] == "as_is")
        reference = after.nodes[row["metrics"]].parents.get("reference")
        if row["metrics"] != grid["distill"]["metrics"]:
            assert str(reference.folder) == grid["distill"]["metrics"]
    words = {" ".join(arguments(node)) for node in fresh if node.kind == "samples"}
    assert sum("--precision int4" in text and "--sampler ddim" in text for text in words) == 4
    assert sum("--steps 4" in text and "--sampler dpmsolver++" in text for text in words) == 4


def test_a_table_that_draws_otherwise_trains_on_the_same_pictures(params):
    """The base model's pictures of a concept that brings none are not drawn anew for it."""
    params["concepts"]["monet"]["pictures"] = None
    before = plan.build(params)
    params["tables"] = {"deployment": drawn_otherwise("bilevel")}
    after = plan.build(params)
    fresh = {after.nodes[name].kind for name in after.nodes.keys() - before.nodes.keys()}
    assert fresh == {"samples", "metrics"}
    assert sum(node.key == "pictures-monet" for node in after.nodes.values()) == 1


def test_a_table_with_more_steps_than_the_model_has_is_refused(params):
    params["tables"] = {"deployment": sweep(of=["base"], vary={"drawn": {"many": {"sample.steps": 2000}}})}
    with pytest.raises(UserError, match=r"tables\.deployment: sample\.steps: 2000 is more than the 1000 noise levels"):
        plan.build(params)


@pytest.mark.parametrize(
    ("order", "chain"),
    [
        ("distill_erase", ["pruned", "distill", "esd"]),
        ("erase", ["esd"]),
        ("prune_erase", ["pruned", "esd"]),
        ("prune_erase_distill", ["pruned", "esd", "distill"]),
        ("erase_prune_distill", ["esd", "pruned", "distill"]),
        ("erase_distill", ["pruned", "esd", "distill"]),
    ],
)
def test_the_order_of_steps_is_the_grids(params, order, chain):
    params["grid"]["order"] = order
    found = plan.build(params)
    (row,) = (row for row in found.rows if row["arm"] == "esd")
    nodes = [found.nodes[folder] for folder in row["weights"]]
    assert [node.arm for node in nodes] == chain
    erased = next(node for node in nodes if node.arm == "esd")
    assert ("--model" in arguments(erased)) == (chain[0] != "esd" and order != "erase_distill")
    if order.endswith("distill"):
        last = nodes[-1]
        assert (last.parents.get("teacher") is erased) == (order != "prune_erase_distill")
        assert (last.parents["pruned"] is erased) == (order == "prune_erase_distill")
        assert ("--teacher" in arguments(last)) == (order != "prune_erase_distill")
    if order == "erase_prune_distill":
        assert nodes[1].parents["model"] is erased and "--model" in arguments(nodes[1])


def test_an_eraser_that_edits_no_weights_must_come_last(params):
    params["grid"] |= {"order": "erase_distill", "arms": ["distill", "sld"]}
    params["erase"]["sld"] = {"preset": "medium"}
    with pytest.raises(UserError, match="'sld' edits no weights, so it must come last"):
        plan.build(params)


def test_erasing_the_dense_base_is_one_result_for_all_budgets(params):
    params["grid"] |= {"budgets": [0.8, 0.5], "order": "erase"}
    found = plan.build(params)
    assert sum(node.kind == "weights" and node.arm == "esd" for node in found.nodes.values()) == 1
    recipes = [node.recipe for node in found.nodes.values()]
    assert len(set(recipes)) == len(recipes)
