"""Addresses change exactly where a value counts, and nowhere else."""

import copy
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lethe import plan, registry
from lethe.errors import UserError
from lethe.graph import Node, Plan, arguments, made_marker
from lethe.io import is_finished, write_json
from tests import experiments


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_base, tiny_pictures):
    root = tmp_path_factory.mktemp("plan")
    return root, experiments.write(root, tiny_base, tiny_pictures) | {"tables": {}}


@pytest.fixture
def root(planned, monkeypatch) -> Path:
    monkeypatch.chdir(planned[0])
    return planned[0]


@pytest.fixture
def params(planned, root) -> dict:
    return copy.deepcopy(planned[1])


def stages_of(nodes: set[str], found: Plan) -> set[str]:
    return {found.nodes[name].arm if found.nodes[name].kind == "weights" else found.nodes[name].kind for name in nodes}


def new(before: Plan, after: Plan) -> set[str]:
    """Arms of weights, and other kinds, that have an address they had not."""
    return stages_of(after.nodes.keys() - before.nodes.keys(), after)


def test_every_run_of_the_grid_is_a_row(params):
    params["grid"] |= {"budgets": [0.8, 0.55], "seeds": [0, 1], "sets": {"all": ["monet", "picasso"], "one": ["monet"]}}
    params["grid"]["arms"] = ["base", "pruned", "distill", "bilevel", "esd"]
    found = plan.build(params)
    count = {arm: sum(row["arm"] == arm for row in found.rows) for arm in params["grid"]["arms"]}
    assert count == {"base": 2, "pruned": 4, "distill": 8, "bilevel": 8, "esd": 8}
    assert len({row["metrics"] for row in found.rows}) == len(found.rows)
    assert {row["samples"] for row in found.rows} | {row["metrics"] for row in found.rows} <= set(found.nodes)
    chains = {row["arm"]: [found.nodes[folder].arm for folder in row["weights"]] for row in found.rows}
    assert chains == {
        "base": [],
        "pruned": ["pruned"],
        "distill": ["pruned", "distill"],
        "bilevel": ["pruned", "bilevel"],
        "esd": ["pruned", "distill", "esd"],
    }
    assert sum(node.kind == "samples" for node in found.nodes.values()) == 1 + 2 + 4 + 8 + 8  # no set: sampled once


def test_scores_refer_to_the_distilled_model_of_their_budget_and_seed(params):
    params["grid"] |= {"budgets": [0.8, 0.55], "seeds": [0, 1]}
    found = plan.build(params)
    by_key = {(row["arm"], row["budget"], row["seed"]): found.nodes[row["metrics"]] for row in found.rows}
    for (arm, budget, seed), node in by_key.items():
        reference = node.parents.get("reference")
        if arm == "distill":
            assert reference is None
        else:
            assert reference.folder == by_key["distill", budget or 0.8, seed or 0].folder


def test_planning_twice_gives_the_same_plan(params):
    assert plan.build(params).as_json() == plan.build(copy.deepcopy(params)).as_json()


@pytest.mark.parametrize(
    ("section", "key", "value", "changed"),
    [
        ("sample", "steps", 3, {"samples", "metrics"}),
        ("score", "kid_subsets", 3, {"metrics"}),
        ("report", "bootstrap", 21, set()),
        ("bilevel", "upper_lr", 3.0e-3, {"bilevel", "samples", "metrics"}),
        ("bilevel", "upper_every", 2, {"bilevel", "samples", "metrics"}),
        ("distill", "lr", 1.0e-3, {"distill", "bilevel", "esd", "samples", "metrics"}),
        ("prune", "keep_least", 0.3, {"pruned", "distill", "bilevel", "esd", "samples", "metrics"}),
        ("encode", "flip", True, {"encode", "distill", "bilevel", "esd", "samples", "metrics"}),
        ("encode", "generated", 5, set()),
        ("base", "resolution", 16, {"encode", "pruned", "distill", "bilevel", "esd", "samples", "metrics"}),
    ],
)
def test_a_value_changes_what_it_counts_for_and_what_follows(params, section, key, value, changed):
    before, old = plan.build(params), params[section][key]
    params[section][key] = value
    after = plan.build(params)
    assert new(before, after) == changed
    assert after.stamp != before.stamp
    params[section][key] = old
    assert plan.build(params).as_json() == before.as_json()


