"""Section `attacks`: what is planned, what counts, and what is refused before the first job."""

import copy

import pytest

from lethe.experiment import plan, tried
from lethe.files.errors import UserError
from lethe.params import options
from tests import experiments

TRIED = {
    "finish": {"attack": "completion", "strength": 0.5, "text": "empty"},
    "few": {"attack": "relearn", "source": "concepts", "count": 2, "rank": None, "steps": 5, "batch": 2, "lr": 1.0e-4},
    "benign": {"attack": "relearn", "source": "data", "count": None, "rank": 2, "steps": 5, "batch": 2, "lr": 1.0e-4},
    "other_words": {"attack": "prompts", "files": {"monet": "words.csv"}, "provenance": "a test"},
    "leak": {"attack": "mask_leak", "estimate": "dense", "rank": 1, "rounds": 1, "scale": 1.0},
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_base, tiny_pictures):
    root = tmp_path_factory.mktemp("tried")
    values = experiments.write(root, tiny_base, tiny_pictures)
    experiments.write_prompts(root / "words.csv", 2, 900, "monet")
    values["grid"]["arms"] = ["base", "distill", "esd", "conceptprune", "bilevel"]
    values["attacks"] |= {"arms": ["distill", "conceptprune"], "tables": ["solvers"], "tried": TRIED}
    return root, values


@pytest.fixture
def params(planned, monkeypatch) -> dict:
    monkeypatch.chdir(planned[0])
    return copy.deepcopy(planned[1])


def attacked(found):
    return [row for row in found.rows if row["attack"]]


def test_each_attacked_run_has_a_row_for_each_attack_that_applies_behind_its_own(params):
    found = plan.build(params)
    labels = {}
    for row in attacked(found):
        labels.setdefault((row["arm"], row["table"], *row["labels"].values()), []).append(row["attack"])
    without = [label for label in TRIED if label != "leak"]
    assert labels.pop(("distill", None)) == without
    assert labels.pop(("conceptprune", None)) == list(TRIED)
    assert set(labels) == {("bilevel", "solvers", label) for label in params["tables"]["solvers"]["vary"]["solver"]}
    assert all(own == without for own in labels.values())
    at = [index for index, row in enumerate(found.rows) if row["arm"] == "conceptprune"]
    assert [found.rows[index]["attack"] for index in at] == [None, *TRIED]
    assert at == list(range(at[0], at[0] + 6))


def test_rows_without_attacks_and_all_other_results_stay_what_they_are(params):
    found = plan.build(params)
    before = plan.build(params | {"attacks": params["attacks"] | {"arms": [], "tables": []}})
    assert [row for row in found.rows if not row["attack"]] == before.rows
    fresh = [found.nodes[name] for name in found.nodes.keys() - before.nodes.keys()]
    assert {node.stage for node in fresh} == {"attack", "score"}
    assert before.nodes.keys() <= found.nodes.keys()


def test_pictures_under_attack_and_their_scores_are_of_the_erased_concepts_alone(params):
    found = plan.build(params)
    row = next(row for row in attacked(found) if row["arm"] == "conceptprune" and row["attack"] == "finish")
    drawn, scored = found.nodes[row["samples"]], found.nodes[row["metrics"]]
    assert (drawn.stage, drawn.kind, scored.stage) == ("attack", "samples", "score")
    assert drawn.folder.parts[:4] == ("results", "smoke", "samples", "conceptprune")
    assert drawn.folder.name == f"b080-all-s0-finish-{drawn.recipe}"
    own = {role for role in scored.parents if role.startswith("prompts:")}
    assert own == {role for role in drawn.parents if role.startswith("prompts:")} == {"prompts:monet"}
    plain = next(one for one in found.rows if one["arm"] == "conceptprune" and not one["attack"])
    assert scored.parents["reference"].recipe == found.nodes[plain["metrics"]].parents["reference"].recipe
    assert drawn.parents["model"].folder == found.nodes[plain["weights"][-1]].folder
    base = next(one for one in found.rows if one["arm"] == "base")
    assert drawn.parents["originals"].folder == found.nodes[base["samples"]].folder


