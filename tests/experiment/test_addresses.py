"""Addresses change exactly where a value counts, and nowhere else."""

import copy
import shlex
from pathlib import Path

import pytest

from lethe.experiment import absent, plan
from lethe.experiment.graph import Node, Plan, arguments, made_marker
from lethe.files.io import digest, is_finished, write_json
from lethe.params import registry, rules
from lethe.params.recipe import recipe


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


@pytest.mark.parametrize("key", ["descriptor", "lpips"])
def test_a_network_that_is_not_there_is_told_and_makes_scores_anew_when_it_comes(params, root, monkeypatch, key):
    before = plan.build(params)
    params["score"][key] = "models/later"
    without = plan.build(params)
    assert before.lacking == {} and list(without.lacking) == [key]
    assert new(before, without) == {"metrics"}
    monkeypatch.setattr(absent, "split", lambda score: (score, {}))
    (root / "models/later").mkdir(exist_ok=True)
    assert new(without, plan.build(params)) == {"metrics"}


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


def test_a_pruner_that_looks_at_pictures_has_them_as_a_parent(params):
    params["prune"] |= {"pruner": "taylor", "stride": 2}
    (node,) = (node for node in plan.build(params).nodes.values() if node.stage == "prune")
    assert node.parents["data"].stage == "encode" and "--data" in arguments(node)


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


def test_a_plug_ins_version_changes_its_results_and_what_follows_alone(params, monkeypatch):
    params["grid"]["arms"] = ["base", "pruned", "distill", "bilevel", "esd", "uce"]
    before = plan.build(params)
    assert registry.version("erasers", "uce", params["erase"]["uce"]) == 1
    monkeypatch.setattr(registry, "version", lambda package, name, _: 2 if (package, name) == ("erasers", "uce") else 1)
    assert new(before, plan.build(params)) == {"uce", "samples", "metrics"}
    monkeypatch.setattr(registry, "version", lambda package, name, _: 2 if package == "suppressions" else 1)
    assert new(before, plan.build(params)) == {"bilevel", "samples", "metrics"}
    monkeypatch.setattr(registry, "version", lambda package, name, _: 2 if package == "pruners" else 1)
    assert new(before, plan.build(params)) == {"pruned", "distill", "bilevel", "esd", "uce", "samples", "metrics"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", 1),
        ("VERSION = 3", 3),
        ("VERSION: int = 2", 2),
        ('VERSION = {"variant": {"u": 2}}', 2),
        ('VERSION = {"variant": {"x": 2}}', 1),
    ],
)
def test_a_plug_ins_version_is_read_without_importing_it(line, wanted, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(f"import nothing_like_it\n{line}\n")
    monkeypatch.setattr(registry, "folder", lambda package: tmp_path)
    assert registry.version("erasers", "mine", {"variant": "u"}) == wanted


def test_an_option_that_came_later_moves_nothing_at_its_former_value(params, monkeypatch):
    """A new option of UCE and of an attack: results that were made without it keep their addresses."""
    params["grid"]["arms"] = ["base", "pruned", "distill", "bilevel", "esd", "uce"]
    before, true = plan.build(params), rules.options_of
    later = {"later": {"type": "string", "default": "new", "former": "old"}}

    def with_later(package, name):
        return true(package, name) | (later if (package, name) == ("erasers", "uce") else {})

    monkeypatch.setattr(rules, "options_of", with_later)
    params["erase"]["uce"]["later"] = "old"
    same = plan.build(params)
    assert (same.nodes.keys(), same.recipe) == (before.nodes.keys(), before.recipe)
    params["erase"]["uce"]["later"] = "new"
    changed = plan.build(params)
    assert new(before, changed) == {"uce", "samples", "metrics"} and changed.recipe != before.recipe
    own = {"attack": "relearn", "options": {"steps": 1, "later": "old"}}
    monkeypatch.setattr(rules, "options_of", lambda package, name: later)
    without = own | {"options": {"steps": 1}}
    assert recipe("attack", 1, own, {}) == recipe("attack", 1, without, {})
    assert recipe("attack", 1, own | {"options": {"steps": 1, "later": "new"}}, {}) != recipe("attack", 1, without, {})


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"technique": "replace", "debias": None}, 1),
        ({"technique": "tensor", "debias": None}, 2),
        ({"technique": "replace", "debias": {"step": 0.1}}, 3),
        ({"technique": "tensor", "debias": {"step": 0.1}}, 3),
    ],
)
def test_a_version_may_hang_on_several_options(values, wanted, monkeypatch):
    found = {"technique": {"tensor": 2}, "debias": {"*": 3}}
    monkeypatch.setattr(registry, "literal", lambda package, name, which, default: found)
    assert registry.version("erasers", "mine", values) == wanted


def test_a_version_that_was_not_raised_is_in_no_recipe():
    facts = {"stage": "erase", "version": 2, "options": {"eraser": "sld"}, "parents": {"base": "b"}}
    assert recipe("erase", 2, {"eraser": "sld"}, {"base": "b"}) == digest(facts)


def test_a_version_that_was_raised_is_part_of_the_recipe(monkeypatch):
    monkeypatch.setattr(registry, "version", lambda package, name, values: {"erasers": 3}[package])
    facts = {"stage": "erase", "version": 2, "options": {"eraser": "sld"}, "parents": {"base": "b"}}
    assert recipe("erase", 2, {"eraser": "sld"}, {"base": "b"}) == digest(facts | {"plugins": {"erasers": 3}})


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