def test_an_erasers_value_changes_its_arm_alone(params):
    before = plan.build(params)
    params["erase"]["esd"]["lr"] = 1.0e-3
    after = plan.build(params)
    fresh = after.nodes.keys() - before.nodes.keys()
    assert {after.nodes[name].arm for name in fresh} == {"esd"} and len(fresh) == 3


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


def test_a_pruner_that_looks_at_pictures_has_them_as_a_parent(params):
    params["prune"] |= {"pruner": "taylor"} | dict.fromkeys(registry.literal("pruners", "taylor", "OPTIONS"), 1)
    (node,) = (node for node in plan.build(params).nodes.values() if node.stage == "prune")
    assert node.parents["data"].stage == "encode" and "--data" in arguments(node)


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
    params["erase"]["sld"] = dict.fromkeys(registry.literal("erasers", "sld", "OPTIONS"), "medium")
    with pytest.raises(UserError, match="'sld' edits no weights, so it must come last"):
        plan.build(params)


def test_erasing_the_dense_base_is_one_result_for_all_budgets(params):
    params["grid"] |= {"budgets": [0.8, 0.5], "order": "erase"}
    found = plan.build(params)
    assert sum(node.kind == "weights" and node.arm == "esd" for node in found.nodes.values()) == 1
    recipes = [node.recipe for node in found.nodes.values()]
    assert len(set(recipes)) == len(recipes)


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("prompt", "monet", {"encode", "bilevel", "esd", "samples", "metrics"}),
        ("anchor", "a drawing", {"encode", "bilevel", "esd", "samples", "metrics"}),
        ("neighbours", [], {"metrics"}),
    ],
)
def test_a_concepts_value_changes_who_reads_it(params, key, value, changed):
    before = plan.build(params)
    params["concepts"]["monet"][key] = value
    assert new(before, plan.build(params)) == changed


def test_more_of_the_grid_keeps_every_address(params):
    before = plan.build(params)
    params["grid"]["seeds"].append(1)
    params["grid"]["budgets"].append(0.55)
    params["grid"]["sets"]["two"] = ["monet", "picasso"]
    after = plan.build(params)
    assert before.nodes.keys() < after.nodes.keys()


def test_order_in_the_file_is_no_part_of_a_recipe(params):
    params["grid"]["sets"]["all"] = ["monet", "van_gogh"]
    before = plan.build(params)
    params["grid"]["sets"]["all"].reverse()
    params["concepts"] = dict(reversed(params["concepts"].items()))
    params["distill"] = dict(reversed(params["distill"].items()))
    after = plan.build(params)
    assert before.nodes.keys() == after.nodes.keys()
    words = {name: sorted(arguments(node)) for name, node in before.nodes.items()}
    assert words == {name: sorted(arguments(node)) for name, node in after.nodes.items()}


def test_a_prompt_file_counts_by_its_bytes(params, root):
    before, path = plan.build(params), root / "prompts/atelier/retain.csv"
    text = path.read_text()
    try:
        path.write_text(text.replace("a boat", "a ship"))
        assert new(before, plan.build(params)) == {"samples", "metrics"}
    finally:
        path.write_text(text)


def test_the_base_model_counts_by_its_bytes(params, root):
    before, path = plan.build(params), root / "models/atelier/pipeline/scheduler/scheduler_config.json"
    text = path.read_text()
    try:
        path.write_text(text + "\n")
        assert not before.nodes.keys() & plan.build(params).nodes.keys()
    finally:
        path.write_text(text)


def test_a_stages_version_changes_its_results_and_what_follows(params, monkeypatch):
    from stages import distill

    before = plan.build(params)
    monkeypatch.setattr(distill, "VERSION", distill.VERSION + 1)
    assert new(before, plan.build(params)) == {"distill", "esd", "samples", "metrics"}


