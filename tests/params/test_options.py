"""A wrong params file is refused in one line that names the key, what is legal, and what to do."""

import copy
from pathlib import Path

import pytest
import yaml

from lethe.files.errors import UserError
from lethe.params import options, registry

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "params.yaml").read_text())
FILES = ["params.yaml", *sorted(f"params/{path.name}" for path in (ROOT / "params").glob("*.yaml"))]


def changed(key: str, value: object) -> dict:
    """The default experiment with one value set ("grid.seeds"); a value of KeyError deletes the key."""
    values = copy.deepcopy(DEFAULT)
    *folders, last = key.split(".")
    section = values
    for folder in folders:
        section = section[folder]
    if value is KeyError:
        del section[last]
    else:
        section[last] = value
    return values


def refusal(values: object) -> str:
    with pytest.raises(UserError) as found:
        options.validate(values)
    text = str(found.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", FILES)
def test_every_params_file_is_legal(name):
    assert options.load(ROOT / name)["grid"]["arms"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sampel", {}, ["params", "unknown key 'sampel'", "sample"]),
        ("distill.learning_rate", 1e-4, ["distill", "unknown key 'learning_rate'", "lr"]),
        ("bilevel.uper_every", 10, ["bilevel", "unknown key 'uper_every'", "upper_every"]),
        ("erase.esd.step", 10, ["erase.esd", "unknown key 'step'", "steps"]),
        ("concepts.monet.promt", "x", ["concepts.monet", "unknown key 'promt'"]),
        ("concepts", KeyError, ["params", "missing key 'concepts' (what can be erased)"]),
        ("grid.sets", KeyError, ["grid", "missing key 'sets' (concepts erased together, by name)"]),
        ("erase.uce.preserve", KeyError, ["erase.uce", "missing key 'preserve' (prompts that must stay"]),
        ("distill", None, ["distill", "None is not of type object"]),
        ("concepts.monet.prompts", KeyError, ["concepts.monet", "missing key 'prompts'"]),
        ("distill.lr", "1e-6", ["distill.lr", "1e-6", "is text", "1.0e-6"]),
        ("distill.steps", "many", ["distill.steps", "'many'", "integer"]),
        ("distill.steps", 2.5, ["distill.steps", "2.5", "integer"]),
        ("distill.steps", 600.0, ["distill.steps", "600.0", "integer"]),
        ("grid.seeds", [0.0], ["grid.seeds", "0.0", "integer"]),
        ("erase.esd.reuse", 26, ["erase.esd.reuse", "26 is more than sampler_steps (25)"]),
        ("base.resolution", 512.0, ["base.resolution", "512.0", "integer"]),
        ("distill.steps", 0, ["distill.steps", "0", "minimum"]),
        ("distill.lr", 0, ["distill.lr", "0"]),
        ("distill.lr", 2, ["distill.lr", "2", "maximum"]),
        ("distill.precision", "half", ["distill.precision", "'half'", "float32", "bfloat16"]),
        ("sample.sampler", "euler", ["sample.sampler", "'euler'", "ddim"]),
        ("sample.guidance", 0.5, ["sample.guidance", "0.5"]),
        ("encode.flip", "yes", ["encode.flip", "'yes'", "boolean"]),
        ("experiment", "My Experiment", ["experiment", "My Experiment"]),
        ("experiment", "../elsewhere", ["experiment", "../elsewhere"]),
        ("concepts", {}, ["concepts"]),
        ("concepts", {"Monet": DEFAULT["concepts"]["monet"]}, ["Monet"]),
        ("base.path", None, ["base.path", "None", "string"]),
        ("grid.budgets", [1.0], ["grid.budgets.0", "1.0"]),
        ("grid.budgets", [0], ["grid.budgets.0", "0"]),
        ("grid.budgets", [80], ["grid.budgets.0", "80"]),
        ("grid.budgets", [], ["grid.budgets"]),
        ("grid.seeds", [0, 0], ["grid.seeds"]),
        ("grid.seeds", [-1], ["grid.seeds.0", "-1"]),
        ("grid.arms", ["distill", "ecd"], ["grid.arms", "'ecd'", "esd", "bilevel"]),
        ("grid.arms", ["base", "bilevel"], ["grid.arms", "'distill'"]),
        ("grid.sets", {"all": ["manet"]}, ["grid.sets.all", "'manet'", "monet"]),
        ("erase", {}, ["erase.uce", "missing key 'preserve'"]),
        ("erase.ecd", {}, ["'ecd'", "erasers", "esd"]),
        ("bilevel.solver", "alternating", ["bilevel.solver", "'alternating'", "solvers", "alternate", "penalty"]),
        ("bilevel.suppression", "none", ["bilevel.suppression", "'none'", "suppressions", "negative_guidance"]),
        ("prune.pruner", "l3", ["prune.pruner", "'l3'", "pruners", "magnitude", "taylor"]),
        ("bilevel.eta", -1.0, ["bilevel.eta", "-1.0", "minimum"]),
        ("bilevel.upper_reuse", 26, ["bilevel.upper_reuse", "26 is more than upper_sampler_steps (25)"]),
        ("bilevel.upper_every", 601, ["bilevel.upper_every: 601 is more than distill.steps (600): no upper step"]),
        ("erase.esd.states", "student", ["erase.esd.reuse: 5 does not go with states student; set 1"]),
        ("erase.esd.states", KeyError, ["student; set 1, or another erase.esd.states: that is its default"]),
        (
            "erase.esd",
            {"reuse": 60, "states": "frozen"},
            ["60 is more than sampler_steps (50); set erase.esd.sampler_steps"],
        ),
        (
            "bilevel",
            {"upper_sampler_steps": 4},
            ["bilevel.upper_reuse: 5 is more than", "(4); set upper_reuse to at most 4"],
        ),
        (
            "distill",
            {"steps": 5},
            ["bilevel.upper_every: 10 is more than distill.steps (5): no upper step; set it to at"],
        ),
        (
            "bilevel",
            {"solver": "penalty", "upper_every": 2},
            ["unknown key 'upper_every'; known keys: away_from", "pull"],
        ),
        ("erase.uce.preserve", [3], ["erase.uce.preserve", "3"]),
        ("concepts.monet.pictures", "", ["concepts.monet.pictures"]),
        ("concepts.monet.prompt", " ", ["concepts.monet.prompt", "not made of a text"]),
        ("distill.steps", None, ["distill.steps", "optimiser steps"]),
        ("grid.order", "sideways", ["grid.order", "'sideways'", "distill_erase", "erase_distill"]),
        ("erase.esd.variant", "y", ["erase.esd.variant", "'y'", "x-strict"]),
    ],
)
def test_a_wrong_value_is_named(key, value, words):
    text = refusal(changed(key, value))
    assert [word for word in words if word not in text] == [], text