@pytest.mark.parametrize(
    ("label", "roles"),
    [
        ("finish", {"originals"}),
        ("few", {"concept:monet"}),
        ("benign", {"data"}),
        ("other_words", {"file:monet"}),
        ("leak", set()),
    ],
)
def test_an_attack_reads_what_it_says_and_no_more(params, label, roles):
    found = plan.build(params)
    row = next(row for row in attacked(found) if (row["arm"], row["attack"]) == ("conceptprune", label))
    assert set(found.nodes[row["samples"]].parents) == {"base", "model", "prompts:monet"} | roles


def test_an_option_changes_its_own_attack_alone(params):
    before = plan.build(params)
    params["attacks"]["tried"]["finish"]["strength"] = 0.6
    fresh = plan.build(params).nodes.keys() - before.nodes.keys()
    assert fresh and all("-finish-" in name for name in fresh)
    params["attacks"]["tried"]["again"] = params["attacks"]["tried"].pop("finish")
    again = plan.build(params)
    recipes = {node.recipe for node in again.nodes.values()}
    assert {name.rpartition("-")[2] for name in fresh} <= recipes, "a label is no part of a recipe"


def test_the_base_and_the_pruned_model_can_be_attacked(params):
    params["grid"]["arms"].append("pruned")
    params["attacks"] |= {"arms": ["base", "pruned"], "tables": []}
    found = plan.build(params)
    rows = {(row["arm"], row["attack"]): found.nodes[row["samples"]] for row in attacked(found)}
    assert "model" not in rows["base", "finish"].parents and "model" in rows["pruned", "finish"].parents
    assert rows["base", "finish"].folder.name.startswith("base-all-finish-")


def test_zeros_are_sought_only_where_an_eraser_leaves_them_for_good(params):
    assert tried.applies(params, "leak", "conceptprune") and not tried.applies(params, "leak", "esd")
    assert not tried.applies(params, "leak", "bilevel") and tried.applies(params, "finish", "bilevel")
    params["grid"]["order"] = "prune_erase_distill"  # training moves every zero
    assert not tried.applies(params, "leak", "conceptprune")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"arms": ["esd", "uce"]}, "attacks.arms: 'uce' is not one of the grid's arms: base, distill, esd"),
        ({"tables": ["plugins"]}, "attacks.tables: 'plugins' is not one of the tables: solvers"),
        ({"prompts": 0}, "attacks.prompts: 0 is less than the minimum of 1"),
        ({"tried": {"x": {"attack": "magic"}}}, "attacks.tried.x.attack: 'magic' is not one of the attacks: .*relearn"),
        ({"tried": {"x": {"strength": 0.5}}}, "attacks.tried.x: missing key 'attack'"),
        ({"tried": {"x": {"attack": "prompts", "files": {"a": "a.csv"}}}}, "attacks.tried.x: missing key 'provenance'"),
        (
            {"tried": {"x": TRIED["finish"] | {"steps": 3}}},
            "attacks.tried.x: unknown key 'steps'; known keys: strength",
        ),
        ({"tried": {"x-y": TRIED["finish"]}}, "attacks.tried: the name 'x-y' is not made of lower-case letters"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(params, change, text):
    with pytest.raises(UserError, match=text):
        options.validate(params | {"attacks": params["attacks"] | change})


def test_what_only_the_files_tell_is_refused_when_planned(params):
    params["attacks"]["prompts"] = 3
    with pytest.raises(UserError, match=r"attacks.prompts: \S+monet.csv: has 2 prompts, 3 are to be attacked; lower"):
        plan.build(params)
    params["attacks"]["prompts"] = 2
    own = params["attacks"]["tried"]["other_words"]["files"]
    own["monet"] = "nowhere.csv"
    with pytest.raises(UserError, match=r"attacks.tried.other_words.files: nowhere.csv: no such prompt file"):
        plan.build(params)
    del own["monet"]
    own["picasso"] = "words.csv"
    with pytest.raises(UserError, match=r"attacks.tried.other_words.files: none of monet; give each erased concept"):
        plan.build(params)