def test_a_concept_without_pictures_has_them_drawn_by_the_base_model(params):
    given = plan.build(params)
    params["concepts"]["monet"]["pictures"] = None
    found = plan.build(params)
    (drawn,) = (node for node in found.nodes.values() if node.key == "pictures-monet")
    (encoded,) = (node for node in found.nodes.values() if node.key == "monet" and node.kind == "encode")
    assert (drawn.stage, drawn.arm) == ("sample", "base")
    assert drawn.options["prompt"] == params["concepts"]["monet"]["prompt"]
    assert drawn.options["count"] == params["encode"]["generated"]
    assert encoded.parents["pictures"].recipe == drawn.recipe and encoded.pictures == ()
    words = arguments(encoded)
    assert words[words.index("--pictures") + 1] == str(drawn.folder) and "--make" not in words
    assert new(given, found) == {"encode", "bilevel", "samples", "metrics"}
    params["encode"]["generated"] += 1
    assert new(found, plan.build(params)) == {"encode", "bilevel", "samples", "metrics"}


def test_pictures_that_a_command_makes_count_by_the_command(params, root):
    before = plan.build(params)
    marker = made_marker(params)
    params["pictures"]["make"] += " "
    after = plan.build(params)
    assert new(before, after) == {"encode", "distill", "bilevel", "esd", "samples", "metrics"}
    assert made_marker(params) != marker
    assert Path(marker).parent == Path(params["pictures"]["finetune"]).parent


def test_parents_come_before_children(params):
    seen = set()
    for name, node in plan.build(params).nodes.items():
        assert {str(parent.folder) for parent in node.parents.values() if isinstance(parent, Node)} <= seen
        seen.add(name)


def test_a_finished_result_is_known_by_its_planned_recipe(params, tmp_path):
    node = next(node for node in plan.build(params).nodes.values() if node.stage == "prune")
    write_json(tmp_path / "done" / "meta.json", {"recipe": node.recipe})
    assert is_finished(tmp_path / "done", node.folder.name.rpartition("-")[2])


def test_a_command_survives_the_shell(params):
    params["concepts"]["monet"]["prompt"] = "a $painting by 'monet' \"and\" {others}; *"
    for node in plan.build(params).nodes.values():
        assert shlex.split(shlex.join(arguments(node))) == arguments(node)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("base", "path"), "models/nowhere/at/all", ["base.path", "models/nowhere/at/all", "no such folder"]),
        (("base", "path"), "owner/model", ["base.path", "owner/model", "revision", "40 hex digits"]),
        (("base", "path"), "prompts", ["base.path", "prompts", "model_index.json"]),
        (("concepts", "monet", "prompts"), "prompts/manet.csv", ["concepts.monet.prompts", "prompts/manet.csv"]),
        (("prompts", "eval"), "prompts/evil.csv", ["prompts.eval", "prompts/evil.csv"]),
        (("pictures", "make"), None, ["pictures.make is null", "data/atelier"]),
        (("score", "clip"), "local-dir:models/clop", ["clip", "models/clop", "no such folder"]),
        (("score", "features"), "models/atelier/judges/features", ["features", "no such folder"]),
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
        (("score", "judges", "style"), "models/typo", "score.judges.style: models/typo: no such folder"),
        (("score", "judges", "content"), "owner/name@main", "OWNER/NAME@40 hex digits"),
        (("score", "clip"), "ViT-B-32", "score.clip: 'ViT-B-32' is neither"),
        (("score", "features"), "somewhere", "score.features: somewhere: no such folder"),
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


def test_a_tables_row_is_compared_with_the_grids_arm_distill(params):
    plain = {"plain": {"distill.w_feat": 0.0}}
    params["tables"] = {"losses": sweep(of=["distill", "bilevel"], vary={"loss": plain})}
    found = plan.build(params)
    (distill,) = (row for row in found.rows if row["arm"] == "distill" and not row["table"])
    for row in (row for row in found.rows if row["table"]):
        assert str(found.nodes[row["metrics"]].parents["reference"].folder) == distill["metrics"]
        assert row["weights"] != distill["weights"]