def test_training_without_any_loss_is_refused():
    values = changed("distill.w_diff", 0)
    values["distill"] |= {"w_out": 0, "w_feat": 0}
    assert "w_diff" in refusal(values)


def test_what_would_be_lost_in_an_order_is_refused():
    values = changed("grid.order", "erase_prune_distill")
    values["prune"] |= {"pruner": "random_init", "draw": 0}
    assert "random_init brings weights of its own" in refusal(values)
    values = changed("grid.order", "erase_distill")
    values["erase"]["conceptprune"]["layers"] = "text"
    assert "text edits the text encoder, so it must come last" in refusal(values)


def test_an_empty_file_is_refused():
    assert refusal(None).startswith("params: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("distill:\n  lr: 1.0e-4\n  lr: 1.0e-5\n", ["line 3", "'lr'", "twice"]),
        ("distill: {lr: .nan}\n", ["line 1", "lr", "not a finite number"]),
        ("distill: {w_out: -.inf}\n", ["w_out", "not a finite number"]),
        ("distill: {lr: 1.0e-4\n", ["not valid YAML", "line"]),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as found:
        options.load(path)
    assert "\n" not in str(found.value)
    assert [word for word in ["own.yaml", *words] if word not in str(found.value)] == [], found.value


def test_a_folder_or_a_list_is_no_params_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read as a params file"):
        options.load(tmp_path)
    (tmp_path / "own.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"own\.yaml: holds no sections"):
        options.load(tmp_path / "own.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"own\.yaml: no such params file"):
        options.load(tmp_path / "own.yaml")


def test_a_file_beside_the_default_experiment_says_what_differs_and_that_alone():
    """Its values are those of params.yaml but for these; what changes there changes here."""
    apart = {
        "attacks": {"grid", "tables", "attacks"},
        "deployment": {"grid", "tables"},
        "full": {"tables"},
        "seeds": {"grid", "tables"},
        "smoke": {"tables", "encode", "distill", "bilevel", "erase", "sample", "attacks", "score", "report"},
        "tuning": {"concepts", "prompts", "grid", "tables", "erase"},
        "unsafe": {"pictures", "concepts", "grid", "tables", "erase", "score"},
    }
    for name, sections in apart.items():
        found = options.load(ROOT / f"params/{name}.yaml")
        assert {key for key in DEFAULT if found[key] != DEFAULT[key]} == {"experiment", *sections}, name
        lines = (ROOT / f"params/{name}.yaml").read_text().splitlines()
        assert len(lines) <= 60 or name in ("full", "tuning"), name  # which are tables of their own


def test_tables_that_show_our_solver_show_the_same_one():
    full, seeds, deployment = (options.load(ROOT / f"params/{name}.yaml") for name in ("full", "seeds", "deployment"))
    rows = DEFAULT["tables"]["solvers"]["vary"]["solver"]
    assert seeds["tables"]["ours"]["vary"]["solver"] == rows
    assert full["tables"]["suppressions"]["vary"]["suppression"]["every_step_redirect"] == rows["ours"]
    assert deployment["tables"]["deployment_ours"]["vary"]["solver"]["ours"] == rows["ours"]
    assert set(seeds["grid"]["arms"]) == {"base", "pruned", "distill", "bilevel", *registry.names("erasers")}


def test_deployment_changes_nothing_but_how_pictures_are_drawn():
    own = options.load(ROOT / "params/deployment.yaml")
    assert own["grid"] == DEFAULT["grid"] | {"arms": own["grid"]["arms"]}
    labels = own["tables"]["deployment"]["vary"]["drawn"]
    assert {key for values in labels.values() for key in values} == {
        "sample.precision", "sample.sampler", "sample.steps",
    }  # fmt: skip
